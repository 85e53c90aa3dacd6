//! Stopping all tasks (admin-guide/cgroup-v2.rst, "cgroup.freeze").

use std::time::{Duration, Instant};

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result};
use crate::sys::Errno;

/// A task in an uninterruptible wait freezes when the wait is over.
const PATIENCE: Duration = Duration::from_secs(10);

pub(in crate::cgroup) fn set(directory: &Directory, frozen: bool) -> Result<()> {
    directory.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
    let started = Instant::now();
    while frozen && directory.keyed("cgroup.events", "frozen")? == Some(0) {
        if started.elapsed() > PATIENCE {
            directory.write("cgroup.freeze", "0")?;
            return Err(Error::File {
                doing: "freeze".to_owned(),
                path: directory.path().to_owned(),
                errno: Errno(libc::ETIMEDOUT),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub(in crate::cgroup) fn is_set(directory: &Directory) -> Result<bool> {
    Ok(directory.number("cgroup.freeze")? == Some(1))
}
