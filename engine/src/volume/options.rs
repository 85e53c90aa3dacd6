//! Options of the driver `local`, as far as a volume without a mount of the host's own can mean them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{DRIVER, VolumeError};

/// Where a volume's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backing {
    /// In `_data`.
    Own,
    /// In a directory of the host's, named by `type=none,o=bind,device=DIR`.
    Directory { path: PathBuf, read_only: bool },
}

impl Backing {
    /// Reads a volume's options. docker mounts them on `_data` on the host; here nothing appears in the host's mount table, so a
    /// directory is bound into instances straight away, and what is a file system of its own is refused.
    pub(crate) fn of(name: &str, options: &BTreeMap<String, String>) -> Result<Self, VolumeError> {
        let wrong = |reason: String| VolumeError::Option {
            name: name.to_owned(),
            reason,
        };
        if options.is_empty() {
            return Ok(Self::Own);
        }
        for key in options.keys() {
            match key.as_str() {
                "type" | "o" | "device" => {}
                "size" => {
                    return Err(wrong(
                        "option \"size\" is refused: it needs quotas of the file system, which plimsoll does not set".into(),
                    ));
                }
                _ => return Err(wrong(format!("invalid option: {key:?}"))),
            }
        }
        let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        for key in ["device", "type"] {
            if option(key).is_empty() {
                return Err(wrong(format!("missing required option: {key:?}")));
            }
        }
        let kind = option("type");
        if kind != "none" {
            return Err(wrong(format!(
                "option \"type={kind}\" is refused: only type=none with o=bind is supported; mount the file system on the host and name its directory, or use --tmpfs for memory"
            )));
        }
        let mut bind = false;
        let mut read_only = false;
        for word in option("o").split(',') {
            match word {
                "bind" | "rbind" => bind = true,
                "ro" => read_only = true,
                "rw" => read_only = false,
                _ => {
                    return Err(wrong(format!(
                        "option \"o={word}\" is refused: use bind, rbind, ro, rw"
                    )));
                }
            }
        }
        if !bind {
            return Err(wrong("option \"type=none\" needs \"o=bind\"".into()));
        }
        let device = option("device");
        if !device.starts_with('/') {
            return Err(wrong(format!(
                "option \"device={device}\" must be an absolute path"
            )));
        }
        Ok(Self::Directory {
            path: device.into(),
            read_only,
        })
    }
}

/// Checks that a driver is the one there is; empty means that.
///
/// # Errors
/// [`VolumeError::Driver`].
pub fn check_driver(name: &str, driver: &str) -> Result<(), VolumeError> {
    if driver.is_empty() || driver == DRIVER {
        return Ok(());
    }
    Err(VolumeError::Driver {
        name: name.to_owned(),
        driver: driver.to_owned(),
    })
}

/// Checks a volume's options.
///
/// # Errors
/// [`VolumeError::Option`].
pub fn check_options(name: &str, options: &BTreeMap<String, String>) -> Result<(), VolumeError> {
    Backing::of(name, options).map(drop)
}
