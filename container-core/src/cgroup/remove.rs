//! Removing a cgroup, with whatever still runs in it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::directory::Directory;
use super::{Cgroup, Error, Result};
use crate::sys::Errno;

/// How long processes may take to die. A killed process that waits for a disk in the kernel does so only when the disk
/// answers; two seconds are what a person puts up with.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Kills every process in it. They end in their own time; [`Cgroup::remove`] waits for it.
    pub fn kill(&self) -> Result<()> {
        let mut done = false;
        if let Some(unified) = self.unified() {
            // Since Linux 5.14; kills the whole tree at once, so that no fork escapes.
            match unified.try_write("cgroup.kill", "1") {
                Ok(()) => done = true,
                Err(Errno(libc::ENOENT | libc::ENODEV)) => {}
                Err(errno) => {
                    return Err(Error::File {
                        doing: "write \"1\" to".to_owned(),
                        path: unified.path().join("cgroup.kill"),
                        errno,
                    });
                }
            }
        }
        if !done {
            // Nothing can fork while it is frozen; where freezing does not work, `remove` comes back for the rest.
            let frozen = self.freeze().is_ok();
            for directory in &self.made {
                kill_tree(directory)?;
            }
            if frozen {
                self.thaw()?;
            }
        } else {
            // Frozen by version 1's freezer, a process would not see its signal.
            for (directory, hierarchy) in self.v1_directories() {
                if hierarchy.has(super::Controller::Freezer) {
                    super::v1::freezer::set(directory, false)?;
                }
            }
        }
        Ok(())
    }

    /// Removes it from every hierarchy, after killing what still runs in it. Can be repeated; what is not there is fine.
    pub fn remove(self) -> Result<()> {
        let mut pending: Vec<&Directory> = self.made.iter().collect();
        let started = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let mut busy = Vec::new();
            for directory in pending {
                if !remove_tree(directory.path())? {
                    busy.push(directory);
                }
            }
            let Some(first) = busy.first() else {
                return Ok(());
            };
            if started.elapsed() > PATIENCE {
                return Err(Error::Undying {
                    path: first.path().to_owned(),
                });
            }
            self.kill()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
            pending = busy;
        }
    }
}

/// Removes a cgroup and those below it. `false` when processes are still in it.
fn remove_tree(path: &Path) -> Result<bool> {
    let failed = |errno| Error::File {
        doing: "remove".to_owned(),
        path: path.to_owned(),
        errno,
    };
    match fs::remove_dir(path).map_err(Errno::from) {
        Ok(()) | Err(Errno(libc::ENOENT | libc::ENODEV)) => return Ok(true),
        Err(Errno(libc::EBUSY | libc::ENOTEMPTY)) => {}
        Err(errno) => return Err(failed(errno)),
    }
    // Busy with processes, or with cgroups that the container has made below its own.
    let Some(directory) = Directory::open(path.to_owned())? else {
        return Ok(true);
    };
    let mut gone = true;
    for child in directory.children()? {
        gone &= remove_tree(&path.join(child))?;
    }
    if !gone {
        return Ok(false);
    }
    match fs::remove_dir(path).map_err(Errno::from) {
        Ok(()) | Err(Errno(libc::ENOENT | libc::ENODEV)) => Ok(true),
        Err(Errno(libc::EBUSY | libc::ENOTEMPTY)) => Ok(false),
        Err(errno) => Err(failed(errno)),
    }
}

fn kill_tree(directory: &Directory) -> Result<()> {
    for pid in directory.processes()? {
        // A process may have gone since, and its number to another only if 4 million more have come in between
        // (pid_max); a pidfd checked against the cgroup would close even that, at three calls a process.
        // SAFETY: no memory is passed.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    }
    for child in directory.children()? {
        if let Some(child) = Directory::open(directory.path().join(child))? {
            kill_tree(&child)?;
        }
    }
    Ok(())
}
