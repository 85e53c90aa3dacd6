//! The limits that every resident arm has, and the cgroup that gives them to the native one.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// The same for all arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Whole CPUs.
    pub(crate) cpus: u32,
    /// Bytes.
    pub(crate) memory: u64,
}

impl Limits {
    /// What a VM gets unless told otherwise (issue 2), so that every arm has it.
    pub(crate) const MEMORY: u64 = 256 << 20;
}

/// The period that shares of a CPU are counted in, µs: the kernel's own default.
const PERIOD: u32 = 100_000;

/// A cgroup of the harness, on every hierarchy that has a controller we limit. It goes with this value; one that a
/// killed harness left behind is taken over by name and removed by the next run.
pub(crate) struct Group {
    directories: Vec<PathBuf>,
    entries: Vec<Arc<File>>,
}

impl Group {
    /// Makes the group called `name` with these limits.
    ///
    /// # Errors
    /// [`Error::Io`] with the file that could not be made or written.
    pub(crate) fn make(name: &str, limits: Limits) -> Result<Self> {
        let base = Path::new("/sys/fs/cgroup");
        remove_stale(base);
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        let quota = u64::from(limits.cpus) * u64::from(PERIOD);
        let mut group = Self {
            directories: Vec::new(),
            entries: Vec::new(),
        };
        if base.join("cgroup.controllers").exists() {
            // The controllers must be handed down to the children of the root first; they usually are.
            let _ = fs::write(base.join("cgroup.subtree_control"), "+memory +cpu");
            group.add(
                &base.join(&name),
                "cgroup.procs",
                &[
                    ("memory.max", limits.memory.to_string()),
                    ("cpu.max", format!("{quota} {PERIOD}")),
                ],
            )?;
        } else {
            group.add(
                &base.join("memory").join(&name),
                "cgroup.procs",
                &[("memory.limit_in_bytes", limits.memory.to_string())],
            )?;
            group.add(
                &base.join("cpu").join(&name),
                "cgroup.procs",
                &[
                    ("cpu.cfs_period_us", PERIOD.to_string()),
                    ("cpu.cfs_quota_us", quota.to_string()),
                ],
            )?;
        }
        Ok(group)
    }

    fn add(&mut self, directory: &Path, entry: &str, settings: &[(&str, String)]) -> Result<()> {
        fs::create_dir_all(directory).map_err(|error| Error::io("create", directory, error))?;
        self.directories.push(directory.to_owned());
        for (file, value) in settings {
            let path = directory.join(file);
            fs::write(&path, value).map_err(|error| Error::io("write", &path, error))?;
        }
        let path = directory.join(entry);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        self.entries.push(Arc::new(file));
        Ok(())
    }

    /// Files that a process writes `0` to in order to be in the group.
    pub(crate) fn entries(&self) -> Vec<Arc<File>> {
        self.entries.clone()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.entries.clear();
        for directory in &self.directories {
            // Its processes have been ended by now; the kernel may need a moment to see that it is empty.
            for _ in 0..50 {
                match fs::remove_dir(directory) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    _ => break,
                }
            }
        }
    }
}

const PREFIX: &str = "plimsoll-bench-";

/// Removes groups of harnesses that no longer run.
fn remove_stale(base: &Path) {
    for parent in [base.to_owned(), base.join("memory"), base.join("cpu")] {
        let Ok(entries) = fs::read_dir(&parent) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            let owner = rest.split('-').next().unwrap_or_default();
            if owner
                .parse::<i32>()
                .is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            {
                // Fails while a process is still in it: then it is not stale.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Launch;
    use std::time::Duration;

    #[test]
    fn a_process_started_in_a_group_has_its_limits_and_the_group_goes() {
        let limits = Limits {
            cpus: 1,
            memory: 64 << 20,
        };
        let group = match Group::make("test", limits) {
            Ok(group) => group,
            Err(error) => {
                eprintln!("skipped: {error}");
                return;
            }
        };
        let mut launch = Launch::new("/bin/cat", ["/proc/self/cgroup"]);
        launch.cgroups = group.entries();
        let mut running = launch.spawn(false).unwrap();
        let mut text = [0; 4096];
        let bytes = running
            .read(
                &mut text,
                "cgroups",
                crate::clock::now(),
                Duration::from_secs(10),
            )
            .unwrap();
        let text = String::from_utf8_lossy(&text[..bytes]).into_owned();
        assert!(text.contains(PREFIX), "{text}");
        running
            .wait_exit(crate::clock::now(), Duration::from_secs(10))
            .unwrap();
        let directories = group.directories.clone();
        assert!(directories.iter().all(|directory| directory.exists()));
        drop(group);
        assert!(directories.iter().all(|directory| !directory.exists()));
    }
}
