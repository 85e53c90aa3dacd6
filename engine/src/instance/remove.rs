//! Removing instances, and giving them other names.

use std::fs::{self, File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

use super::record::{Record, read_record, write_record};
use super::{Lock, drop_name, find, ignore_missing, short, sweep, take_name};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::names;
use crate::network;
use crate::volume;

/// How long `rm -f` waits for the owner of a killed instance to let go of it. Killing a VM's process frees all of its
/// memory first, which takes up to a second for many GiB.
const OWNER_PATIENCE: Duration = Duration::from_secs(10);

/// Makes an instance one that nobody knows: what is left of its directory is trash. Every step can be repeated after a kill in
/// between.
fn forget(home: &Home, id: &str, name: &str) -> Result<()> {
    let directory = home.instance(id);
    match fs::rename(&directory, home.trash().join(id)) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("rename", &directory, e)),
    }
    match name {
        "" => Ok(()),
        name => drop_name(home, name, id),
    }
}

/// Removes what [`forget`] has left.
pub(crate) fn remove_trash(home: &Home, id: &str) -> Result<()> {
    let trash = home.trash().join(id);
    ignore_missing(fs::remove_dir_all(&trash)).map_err(|e| Error::io("remove", &trash, e))
}

/// Removes an instance's directory and name.
pub(super) fn remove_state(home: &Home, id: &str, name: &str) -> Result<()> {
    forget(home, id, name)?;
    remove_trash(home, id)
}

/// Removes everything of an instance that nobody owns any more, its anonymous volumes too if `volumes`.
pub(crate) fn remove_all(home: &Home, record: &Record, volumes: bool) -> Result<()> {
    retire(home, record, volumes)?;
    remove_trash(home, &record.id)
}

/// The part of [`remove_all`] that others can see: [`remove_trash`] is the rest.
pub(crate) fn retire(home: &Home, record: &Record, volumes: bool) -> Result<()> {
    if volumes {
        // While the record still names them, so that a kill in between can be made good.
        volume::remove_anonymous(home, &record.id, &record.spec.mounts)?;
    }
    forget(home, &record.id, &record.name)
}

/// Removes an instance; with `force` a running one too, whose processes are killed first. With `volumes` its anonymous
/// volumes go as well.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::RemoveRunning`], [`Error::Io`].
pub fn remove(home: &Home, wanted: &str, force: bool, volumes: bool) -> Result<()> {
    let id = find(home, wanted)?;
    if force {
        return by_force(home, &id, volumes);
    }
    // Settles what a killed owner left, and refuses what somebody has.
    let lock = Lock::take(home, &id).map_err(|error| match error {
        Error::Running(_) => Error::RemoveRunning(id.clone()),
        other => other,
    })?;
    let record = match read_record(home, &id) {
        Ok(record) => record,
        // It removed itself at its end.
        Err(Error::Io { .. }) if !home.instance(&id).exists() => return lock.release(),
        // Whatever is damaged is removed all the same, if it is said twice.
        Err(error) => {
            lock.release()?;
            return Err(error);
        }
    };
    remove_all(home, &record, volumes)?;
    lock.release()
}

/// Ends an instance, and removes it whatever state it is in: also where nothing can be written any more.
fn by_force(home: &Home, id: &str, volumes: bool) -> Result<()> {
    let active = home.active().join(id);
    let deadline = Instant::now() + OWNER_PATIENCE;
    // Whoever has the lock of that file owns the instance; without the file nobody does.
    let lock = loop {
        let file = match File::open(&active) {
            Ok(file) => file,
            Err(_) => match Lock::take(home, id) {
                Ok(lock) => break lock,
                Err(Error::Running(_)) => continue,
                Err(other) => return Err(other),
            },
        };
        match file.try_lock() {
            Ok(()) if sweep::is_same(&file, &active) => break Lock::taken(home, id, file),
            // Its owner has just settled it.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                crate::client::end_at_once(home, id);
                container_core::cgroup::remove_by_id(id)?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(Error::RemoveRunning(id.to_owned())),
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &active, e)),
        }
    };
    container_core::cgroup::remove_by_id(id)?;
    network::reclaim(home, id)?;
    match read_record(home, id) {
        Ok(record) => remove_all(home, &record, volumes)?,
        Err(_) => remove_state(home, id, &sweep::name_of(home, id)?)?,
    }
    lock.release()
}

/// Gives an instance another name.
///
/// # Errors
/// [`Error::InvalidName`], [`Error::NameTaken`], [`Error::NoSuchInstance`].
pub fn rename(home: &Home, wanted: &str, name: &str) -> Result<()> {
    let id = find(home, wanted)?;
    if !names::is_valid(name) {
        return Err(Error::InvalidName(name.to_owned()));
    }
    let mut record = read_record(home, &id)?;
    if record.name == name {
        return Err(Error::InvalidValue {
            flag: "rename",
            value: name.to_owned(),
            reason: format!(
                "renaming a container with the same name as its current name ({})",
                short(&id)
            ),
        });
    }
    // The new name first: after a kill in between the instance has both, and the record says which is shown.
    take_name(home, name, &id)?;
    let old = std::mem::replace(&mut record.name, name.to_owned());
    write_record(home, &record)?;
    drop_name(home, &old, &id)
}
