//! Looking at an image's files without reading them: what comparing an instance with its image needs.

use std::path::PathBuf;

use rustix::fs::Stat;
use rustix::io::Errno;

use crate::union::{Found, Listed, Merged, Union};
use crate::{Error, Result};

/// An image's layers, merged as its overlay shows them.
pub struct LayerView {
    union: Union,
}

/// A directory of the merged layers.
#[derive(Clone, Debug)]
pub struct LayerDirectory {
    merged: Merged,
}

/// What is compared of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerStat {
    /// Type and permissions, as stat(2) tells them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// When it was changed last: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
}

/// What a directory has under a name.
#[derive(Clone, Debug)]
pub enum LayerChild {
    /// A directory.
    Directory(LayerDirectory, LayerStat),
    /// Anything else, links too.
    File(LayerStat),
}

impl LayerView {
    /// Opens the layers, topmost first ([`crate::Store::layer_dirs`]).
    ///
    /// # Errors
    /// When one is not there.
    pub fn open(layers: &[PathBuf]) -> Result<Self> {
        Ok(Self {
            union: Union::open_layers(layers)?,
        })
    }

    /// The root.
    pub fn root(&self) -> LayerDirectory {
        LayerDirectory {
            merged: self.union.root(),
        }
    }

    /// What `directory` has under `name`, links not followed. None if there is nothing.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn child(&self, directory: &LayerDirectory, name: &[u8]) -> Result<Option<LayerChild>> {
        let failed = |e: Errno| self.failed(directory, e);
        let found = self.union.look_up(&directory.merged, name);
        match found.map_err(failed)? {
            None => Ok(None),
            Some(Found::File(target)) => Ok(Some(LayerChild::File(of(target.stat())))),
            Some(Found::Directory(merged)) => {
                let stat = self.stat(&merged).map_err(failed)?;
                Ok(Some(LayerChild::Directory(LayerDirectory { merged }, stat)))
            }
        }
    }

    /// The names in a directory.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn names(&self, directory: &LayerDirectory) -> Result<Vec<Vec<u8>>> {
        let listed = self.union.list(&directory.merged);
        let listed = listed.map_err(|e| self.failed(directory, e))?;
        Ok(listed
            .into_iter()
            .map(|(name, Listed::Directory(_) | Listed::File { .. })| name)
            .collect())
    }

    /// A directory's own status is that of its topmost part.
    fn stat(&self, merged: &Merged) -> Result<LayerStat, Errno> {
        let Some(layer) = merged.layers.first() else {
            return Err(Errno::NOENT);
        };
        let part = self.union.open(*layer, &merged.path)?;
        Ok(of(&rustix::fs::fstat(&part)?))
    }

    fn failed(&self, directory: &LayerDirectory, error: Errno) -> Error {
        Error::ImageFile {
            path: String::from_utf8_lossy(&directory.merged.path).into_owned(),
            reason: std::io::Error::from(error).to_string(),
        }
    }
}

fn of(stat: &Stat) -> LayerStat {
    LayerStat {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
    }
}
