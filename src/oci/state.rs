//! What is kept of a container between two commands: a directory with its record, its configuration and its gate.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use container_core::cgroup::Cgroup;
use container_core::{HookState, Init};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";
const GATE: &str = "start";
const LOCK: &str = "lock";

/// How far a container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// There is a process to speak of.
    pub(super) fn is_alive(self) -> bool {
        matches!(self, Self::Created | Self::Running | Self::Paused)
    }
}

/// What is written down of a container.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) annotations: HashMap<String, String>,
    /// Below the top of each hierarchy.
    pub(super) cgroup: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    /// The first process and when it was started; 0 while it is being made.
    pub(super) pid: i32,
    pub(super) start_time: u64,
    /// Who is making the container, while it is being made.
    pub(super) creator: Option<(i32, u64)>,
}

/// The state of a container as `state` and `list` print it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    oci_version: String,
    pub(super) id: String,
    pub(super) pid: i32,
    pub(super) status: &'static str,
    pub(super) bundle: PathBuf,
    rootfs: PathBuf,
    pub(super) created: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
    pub(super) owner: String,
}

/// A container's directory.
#[derive(Debug)]
pub(super) struct Container {
    directory: PathBuf,
    pub(super) record: Record,
    /// Held while something of the container changes.
    _lock: Option<File>,
}

/// Refuses what cannot name a container; the same IDs that container-core takes.
pub(super) fn check_id(id: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+');
    if id.len() > 255
        || !id.bytes().all(good)
        || !id
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
    {
        bail!(
            "container id {id:?} cannot be used: it must be 1 to 255 letters, digits, '_', '.', '-' or '+', and begin with a letter or digit"
        );
    }
    Ok(())
}

impl Container {
    /// Makes the directory of a new container, locked. The record says that it is being created.
    pub(super) fn make(root: &Path, record: Record, spec: &Spec) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("cannot make {}", root.display()))?;
        let directory = root.join(&record.id);
        let make = || DirBuilder::new().mode(0o700).create(&directory);
        let made = match make() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && is_abandoned(&directory) => {
                forget(&directory)?;
                make()
            }
            made => made,
        };
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("container with given ID already exists: {}", record.id)
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", directory.display()));
            }
        }
        let this = Self {
            _lock: None,
            directory,
            record,
        };
        let filled = this.lock().and_then(|lock| {
            this.write(CONFIG, &serde_json::to_vec(spec)?)?;
            this.save()?;
            Ok(lock)
        });
        match filled {
            Ok(lock) => Ok(Self {
                _lock: Some(lock),
                ..this
            }),
            Err(error) => {
                let _ = fs::remove_dir_all(&this.directory);
                Err(error)
            }
        }
    }

    /// A container that exists.
    pub(super) fn open(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        match Self::try_open(root, id)? {
            Some(container) => Ok(container),
            None => bail!("container {id} does not exist"),
        }
    }

    /// The same, locked against other commands that change it.
    pub(super) fn open_locked(root: &Path, id: &str) -> Result<Self> {
        let first = Self::open(root, id)?;
        let lock = first.lock()?;
        // What was read before may have changed while the lock was waited for.
        Ok(Self {
            _lock: Some(lock),
            ..Self::open(root, id)?
        })
    }

    pub(super) fn try_open(root: &Path, id: &str) -> Result<Option<Self>> {
        let directory = root.join(id);
        let path = directory.join(RECORD);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let record = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is not what this program wrote: remove the container with delete --force",
                path.display()
            )
        })?;
        Ok(Some(Self {
            directory,
            record,
            _lock: None,
        }))
    }

    /// All containers, by name. A directory without a record is one that is being made or removed.
    pub(super) fn all(root: &Path) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot list {}", root.display()));
            }
        };
        let mut ids: Vec<_> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort();
        let mut all = Vec::new();
        for id in ids {
            all.extend(Self::try_open(root, &id)?);
        }
        Ok(all)
    }

    fn lock(&self) -> Result<File> {
        let path = self.directory.join(LOCK);
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("container {} does not exist", self.record.id))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(lock)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, new) = (
            self.directory.join(name),
            self.directory.join(format!("{name}.new")),
        );
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the record, whole or not at all.
    pub(super) fn save(&self) -> Result<()> {
        self.write(RECORD, &serde_json::to_vec(&self.record)?)
    }

    /// The configuration that the container was created with.
    pub(super) fn spec(&self) -> Result<Spec> {
        let path = self.directory.join(CONFIG);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what this program wrote", path.display()))
    }

    /// The socket at which the container waits for its start.
    pub(super) fn gate(&self) -> PathBuf {
        self.directory.join(GATE)
    }

    /// Notes that it has been started.
    pub(super) fn close_gate(&self) -> Result<()> {
        match fs::remove_file(self.gate()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.gate().display()))
            }
            _ => Ok(()),
        }
    }

    /// The first process; `None` when it has ended, or is still to be made.
    pub(super) fn init(&self) -> Result<Option<Init>> {
        match self.record.pid {
            0 => Ok(None),
            pid => Ok(Init::open(pid, self.record.start_time)?),
        }
    }

    pub(super) fn cgroup(&self) -> Result<Option<Cgroup>> {
        Ok(Cgroup::open(&self.record.cgroup)?)
    }

    pub(super) fn status(&self) -> Result<Status> {
        if let Some((pid, start_time)) = self.record.creator
            && self.record.pid == 0
        {
            // Whoever makes it may have been killed.
            return Ok(match Init::open(pid, start_time)? {
                Some(_) => Status::Creating,
                None => Status::Stopped,
            });
        }
        if self.init()?.is_none() {
            return Ok(Status::Stopped);
        }
        if self.gate().exists() {
            return Ok(Status::Created);
        }
        let frozen = self.cgroup()?.map(|cgroup| cgroup.frozen()).transpose()?;
        Ok(match frozen {
            Some(true) => Status::Paused,
            _ => Status::Running,
        })
    }

    /// What hooks are told.
    pub(super) fn hook_state(&self, spec: &Spec) -> HookState {
        HookState::new(&self.record.id, spec, &self.record.bundle)
    }

    pub(super) fn shown(&self) -> Result<Shown> {
        let status = self.status()?;
        let owner = fs::metadata(&self.directory).map_or(0, |metadata| metadata.uid());
        let record = self.record.clone();
        Ok(Shown {
            oci_version: record.oci_version,
            id: record.id,
            pid: if status.is_alive() { record.pid } else { 0 },
            status: status.name(),
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner: user_name(owner),
        })
    }

    /// Removes what is kept of it.
    pub(super) fn forget(&self) -> Result<()> {
        forget(&self.directory)
    }
}

/// Whether a directory has no record and nobody who is about to write one: a command was killed there.
fn is_abandoned(directory: &Path) -> bool {
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join(LOCK));
    lock.is_ok_and(|lock| lock.try_lock().is_ok() && !directory.join(RECORD).exists())
}

/// Removes a container's directory, the record last, so that what a kill leaves half removed is found again.
pub(super) fn forget(directory: &Path) -> Result<()> {
    let removed = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", directory.display()));
        }
    };
    let rest = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !path.ends_with(RECORD));
    rest.map(fs::remove_file)
        .chain([fs::remove_file(directory.join(RECORD))])
        .try_for_each(removed)
        .and_then(|()| removed(fs::remove_dir(directory)))
        .with_context(|| format!("cannot remove {}", directory.display()))
}

/// A user's name, or the number where it has none. Read from the file itself: the C library's way would load code of the
/// host's into this static program.
fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}
