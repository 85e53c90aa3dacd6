//! An instance's state: a directory, records in it, a name, and a lock that the kernel releases with its holder.
//!
//! **Invariant:** `active/<id>` is linked, locked, before anything else of an instance is made or started, and is unlinked
//! after everything else is settled. So whatever a killed process leaves behind can be found by looking at `active/` alone
//! ([`sweep`]), whose size is the number of running instances.

mod find;
mod record;
mod remove;
mod sweep;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use crate::error::{Error, Result};
use crate::home::Home;
use crate::names;
use crate::spec::InstanceSpec;

pub use find::{Listed, find, is_owned, list, look, size, user_of_image};
pub(crate) use find::{environment, name, with_name, with_port};
pub use record::{Record, State, Status};
pub(crate) use record::{read_state, short, write_record, write_state};
pub use remove::{remove, rename};
pub(crate) use remove::{remove_all, remove_trash, retire};
pub use sweep::repair;
pub(crate) use sweep::{settle, sweep, sweep_some};

/// The lock of an instance that this process makes, starts, runs or removes.
#[derive(Debug)]
pub(crate) struct Lock {
    home: Home,
    id: String,
    /// Held as long as any process has a copy of the descriptor: the supervisor inherits it.
    file: File,
}

impl Lock {
    /// Its descriptor.
    pub(crate) fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Takes the lock of an instance that exists, after settling what a killed holder left.
    ///
    /// # Errors
    /// [`Error::Running`] when somebody has it.
    pub(crate) fn take(home: &Home, id: &str) -> Result<Self> {
        for _ in 0..3 {
            match link_active(home, id) {
                Ok(file) => {
                    return Ok(Self {
                        home: home.clone(),
                        id: id.to_owned(),
                        file,
                    });
                }
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                    sweep::settle(home, id)?;
                    if is_active(home, id) && !let_go(home, id) {
                        return Err(Error::Running(short(id).to_owned()));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Running(short(id).to_owned()))
    }

    /// The lock behind `active/<id>` that this process has taken: a new one, or a dead owner's.
    fn taken(home: &Home, id: &str, file: File) -> Self {
        Self {
            home: home.clone(),
            id: id.to_owned(),
            file,
        }
    }

    /// Everything is settled: the instance is nobody's any more.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be removed.
    pub(crate) fn release(self) -> Result<()> {
        let active = self.home.active().join(&self.id);
        ignore_missing(fs::remove_file(&active)).map_err(|e| Error::io("remove", &active, e))
    }
}

/// Makes the state of a new instance and takes its name. The lock is held, so that the caller can go on to start it.
///
/// # Errors
/// [`Error::NameTaken`], [`Error::InvalidName`], and whatever the file system says. Nothing is left then.
pub(crate) fn create(
    home: &Home,
    spec: &InstanceSpec,
    image_id: &str,
    command: &[String],
) -> Result<(Record, Lock)> {
    if let Some(name) = spec.name.as_ref().filter(|name| !names::is_valid(name)) {
        return Err(Error::InvalidName(name.clone()));
    }
    let id = names::new_id()?;
    let file = link_active(home, &id)?;
    let lock = Lock::taken(home, &id, file);
    let mut record = Record::new(lock.id.clone(), spec, image_id, command);
    match fill(home, &mut record) {
        Ok(()) => Ok((record, lock)),
        Err(error) => {
            // The first failure is the one to tell; `sweep` takes what cannot be removed now.
            let _ = remove::remove_state(home, &record.id, "").and_then(|()| lock.release());
            Err(error)
        }
    }
}

fn fill(home: &Home, record: &mut Record) -> Result<()> {
    let directory = home.instance(&record.id);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .map_err(|e| Error::io("create", &directory, e))?;
    if record.name.is_empty() {
        // 2304 names: with a thousand instances, ten tries fail about once in 4000 starts, so the rest gets digits.
        for attempt in 0.. {
            let mut name = names::generate()?;
            if attempt >= 10 {
                name.push_str(&record.id[..8]);
            }
            match take_name(home, &name, &record.id) {
                Err(Error::NameTaken { .. }) if attempt < 20 => continue,
                result => result?,
            }
            record.name = name;
            break;
        }
    } else {
        take_name(home, &record.name, &record.id)?;
    }
    record::write_record(home, record)
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

/// When a process was started, in clock ticks since the boot: with its number it names one process for ever. `None` when it
/// is not there.
pub(crate) fn process_started(pid: i32) -> Option<u64> {
    let mut stat = String::with_capacity(1024);
    File::open(format!("/proc/{pid}/stat"))
        .and_then(|mut file| file.read_to_string(&mut stat))
        .ok()?;
    // The name is in parentheses and may hold anything; field 22 is the 20th after it (proc_pid_stat(5)).
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Makes `active/<id>` appear already locked, so that nobody can take it for a dead process's.
fn link_active(home: &Home, id: &str) -> Result<File> {
    let folder = home.active();
    let file = File::options()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(&folder)
        .map_err(|e| Error::io("create a file in", &folder, e))?;
    file.lock().map_err(|e| Error::io("lock", &folder, e))?;
    let path = folder.join(id);
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(
        AT_FDCWD,
        unnamed.as_str(),
        AT_FDCWD,
        &path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )
    .map_err(|e| Error::io("create", &path, e.into()))?;
    Ok(file)
}

/// Points `names/<name>` at the instance, unless another living instance has it.
fn take_name(home: &Home, name: &str, id: &str) -> Result<()> {
    let link = home.name(name);
    for _ in 0..3 {
        match symlink(names::link_of(id), &link) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", &link, e)),
        }
        let Ok(holder) = fs::read_link(&link) else {
            continue;
        };
        let holder = names::id_of(&holder);
        if home.instance(&holder).exists() {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                holder,
            });
        }
        // Its holder was removed by a process that died before it came to the name. Whoever wins the rename wins.
        let stale = home.trash().join(format!("name-{id}"));
        match fs::rename(&link, &stale) {
            Ok(()) => fs::remove_file(&stale).map_err(|e| Error::io("remove", &stale, e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("rename", &link, e)),
        }
    }
    Err(Error::NameTaken {
        name: name.to_owned(),
        holder: "that is being made".into(),
    })
}

/// Takes a name away from the instance that has it.
fn drop_name(home: &Home, name: &str, id: &str) -> Result<()> {
    let link: PathBuf = home.name(name);
    if fs::read_link(&link).is_ok_and(|target| names::id_of(&target) == id) {
        ignore_missing(fs::remove_file(&link)).map_err(|e| Error::io("remove", &link, e))?;
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How long the owner of an instance that has ended may take to let go of it: a few file operations, on a busy disk.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// Waits for the owner of an instance that has ended, as its state says already, to let go of it. False when it runs.
fn let_go(home: &Home, id: &str) -> bool {
    let until = Instant::now() + SETTLES_WITHIN;
    while is_active(home, id) {
        let ended = read_state(home, id).is_ok_and(|state| state.status == Status::Exited);
        if !ended || Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Whether a living process owns the instance.
pub(crate) fn is_active(home: &Home, id: &str) -> bool {
    File::open(home.active().join(id))
        .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests;
