//! Whether the host passes packets on between its links.

use std::fs;

use crate::error::{Error, Result};

/// The setting of the network namespace of whoever opens it.
const PATH: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether it is on.
///
/// # Errors
/// [`Error::Kernel`].
pub fn get() -> Result<bool> {
    let text = fs::read_to_string(PATH).map_err(|e| Error::kernel(format!("read {PATH}"), e))?;
    Ok(text.trim() != "0")
}

/// Turns it on or off.
///
/// # Errors
/// [`Error::Kernel`].
pub fn set(on: bool) -> Result<()> {
    fs::write(PATH, if on { "1" } else { "0" })
        .map_err(|e| Error::kernel(format!("write {PATH}"), e))
}
