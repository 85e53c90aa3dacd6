//! A user namespace for the owners of an idmapped mount.

use std::convert::Infallible;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::launch::starting::sockets;
use crate::sys::{Fd, clone, file, process, socket};

/// A user namespace with these mappings, in the form of /proc/PID/uid_map. Nobody is in it.
pub(super) fn namespace(uid_map: &str, gid_map: &str) -> Result<OwnedFd> {
    let (ours, theirs) = sockets()?;
    let mask = process::block_signals();
    // SAFETY: `wait` makes system calls only, and ends the process.
    let child = unsafe {
        clone::clone3(libc::CLONE_NEWUSER as u64, None, libc::SIGCHLD, || {
            wait(ours.as_raw_fd(), theirs.as_raw_fd())
        })
    };
    process::restore_signals(&mask);
    let child = child
        .map_err(|errno| Error::setup("make a user namespace for an idmapped mount", errno))?;
    drop(theirs);
    let namespace = open(child.pid, uid_map, gid_map);
    // The process ends when this side closes; the namespace stays with its descriptor.
    drop(ours);
    process::wait(child.pidfd.as_raw_fd(), true)
        .map_err(|errno| Error::setup("wait for a process of this program's own", errno))?;
    namespace
}

fn open(pid: libc::pid_t, uid_map: &str, gid_map: &str) -> Result<OwnedFd> {
    for (name, map) in [("uid_map", uid_map), ("gid_map", gid_map)] {
        let path = format!("/proc/{pid}/{name}");
        fs::write(&path, map).map_err(|error| {
            Error::setup(format!("write {:?} to {path}", map.trim_end()), error)
        })?;
    }
    let path = format!("/proc/{pid}/ns/user");
    fs::File::open(&path)
        .map(OwnedFd::from)
        .map_err(|error| Error::setup(format!("open {path}"), error))
}

/// The life of the process that holds the namespace.
fn wait(others: Fd, own: Fd) -> Infallible {
    file::close(others);
    let _ = socket::receive(own, &mut [0]);
    process::exit(0)
}
