//! Stopping all tasks (admin-guide/cgroup-v1/freezer-subsystem.rst).

use std::time::{Duration, Instant};

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result};
use crate::sys::Errno;

const STATE: &str = "freezer.state";
/// A task in an uninterruptible wait freezes when the wait is over.
const PATIENCE: Duration = Duration::from_secs(10);

pub(in crate::cgroup) fn set(directory: &Directory, frozen: bool) -> Result<()> {
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let started = Instant::now();
    loop {
        // Written again each time: a task that was forked meanwhile is caught by the next write.
        directory.write(STATE, wanted)?;
        match directory.read(STATE)? {
            Some(state) if state.trim() != wanted => {}
            _ => return Ok(()),
        }
        if started.elapsed() > PATIENCE {
            directory.write(STATE, "THAWED")?;
            return Err(Error::File {
                doing: format!("reach {wanted} in"),
                path: directory.path().join(STATE),
                errno: Errno(libc::ETIMEDOUT),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(in crate::cgroup) fn is_set(directory: &Directory) -> Result<bool> {
    let state = directory.read(STATE)?.unwrap_or_default();
    Ok(matches!(state.trim(), "FROZEN" | "FREEZING"))
}
