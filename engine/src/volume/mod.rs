//! Volumes: directories that outlive instances and are shared by them, on both backends.
//!
//! ```text
//! volumes/<name>/volume.json   what it is
//! volumes/<name>/_data         its content: what instances see
//! volumes/<name>/copying       there while the image's files are being copied in
//! volumes/<name>/shared        there if an anonymous volume may have several users
//! volumes/.tmp/<n>             unfinished and discarded ones, locked by the process that works on them
//! ```
//!
//! **Invariants.** A volume is there whole or not at all: it is made in `.tmp` and renamed, and renamed back before it is deleted.
//! Who needs a volume that no record names yet holds a shared lock on its directory ([`Prepared`]); who removes one
//! holds it exclusively, and looks at the records after that. No name begins with a dot, and nothing that an instance can reach is
//! ever locked by us: a program in it could keep such a lock for ever.

mod copy;
mod error;
mod hold;
mod options;
mod prepare;
mod remove;
mod users;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::names;

pub use error::VolumeError;
pub use options::{check_driver, check_options};
pub use prepare::{Prepared, ResolvedMount, prepare};
pub use remove::{Pruned, prune, remove, remove_anonymous, size, sweep};
pub use users::{Use, users, uses};

use options::Backing;

/// docker's mark of a volume that was made without a name.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// docker's name for the only driver there is.
pub const DRIVER: &str = "local";

/// The layout of volume.json; raised when a field changes its meaning.
const RECORD_VERSION: u32 = 1;

/// A directory entry's longest name (NAME_MAX, limits.h), bytes.
const NAME_BYTES: usize = 255;

/// volume.json.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Nanoseconds since 1970.
    created: u64,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
}

impl Record {
    /// What is left to say of a volume whose volume.json is damaged. That it was made without a name, its name tells.
    fn lost(name: &str) -> Self {
        let mut record = Self::default();
        if name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()) {
            record
                .labels
                .insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        record
    }
}

/// A volume as it is told to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, nanoseconds since 1970.
    pub created: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Options of its driver.
    pub options: BTreeMap<String, String>,
    /// The directory that holds its content, unless its options name another.
    pub mountpoint: PathBuf,
}

impl Volume {
    /// Whether it was made without a name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS_LABEL)
    }
}

/// A volume to be made.
#[derive(Debug, Clone, Default)]
pub struct NewVolume {
    /// Its name. None: 64 hexadecimal digits, and docker's label for such.
    pub name: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// Checks docker's rule for names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
///
/// # Errors
/// [`VolumeError::InvalidName`], [`VolumeError::ShortName`], [`VolumeError::LongName`].
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    let valid = name
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
        && name
            .bytes()
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() == 1 {
        return Err(VolumeError::ShortName(name.to_owned()));
    }
    if !valid {
        return Err(VolumeError::InvalidName(name.to_owned()));
    }
    if name.len() > NAME_BYTES {
        return Err(VolumeError::LongName {
            bytes: name.len(),
            limit: NAME_BYTES,
        });
    }
    Ok(())
}

/// Makes a volume, or finds the one that has the name. Labels of one that is there already stay what they are (docker's rule).
///
/// # Errors
/// [`VolumeError`] for a name or options that cannot be, or when the existing one has other options; [`Error::Io`].
pub fn create(home: &Home, new: &NewVolume) -> Result<Volume> {
    let name = match &new.name {
        Some(name) => {
            check_name(name)?;
            name.clone()
        }
        None => names::new_id()?,
    };
    Backing::of(&name, &new.options)?;
    loop {
        if let Some(held) = hold::shared(home, &name)? {
            let volume = read(home, &name)?;
            drop(held);
            check_same_options(&volume, &new.options)?;
            return Ok(volume);
        }
        let mut labels = new.labels.clone();
        if new.name.is_none() {
            labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        let record = Record {
            version: RECORD_VERSION,
            created: crate::instance::now(),
            labels,
            options: new.options.clone(),
        };
        // An anonymous one is as lasting as its instance's record, which nobody waits for either: a flush costs more than a
        // container's start.
        hold::make(home, &name, &record, new.name.is_some())?;
    }
}

/// Options are part of what a volume is: another content under the same name would surprise. None given means any.
fn check_same_options(
    volume: &Volume,
    wanted: &BTreeMap<String, String>,
) -> Result<(), VolumeError> {
    if wanted.is_empty() || *wanted == volume.options {
        return Ok(());
    }
    Err(VolumeError::OtherOptions(volume.name.clone()))
}

/// A volume by its name.
///
/// # Errors
/// [`VolumeError::NotFound`]; [`Error::Io`].
pub fn inspect(home: &Home, name: &str) -> Result<Volume> {
    let missing = || VolumeError::NotFound(name.to_owned());
    // A name that none can have names none; and it is never used as a path.
    check_name(name).map_err(|_| missing())?;
    if !directory(home, name).is_dir() {
        return Err(missing().into());
    }
    read(home, name)
}

/// All volumes, by name.
///
/// # Errors
/// [`Error::Io`].
pub fn list(home: &Home) -> Result<Vec<Volume>> {
    let folder = home.volumes();
    let entries = match fs::read_dir(&folder) {
        // Nobody has made one yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io("read", &folder, e))?,
    };
    let mut volumes = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &folder, e))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if check_name(&name).is_ok() && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match read(home, &name) {
                Ok(volume) => volumes.push(volume),
                // Removed meanwhile.
                Err(Error::Volume(VolumeError::NotFound(_))) => {}
                Err(error) => return Err(error),
            }
        }
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(volumes)
}

/// Reads volume.json. A damaged one hides neither the volume nor the rest: the name and the content are what counts.
fn read(home: &Home, name: &str) -> Result<Volume> {
    let directory = directory(home, name);
    let path = directory.join("volume.json");
    let record = match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).unwrap_or_else(|_| Record::lost(name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if !directory.is_dir() {
                return Err(VolumeError::NotFound(name.to_owned()).into());
            }
            Record::lost(name)
        }
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    Ok(Volume {
        name: name.to_owned(),
        created: record.created,
        labels: record.labels,
        options: record.options,
        mountpoint: directory.join("_data"),
    })
}

fn directory(home: &Home, name: &str) -> PathBuf {
    home.volumes().join(name)
}

#[cfg(test)]
mod tests;
