//! What can be wrong with a volume, in docker's words.

/// A volume that cannot be made, found or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The name has other characters than a volume's may have.
    #[error(
        "create {0}: {0:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed; if you intended to pass a host directory, use absolute path"
    )]
    InvalidName(String),
    /// The name is a single character.
    #[error(
        "create {0}: volume name is too short, names should be at least two alphanumeric characters"
    )]
    ShortName(String),
    /// The name is longer than a file's may be.
    #[error("create: volume name is too long: it has {bytes} bytes, and {limit} are allowed")]
    LongName {
        /// How long it is.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no such volume.
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// An instance uses the volume.
    #[error("remove {name}: volume is in use - [{}]", .by.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// Identifiers of the instances, or what else uses it.
        by: Vec<String>,
    },
    /// There is a volume of that name with other options.
    #[error(
        "create {0}: conflict: a volume of this name exists with other options: remove it first (`plimsoll volume rm {0}`) or choose another name"
    )]
    OtherOptions(String),
    /// Another driver than `local`.
    #[error(
        "create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found: plimsoll has the driver local only"
    )]
    Driver {
        /// The volume.
        name: String,
        /// The driver asked for.
        driver: String,
    },
    /// An option that the driver does not have, or a value that it cannot take.
    #[error("create {name}: {reason}")]
    Option {
        /// The volume.
        name: String,
        /// What is wrong, naming the option.
        reason: String,
    },
    /// A path that is to be mounted is not there or cannot be reached.
    #[error("cannot access path {path}: {source}")]
    Access {
        /// The path.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A missing source of `-v` cannot be made.
    #[error("error while creating mount source path '{path}': {source}")]
    Source {
        /// The path.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A volume is to be mounted where the image has a file.
    #[error("cannot mount volume over existing file, file exists {target}")]
    OverFile {
        /// The path in the image.
        target: String,
    },
}
