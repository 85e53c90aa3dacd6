//! What can be wrong with a mount, in docker's words.

use crate::volume::VolumeError;

/// A mount that is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// `-v` with nothing behind it.
    #[error("invalid empty volume spec")]
    Empty,
    /// `-v` with sections that cannot be.
    #[error("invalid spec: {spec}: {reason}")]
    Sections {
        /// As typed.
        spec: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// `-v` that means nothing, or something that cannot be mounted.
    #[error("invalid volume specification: '{spec}'{}", .reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}")))]
    Volume {
        /// As typed.
        spec: String,
        /// What is wrong.
        reason: Option<Box<MountError>>,
    },
    /// What stands behind the second colon of `-v`, or the first of `--volumes-from`.
    #[error("invalid mode: {0}")]
    Mode(String),
    /// `--mount` that cannot be read.
    #[error("invalid argument {value:?} for \"--mount\" flag: {reason}")]
    Flag {
        /// As typed.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A mount that cannot be made.
    #[error("invalid mount config for type {kind:?}: {reason}")]
    Config {
        /// bind, volume, tmpfs, or what was typed.
        kind: String,
        /// What is wrong.
        reason: String,
    },
    /// Two mounts at one place.
    #[error("duplicate mount point: {0}")]
    Duplicate(String),
    /// A target that is no place for a mount.
    #[error("invalid mount path: '{0}' mount path must be absolute")]
    Relative(String),
    /// The root as a target.
    #[error("invalid specification: destination can't be '/'")]
    Root,
    /// An option that tmpfs does not have, or that means nothing here.
    #[error(
        "invalid tmpfs option {0:?}: use size=, mode=, uid=, gid=, nr_inodes=, nr_blocks= or mount flags such as ro and exec"
    )]
    TmpfsOption(String),
    /// `--volumes-from` with nothing behind it.
    #[error("volumes-from specification cannot be an empty string")]
    NoInstance,
    /// More mounts than an instance can have.
    #[error("{count} mounts are more than the {limit} that an instance can have")]
    TooMany {
        /// How many there would be.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A volume's name or its driver's options.
    #[error(transparent)]
    Name(#[from] VolumeError),
}

impl MountError {
    pub(crate) fn config(kind: &str, reason: impl Into<String>) -> Self {
        Self::Config {
            kind: kind.to_owned(),
            reason: reason.into(),
        }
    }
}
