//! What can go wrong in the engine, and the exit code that docker's users expect for it.

use std::io;
use std::path::{Path, PathBuf};

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that keeps an instance from being made, started or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation of the engine's own failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A system call without a file failed.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Plimsoll needs root.
    #[error("plimsoll must run as root (user id 0, it is {uid}): try `sudo plimsoll …`")]
    NotRoot {
        /// The effective user ID.
        uid: u32,
    },
    /// The image store said no.
    #[error(transparent)]
    Image(#[from] image_core::Error),
    /// The container could not be run.
    #[error(transparent)]
    Container(#[from] container_core::Error),
    /// A cgroup could not be made or removed.
    #[error(transparent)]
    Cgroup(#[from] container_core::cgroup::Error),
    /// The microVM could not be run.
    #[error(transparent)]
    MicroVm(#[from] microvm_core::Error),
    /// The guest did not do what a guest does.
    #[error(transparent)]
    Session(#[from] microvm_core::session::SessionError),
    /// A mount is not what one can be.
    #[error(transparent)]
    Mount(#[from] crate::mount::MountError),
    /// A volume could not be made, found or removed.
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    /// A network could not be made, joined or removed.
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    /// A file of an instance could not be copied.
    #[error(transparent)]
    Archive(#[from] crate::archive::ArchiveError),
    /// A disk could not be made.
    #[error("cannot make the disk {}: {reason}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The guest agent could not start the command.
    #[error("{message}")]
    Guest {
        /// What kept the command from running, as the guest's agent tells it.
        message: String,
        /// The exit code for it.
        code: u8,
    },
    /// The name is in use.
    #[error(
        "the container name \"/{name}\" is already in use by container \"{holder}\": you have to remove (or rename) that container to be able to reuse that name"
    )]
    NameTaken {
        /// The name asked for.
        name: String,
        /// Short identifier of the instance that has it.
        holder: String,
    },
    /// The name cannot be one.
    #[error(
        "invalid name {0:?}: use two or more of [a-zA-Z0-9_.-], beginning with a letter or a digit"
    )]
    InvalidName(String),
    /// No instance goes by that name or identifier.
    #[error("no such container: {0}")]
    NoSuchInstance(String),
    /// An identifier's beginning fits several instances.
    #[error("{prefix:?} fits {count} instances: give more of the identifier")]
    AmbiguousPrefix {
        /// What was typed.
        prefix: String,
        /// How many it fits.
        count: usize,
    },
    /// Somebody makes, starts, runs or removes the instance at this moment.
    #[error("container {0} is running, or is just being started or removed")]
    Running(String),
    /// A running instance is not removed without force.
    #[error(
        "cannot remove container {0}: container is running: stop the container before removing or force remove"
    )]
    RemoveRunning(String),
    /// What was asked for cannot be done to the instance as it is.
    #[error("{0}")]
    Refused(String),
    /// The supervisor's word.
    #[error("{message}")]
    Told {
        /// The sentence.
        message: String,
        /// docker's exit code for it.
        code: u8,
    },
    /// The image is in use.
    #[error("cannot remove image {image}: instance {instance} {}", if *.running { "runs from it: stop it first" } else { "was made from it: remove that with `plimsoll rm` first, or use `rmi -f`" })]
    ImageInUse {
        /// The image as typed.
        image: String,
        /// Short identifier of an instance made from it.
        instance: String,
        /// Whether that instance runs; then not even force removes the image.
        running: bool,
    },
    /// The user asked for something that this backend cannot mean.
    #[error("{0}")]
    Unsupported(String),
    /// The user's value is wrong.
    #[error("invalid value {value:?} for {flag}: {reason}")]
    InvalidValue {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// Neither the image nor the command line says what to run.
    #[error(
        "no command specified: the image {0} has neither entrypoint nor command, so name one after it"
    )]
    NoCommand(String),
    /// The image names a user that it does not have.
    #[error("unable to find user {0}: no matching entries in the image's passwd and group files")]
    NoSuchUser(String),
    /// No guest kernel is there.
    #[error("no guest kernel at {}: run `make kernel` in Plimsoll's source tree, or name one with --kernel", .0.display())]
    NoGuestKernel(PathBuf),
    /// A state file does not hold what it should.
    #[error("the state file {} is damaged ({reason}): `plimsoll rm -f` removes the instance", path.display())]
    DamagedState {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
}

impl Error {
    /// docker's exit code of `run` for this: 127 for a command that is not there, 126 for one that cannot be executed,
    /// 125 for everything that is not about the command.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Guest { code, .. } | Self::Told { code, .. } => *code,
            Self::Container(container_core::Error::CommandNotFound { .. }) => 127,
            Self::Container(container_core::Error::NotExecutable { .. }) => 126,
            _ => 125,
        }
    }

    /// An [`Error::Io`].
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }
}
