//! The container's network namespace.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::sys::{clone, socket};

/// The calling thread's own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A new network namespace with its loopback interface up.
///
/// The calling thread makes it by going there and comes back; its other threads stay where they are. This takes as
/// long as all of the container's mounts together, and is done beside them.
pub(super) fn new_namespace() -> Result<OwnedFd> {
    let open = || File::open(OWN).map_err(|error| Error::setup(format!("open {OWN}"), error));
    let own = open()?;
    clone::unshare(libc::CLONE_NEWNET)
        .map_err(|errno| Error::setup("make a network namespace", errno))?;
    let made = open().and_then(|made| {
        socket::loopback_up()
            .map_err(|errno| Error::setup("bring the loopback interface up", errno))?;
        Ok(made)
    });
    clone::setns(own.as_raw_fd(), libc::CLONE_NEWNET)
        .map_err(|errno| Error::setup("return to the own network namespace", errno))?;
    Ok(made?.into())
}
