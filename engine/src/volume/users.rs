//! Which instances use which volumes, from their records.

use std::fs;
use std::io;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::home::Home;
use crate::mount::{MountKind, MountSpec};

/// An instance and its mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The instance's identifier.
    pub instance: String,
    /// The mounts in its record.
    pub mounts: Vec<MountSpec>,
}

/// The mounts of all instances, whether they run or not.
///
/// # Errors
/// [`Error::DamagedState`] when a record cannot be read: then nobody knows which volumes its instance uses, and removing one could
/// take its data.
pub fn uses(home: &Home) -> Result<Vec<Use>> {
    let folder = home.instances();
    let mut uses = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))? {
        let entry = entry.map_err(|e| Error::io("read", &folder, e))?;
        let path = entry.path().join("instance.json");
        let json = match fs::read(&path) {
            Ok(json) => json,
            // It is being made, and holds its volumes itself; or it is being removed.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let damaged = |e: serde_json::Error| Error::DamagedState {
            path: path.clone(),
            reason: e.to_string(),
        };
        let record: Value = serde_json::from_slice(&json).map_err(damaged)?;
        let mounts = match record.pointer("/spec/mounts") {
            None | Some(Value::Null) => continue,
            Some(mounts) => Vec::<MountSpec>::deserialize(mounts).map_err(damaged)?,
        };
        uses.push(Use {
            instance: entry.file_name().to_string_lossy().into_owned(),
            mounts,
        });
    }
    Ok(uses)
}

/// The identifiers of the instances that use a volume.
pub fn users(uses: &[Use], volume: &str) -> Vec<String> {
    let has = |mounts: &[MountSpec]| {
        mounts.iter().any(|mount| {
            matches!(&mount.kind, MountKind::Volume(mounted) if mounted.name.as_deref() == Some(volume))
        })
    };
    uses.iter()
        .filter(|one| has(&one.mounts))
        .map(|one| one.instance.clone())
        .collect()
}
