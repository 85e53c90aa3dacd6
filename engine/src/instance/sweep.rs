//! Settling what killed processes leave.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::record::{Status, read_record, read_state, write_state};
use super::{ignore_missing, now, remove};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::names;
use crate::network;

/// What a workload ends with when its owner is killed: the kernel kills it with SIGKILL.
const KILLED: i32 = 137;

/// How many instances a start looks at in passing.
const IN_PASSING: usize = 4;

/// Settles a few instances, taken at random, whose owner died without doing so: what a start does for the others while its own
/// command runs. Looking at all would make starts dearer the more run.
///
/// # Errors
/// As for [`sweep`].
pub(crate) fn sweep_some(home: &Home) -> Result<()> {
    let ids = active(home)?;
    let Some(last) = ids.len().checked_sub(1) else {
        return Ok(());
    };
    if last < IN_PASSING {
        return ids.iter().try_for_each(|id| settle(home, id).map(drop));
    }
    let numbers: [u8; 2 * IN_PASSING] = crate::names::random_bytes()?;
    for pair in numbers.chunks_exact(2) {
        let number = usize::from(pair[0]) << 8 | usize::from(pair[1]);
        if let Some(id) = ids.get(number % ids.len()) {
            settle(home, id)?;
        }
    }
    Ok(())
}

fn active(home: &Home) -> Result<Vec<String>> {
    let folder = home.active();
    let entries = fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// Settles every instance whose owner died without doing so, and finishes removals that were cut off.
///
/// # Errors
/// [`Error::Io`] where the state directory cannot be read or written.
pub(crate) fn sweep(home: &Home) -> Result<usize> {
    let mut settled = 0;
    for id in active(home)? {
        if settle(home, &id)? {
            settled += 1;
        }
    }
    let trash = home.trash();
    for entry in fs::read_dir(&trash)
        .map_err(|e| Error::io("read", &trash, e))?
        .flatten()
    {
        let path = entry.path();
        // Another process may be removing the same tree: what either leaves, the next sweep takes.
        let _ = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
    Ok(settled)
}

/// Settles one instance if its owner died; whether there was something to do.
///
/// # Errors
/// As for [`repair`].
pub(crate) fn settle(home: &Home, id: &str) -> Result<bool> {
    let path = home.active().join(id);
    let Ok(lock) = File::open(&path) else {
        return Ok(false);
    };
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    // Between opening and locking, its owner may have settled it, and another one have taken it up again.
    if !is_same(&lock, &path) {
        return Ok(false);
    }
    reclaim(home, id)?;
    Ok(true)
}

pub(super) fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => one.ino() == other.ino(),
        _ => false,
    }
}

/// Settles every instance whose owner died, and takes away the empty cgroup that all instances have been in.
///
/// # Errors
/// When the state directory cannot be read or written, or cgroups cannot be read.
pub fn repair(home: &Home) -> Result<usize> {
    let settled = sweep(home)?;
    crate::volume::sweep(home)?;
    container_core::cgroup::remove_parent()?;
    Ok(settled)
}

/// Settles one instance whose lock this process has taken over.
pub(super) fn reclaim(home: &Home, id: &str) -> Result<()> {
    container_core::cgroup::remove_by_id(id)?;
    network::reclaim(home, id)?;
    match read_record(home, id) {
        Ok(record) if record.spec.auto_remove => remove::remove_all(home, &record, true)?,
        Ok(_) => {
            let mut state = read_state(home, id).unwrap_or_default();
            if state.status.is_alive() {
                state.status = Status::Exited;
                state.exit_code = KILLED;
                state.finished_at = now();
                state.pid = 0;
                state.supervisor = 0;
                state.endpoints.clear();
                state.bindings.clear();
                state.error = Some("its supervisor was killed, and it with that".to_owned());
                write_state(home, id, &state)?;
            }
            let socket = home.instance(id).join(crate::supervisor::SOCKET);
            ignore_missing(fs::remove_file(&socket))
                .map_err(|e| Error::io("remove", &socket, e))?;
        }
        // Killed before the record was written: it never ran, and only the link itself knows its name.
        Err(Error::Io { .. }) => remove::remove_state(home, id, &name_of(home, id)?)?,
        // Left for the user to look at; `rm -f` removes it.
        Err(_) => {}
    }
    let active = home.active().join(id);
    ignore_missing(fs::remove_file(&active)).map_err(|e| Error::io("remove", &active, e))
}

/// The name that points to an instance; empty where none does.
pub(super) fn name_of(home: &Home, id: &str) -> Result<String> {
    let folder = home.names();
    let entries = fs::read_dir(&folder).map_err(|e: io::Error| Error::io("read", &folder, e))?;
    let held = entries
        .flatten()
        .find(|entry| fs::read_link(entry.path()).is_ok_and(|target| names::id_of(&target) == id));
    Ok(held.map_or_else(String::new, |entry| {
        entry.file_name().to_string_lossy().into_owned()
    }))
}
