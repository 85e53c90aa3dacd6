//! Where images are deployed to: a fresh ext4 in a file, mounted where only this sees it.
//!
//! Each round removes what the one before has deployed. ext4 without a journal, which some hosts have, passes over inodes that were
//! freed in the last minutes one by one (`recently_deleted` in fs/ext4/ialloc.c): there each round would take longer than the one
//! before, and whatever is measured later would pay too.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::peers;

/// Bytes of the file system, most of which the file never has; and inodes, several times those of what is deployed in a round.
const BYTES: u64 = 8 << 30;
const INODES: &str = "131072";

/// A directory to deploy into. Its mount goes when this does, even by SIGKILL.
pub(super) struct Place {
    folder: PathBuf,
    /// None where it is a directory of the host's.
    mounts: Option<OwnedFd>,
}

impl Place {
    /// Makes it below `folder`; where that cannot be, says why and takes the host's file system.
    pub(super) fn make(folder: &Path) -> (Self, Option<String>) {
        match mounted(folder) {
            Ok((folder, mounts)) => {
                let mounts = Some(mounts);
                (Self { folder, mounts }, None)
            }
            Err(reason) => {
                let folder = folder.to_owned();
                let mounts = None;
                (Self { folder, mounts }, Some(reason))
            }
        }
    }

    /// Where it is, for what runs [`Place::inside`].
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Does `work` where the place is seen, and so does every program that is started there.
    pub(super) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, std::io::Error> {
        let Some(mounts) = &self.mounts else {
            return Ok(work());
        };
        // A thread of its own enters, and takes the namespace with it.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS)?;
                setns(mounts, CloneFlags::CLONE_NEWNS)?;
                Ok(work())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn mounted(folder: &Path) -> Result<(PathBuf, OwnedFd), String> {
    let (disk, point) = (folder.join("disk"), folder.join("mnt"));
    let failed = |error: std::io::Error| format!("{}: {error}", disk.display());
    fs::create_dir_all(&point).map_err(failed)?;
    File::create(&disk)
        .and_then(|file| file.set_len(BYTES))
        .map_err(failed)?;
    peers::output(
        Command::new("/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-N", INODES])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&disk),
    )
    .map_err(|message| format!("mke2fs: {message}"))?;
    let mount_there = || -> Result<OwnedFd, String> {
        let failed = |error: nix::Error| format!("there is no mount namespace for it: {error}");
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed)?;
        peers::output(
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&disk, &point]),
        )
        .map_err(|message| format!("mount: {message}"))?;
        let namespace = File::open("/proc/thread-self/ns/mnt");
        Ok(namespace
            .map_err(|error| format!("/proc/thread-self/ns/mnt: {error}"))?
            .into())
    };
    // A thread of its own takes the namespace; the descriptor keeps it when the thread has gone.
    let mounts = std::thread::scope(|scope| {
        scope
            .spawn(mount_there)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok((point, mounts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deployed_is_seen_inside_only_and_without_a_mount_everywhere() {
        let directory = tempfile::tempdir().unwrap();
        let (place, reason) = Place::make(directory.path());
        let file = place.path().join("file");
        place
            .inside(|| {
                fs::write(&file, "x").unwrap();
                let listed = Command::new("ls").arg(&file).output().unwrap();
                assert!(listed.status.success(), "a program sees it too");
            })
            .unwrap();
        assert_eq!(file.exists(), reason.is_some(), "{reason:?}");
        assert!(place.inside(|| file.exists()).unwrap());
    }
}
