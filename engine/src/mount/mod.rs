//! Mounts as docker's users write them: `-v`, `--mount`, `--tmpfs`, `--volumes-from`, and the image's own volumes.
//!
//! Text becomes [`MountSpec`]s here ([`parse`]), and those become an instance's list of mounts, parents first ([`merge`]).
//! Nothing here touches a file: [`crate::volume::prepare`] does that.

mod csv;
mod error;
mod flag;
mod merge;
mod option;
pub(crate) mod path;
mod tmpfs;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use error::MountError;
pub use flag::parse_mount;
pub use merge::{Inherited, merge};
pub use option::{VolumesFrom, parse_volume, parse_volumes_from};
pub use tmpfs::parse_tmpfs;

/// One mount of an instance. It is kept in instance.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What is mounted.
    #[serde(flatten)]
    pub kind: MountKind,
    /// Where: an absolute path inside the instance, without `.`, `..` or a slash at its end.
    pub target: String,
    /// Whether writing to it is refused.
    #[serde(default)]
    pub read_only: bool,
    /// Who asked for it.
    #[serde(default)]
    pub origin: Origin,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// A file or directory of the host.
    Bind(BindMount),
    /// A volume.
    Volume(VolumeMount),
    /// Memory, empty at every start.
    Tmpfs(TmpfsMount),
}

/// A file or directory of the host in an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Its absolute path on the host.
    pub source: String,
    /// Whether a missing source is made, as a directory (`-v`), or refused (`--mount`).
    #[serde(default)]
    pub create_missing: bool,
    /// Whether mounts made later on one side appear on the other.
    #[serde(default)]
    pub propagation: Propagation,
    /// What happens to mounts below the source.
    #[serde(default)]
    pub recursion: Recursion,
}

/// A volume in an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Its name. None: a new one with a name of 64 hexadecimal digits; [`crate::volume::prepare`] fills it in.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it was made without a name, and so goes with its last instance on `rm -v` and `--rm`.
    #[serde(default)]
    pub anonymous: bool,
    /// Whether an empty volume stays empty, whatever the image has at the target.
    #[serde(default)]
    pub nocopy: bool,
    /// The directory or file of the volume that is mounted in place of all of it.
    #[serde(default)]
    pub subpath: Option<String>,
    /// Options of the driver, for a volume that is made by this.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels of a volume that is made by this.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Memory as a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Options as mount(8) takes them, each known to be allowed: `size=64m`, `mode=1777`, `exec`. Later ones win.
    #[serde(default)]
    pub options: Vec<String>,
    /// Asked for by `--mount`, not `--tmpfs`: docker's `inspect` tells the two in different places.
    #[serde(default)]
    pub by_mount: bool,
}

/// Who asked for a mount; in docker's order of precedence from the last to the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A flag that names the target for something: it wins over the others.
    #[default]
    Asked,
    /// `--volumes-from`.
    Inherited,
    /// The image's VOLUME, or `-v /target` alone: gives way to any other mount at the same target.
    Implied,
}

/// Mount propagation (mount_namespaces(7)); those with `R` reach all mounts below too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// None, for this mount alone.
    Private,
    /// None: docker's default.
    #[default]
    RPrivate,
    /// The host's mounts appear in the instance, for this mount alone.
    Slave,
    /// The host's mounts appear in the instance.
    RSlave,
    /// Both ways, for this mount alone.
    Shared,
    /// Both ways.
    RShared,
}

impl Propagation {
    /// The word for it, the same on the command line and in the OCI runtime specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::RPrivate => "rprivate",
            Self::Slave => "slave",
            Self::RSlave => "rslave",
            Self::Shared => "shared",
            Self::RShared => "rshared",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [
            Self::Private,
            Self::RPrivate,
            Self::Slave,
            Self::RSlave,
            Self::Shared,
            Self::RShared,
        ]
        .into_iter()
        .find(|propagation| propagation.as_str() == word)
    }
}

/// `bind-recursive`: what happens to the mounts below a bind's source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recursion {
    /// They are there, and read-only if the bind is.
    #[default]
    Enabled,
    /// They are not there.
    Disabled,
    /// They are there, and can be written to although the bind is read-only.
    Writable,
    /// They are there and read-only.
    ReadOnly,
}

impl MountSpec {
    /// A directory of the host that is there.
    pub(crate) fn bind(source: &str, target: &str, read_only: bool) -> Self {
        Self {
            kind: MountKind::Bind(BindMount {
                source: source.to_owned(),
                ..BindMount::default()
            }),
            target: target.to_owned(),
            read_only,
            origin: Origin::default(),
        }
    }

    /// The options of this mount in the words of the OCI runtime specification (config.md, "Linux mount options"); where they
    /// contradict each other, the last one counts. Nothing says that it can be written to: a source that the host has mounted
    /// read-only stays so.
    pub fn options(&self) -> Vec<String> {
        let mut words: Vec<&str> = match &self.kind {
            MountKind::Bind(bind) => match bind.recursion {
                Recursion::Disabled => vec!["bind", bind.propagation.as_str()],
                _ => vec!["rbind", bind.propagation.as_str()],
            },
            MountKind::Volume(_) => vec!["rbind", "rprivate"],
            MountKind::Tmpfs(tmpfs) => {
                // docker's defaults, before what the user says.
                let mut words = vec!["noexec", "nosuid", "nodev", "rprivate"];
                words.extend(tmpfs.options.iter().map(String::as_str));
                words
            }
        };
        if self.read_only {
            words.push(match &self.kind {
                MountKind::Bind(bind) if bind.recursion == Recursion::Enabled => "rro",
                MountKind::Bind(bind) if bind.recursion == Recursion::ReadOnly => "rro",
                _ => "ro",
            });
        }
        words.into_iter().map(str::to_owned).collect()
    }
}

/// The flags that mounts come from, each in the order given.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountFlags<'a> {
    /// `-v`, `--volume`.
    pub volumes: &'a [String],
    /// `--mount`.
    pub mounts: &'a [String],
    /// `--tmpfs`.
    pub tmpfs: &'a [String],
    /// `--volumes-from`.
    pub volumes_from: &'a [String],
}

/// What the flags ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Mounts, in the order of the flags.
    pub mounts: Vec<MountSpec>,
    /// Instances whose mounts are wanted too.
    pub volumes_from: Vec<VolumesFrom>,
}

/// Reads all flags; relative sources begin at `directory`, the command's own working directory.
///
/// # Errors
/// [`MountError`], with docker's words; two flags for one target are refused.
pub fn parse(flags: &MountFlags<'_>, directory: &Path) -> Result<Asked, MountError> {
    let mut asked = Asked::default();
    let mut words: Vec<&str> = Vec::new();
    for text in flags.volumes {
        // docker keeps these in a set: the same words twice are the same mount.
        if words.contains(&text.as_str()) {
            continue;
        }
        words.push(text);
        asked.mounts.push(parse_volume(text, directory)?);
    }
    for text in flags.mounts {
        asked.mounts.push(parse_mount(text, directory)?);
    }
    let mut memory: Vec<MountSpec> = Vec::new();
    for text in flags.tmpfs {
        let mount = parse_tmpfs(text)?;
        // And these in a map from their targets: the last one counts.
        memory.retain(|earlier| earlier.target != mount.target);
        memory.push(mount);
    }
    asked.mounts.extend(memory);
    let targets = asked
        .mounts
        .iter()
        .filter(|mount| mount.origin == Origin::Asked);
    let mut targets: Vec<&str> = targets.map(|mount| mount.target.as_str()).collect();
    targets.sort_unstable();
    if let Some(&[first, _]) = targets.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(MountError::Duplicate(first.to_owned()));
    }
    for text in flags.volumes_from {
        asked.volumes_from.push(parse_volumes_from(text)?);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests;
