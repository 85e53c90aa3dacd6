//! Directories of instances to come.
//!
//! What every instance's directory holds at its start takes ten new files and directories, which on ext4 cost as much as all
//! of a container's mounts. So whoever ends an instance, or has it running in peace, makes a few for those that come later; a
//! start takes one by two renames, and makes its own where there is none.
//!
//! **Invariant:** a spare directory is complete when it has its `lock` file, which whoever takes it renames to `active/<id>`,
//! locked. From then on it is as the other instances are: what a killed process leaves is found by looking at `active/`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::ignore_missing;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::names;
use crate::network::ETC_FILES;

/// How many are kept. More would only help those who start many at once, who wait for processors then.
const KEPT: usize = 2;

/// What becomes `active/<id>`.
const LOCK: &str = "lock";

/// Directories that a container's root file system is made of, closed to nobody: the first becomes its root directory.
pub(crate) const LAYERS: [&str; 2] = ["upper", "work"];

/// What a record and a state are written to before they get their names (`home::replace`).
const DRAFTS: [&str; 2] = ["instance.new", "state.new"];

/// Takes a directory for a new instance: its identifier, and the lock of `active/<id>`. `None` where there is none.
pub(super) fn take(home: &Home) -> Option<(String, File)> {
    let entries = fs::read_dir(home.spares()).ok()?;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find_map(|id| Some((take_one(home, &id)?, id)))
        .map(|(file, id)| (id, file))
}

fn take_one(home: &Home, id: &str) -> Option<File> {
    let spare = home.spares().join(id);
    let lock = spare.join(LOCK);
    let file = File::options().write(true).open(&lock).ok()?;
    file.try_lock().ok()?;
    let active = home.active().join(id);
    // Whoever was faster has renamed it.
    fs::rename(&lock, &active).ok()?;
    match fs::rename(&spare, home.instance(id)) {
        Ok(()) => Some(file),
        Err(_) => {
            // Still locked, so that nobody settles it meanwhile. The directory is tidied away later.
            let _ = fs::remove_file(&active);
            None
        }
    }
}

/// Makes as many as are missing, unless somebody else does so already, and removes what a killed process has left half made.
///
/// # Errors
/// [`Error::Io`], [`Error::System`]. Starts go on without.
pub(crate) fn provide(home: &Home) -> Result<()> {
    let mut kept = 0;
    let Some(_one_at_a_time) = tidy_keeping(home, &mut kept)? else {
        return Ok(());
    };
    for _ in kept..KEPT {
        make(home, &names::new_id()?)?;
    }
    Ok(())
}

/// Removes what killed processes have left half made or half taken.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn tidy(home: &Home) -> Result<()> {
    tidy_keeping(home, &mut 0).map(drop)
}

/// The same, and counts those that are complete. What comes back keeps others from making any; `None` when somebody does so.
fn tidy_keeping(home: &Home, kept: &mut usize) -> Result<Option<File>> {
    let folder = home.spares();
    // A state directory made before there were any has no place for them.
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", &folder, e));
        }
        _ => {}
    }
    let failed = |e| Error::io("read", &folder, e);
    let held = File::open(&folder).map_err(failed)?;
    if held.try_lock().is_err() {
        return Ok(None);
    }
    for entry in fs::read_dir(&folder).map_err(failed)?.flatten() {
        let spare = entry.path();
        if spare.join(LOCK).exists() {
            *kept += 1;
        } else if !home.active().join(entry.file_name()).exists() {
            // Looked at in this order: who takes it makes `active/<id>` of the lock.
            ignore_missing(fs::remove_dir_all(&spare))
                .map_err(|e| Error::io("remove", &spare, e))?;
        }
    }
    Ok(Some(held))
}

/// Makes one. The lock comes last.
fn make(home: &Home, id: &str) -> Result<()> {
    let spare = home.spares().join(id);
    let create = |path: &Path, mode| {
        DirBuilder::new()
            .mode(mode)
            .create(path)
            .map_err(|e| Error::io("create", path, e))
    };
    let file = |path: &Path, mode| {
        File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .map_err(|e| Error::io("create", path, e))
    };
    create(&spare, 0o700)?;
    for name in LAYERS {
        create(&spare.join(name), 0o755)?;
    }
    for name in ETC_FILES.into_iter().chain(DRAFTS) {
        file(&spare.join(name), 0o644)?;
    }
    file(&spare.join(LOCK), 0o600)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let temporary = tempfile::tempdir().unwrap();
        let home = Home::open(&temporary.path().join("root")).unwrap();
        (temporary, home)
    }

    fn spares(home: &Home) -> usize {
        fs::read_dir(home.spares()).unwrap().count()
    }

    #[test]
    fn a_spare_directory_is_taken_once_and_is_locked_from_then_on() {
        let (_kept, home) = home();
        assert!(take(&home).is_none(), "none is made before the first end");
        provide(&home).unwrap();
        assert_eq!(spares(&home), KEPT);
        let (first, lock) = take(&home).unwrap();
        let (second, _) = take(&home).unwrap();
        assert_ne!(first, second);
        assert!(take(&home).is_none());
        assert!(super::super::is_active(&home, &first));
        for name in LAYERS.into_iter().chain(ETC_FILES) {
            assert!(home.instance(&first).join(name).exists(), "{name}");
        }
        assert!(!home.instance(&first).join(LOCK).exists());
        drop(lock);
        assert!(!super::super::is_active(&home, &first));
    }

    #[test]
    fn many_who_take_at_once_get_directories_of_their_own() {
        let (_kept, home) = home();
        for _ in 0..20 {
            provide(&home).unwrap();
            let taken: Vec<_> = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| take(&home))).collect();
                takers
                    .into_iter()
                    .filter_map(|taker| taker.join().unwrap())
                    .collect()
            });
            let ids: std::collections::HashSet<_> = taken.iter().map(|(id, _)| id).collect();
            assert_eq!(ids.len(), taken.len());
            assert!(!taken.is_empty() && taken.len() <= KEPT);
        }
    }

    #[test]
    fn what_was_half_made_is_removed_and_what_is_being_taken_is_not() {
        let (_kept, home) = home();
        provide(&home).unwrap();
        fs::create_dir(home.spares().join("half")).unwrap();
        let taken = home.spares().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(home.active().join("taken"), "").unwrap();
        tidy(&home).unwrap();
        assert!(!home.spares().join("half").exists());
        assert!(taken.exists());
        fs::remove_file(home.active().join("taken")).unwrap();
        tidy(&home).unwrap();
        assert_eq!(spares(&home), KEPT);
    }

    #[test]
    fn one_at_a_time_makes_them() {
        let (_kept, home) = home();
        provide(&home).unwrap();
        take(&home).unwrap();
        let folder = File::open(home.spares()).unwrap();
        folder.lock().unwrap();
        provide(&home).unwrap();
        assert_eq!(spares(&home), KEPT - 1);
        drop(folder);
        provide(&home).unwrap();
        assert_eq!(spares(&home), KEPT);
    }
}
