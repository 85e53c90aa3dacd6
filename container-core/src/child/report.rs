//! What the container's process tells its launcher, and what it is told.

use crate::sys::{Errno, Fd, Result, socket};

/// A step of the container's process, for a message that says what failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    Launcher,
    UserNamespace,
    Join,
    Session,
    Keyring,
    Propagation,
    Overlay,
    OverlayLayer,
    OverlayUpper,
    OverlayWork,
    RootDirectory,
    MountSource,
    MountTarget,
    Mount,
    MountAttributes,
    CopyUp,
    CgroupEntrance,
    CgroupNamespace,
    CgroupMount,
    NetworkNamespace,
    Loopback,
    DefaultDevice,
    DefaultLink,
    Device,
    WorkingDirectory,
    Terminal,
    Console,
    Pivot,
    Chroot,
    Sysctl,
    SysctlFile,
    MaskedPath,
    ReadonlyPath,
    ReadonlyRoot,
    Hostname,
    Domainname,
    Limit,
    Personality,
    Scheduler,
    IoPriority,
    Affinity,
    OomScore,
    Init,
    Time,
    MemoryPolicy,
    Stdio,
    Groups,
    Group,
    User,
    Capabilities,
    NoNewPrivileges,
    Filter,
    /// The command was not run; the index is one of [`Refusal`].
    Execute,
}

impl Step {
    /// Every step, in the order of its number.
    const ALL: &[Self] = &[
        Self::Launcher,
        Self::UserNamespace,
        Self::Join,
        Self::Session,
        Self::Keyring,
        Self::Propagation,
        Self::Overlay,
        Self::OverlayLayer,
        Self::OverlayUpper,
        Self::OverlayWork,
        Self::RootDirectory,
        Self::MountSource,
        Self::MountTarget,
        Self::Mount,
        Self::MountAttributes,
        Self::CopyUp,
        Self::CgroupEntrance,
        Self::CgroupNamespace,
        Self::CgroupMount,
        Self::NetworkNamespace,
        Self::Loopback,
        Self::DefaultDevice,
        Self::DefaultLink,
        Self::Device,
        Self::WorkingDirectory,
        Self::Terminal,
        Self::Console,
        Self::Pivot,
        Self::Chroot,
        Self::Sysctl,
        Self::SysctlFile,
        Self::MaskedPath,
        Self::ReadonlyPath,
        Self::ReadonlyRoot,
        Self::Hostname,
        Self::Domainname,
        Self::Limit,
        Self::Personality,
        Self::Scheduler,
        Self::IoPriority,
        Self::Affinity,
        Self::OomScore,
        Self::Init,
        Self::Time,
        Self::MemoryPolicy,
        Self::Stdio,
        Self::Groups,
        Self::Group,
        Self::User,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Filter,
        Self::Execute,
    ];
}

/// Why the command was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The errno says it.
    Kernel = 0,
    /// The file is there, the loader or script interpreter it names is not.
    Interpreter = 1,
    /// It is this program's own file, by way of /proc/self/exe.
    OwnProgram = 2,
}

/// A step that failed, which of several it was, and what the kernel answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) index: u32,
    pub(crate) errno: Errno,
}

/// The result of a part of the set-up.
pub(crate) type Outcome<T> = std::result::Result<T, Failure>;

/// Names the step that a system call belongs to.
pub(crate) trait At<T> {
    /// …the only one of its kind.
    fn at(self, step: Step) -> Outcome<T>;
    /// …one of several.
    fn at_index(self, step: Step, index: usize) -> Outcome<T>;
}

impl<T> At<T> for Result<T> {
    fn at(self, step: Step) -> Outcome<T> {
        self.at_index(step, 0)
    }

    fn at_index(self, step: Step, index: usize) -> Outcome<T> {
        self.map_err(|errno| Failure {
            step,
            index: index as u32,
            errno,
        })
    }
}

/// A message of the container's process to its launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The set-up failed; the process ends.
    Failed(Failure),
    /// The master of the terminal comes with this message.
    Terminal,
    /// The set-up is done; `execve` is next. The times are the ends of the stages `rootfs` and `network` by the
    /// monotonic clock; the latter is 0 where the launcher made the network namespace or there is none.
    Ready { rootfs: u64, network: u64 },
    /// Everything is mounted, and the root not entered yet: hooks are run now.
    Mounted,
    /// The gate is behind it.
    Passed,
    /// The descriptor by which calls are answered comes with this message.
    Listener,
}

/// Bytes of a message on the socket.
pub(crate) const MESSAGE_SIZE: usize = 24;

impl Message {
    pub(crate) fn encode(self) -> [u8; MESSAGE_SIZE] {
        let (kind, first, second): (u64, u64, u64) = match self {
            Self::Failed(failure) => (
                1 | (failure.step as u64) << 32,
                u64::from(failure.index),
                u64::from(failure.errno.0.unsigned_abs()),
            ),
            Self::Terminal => (2, 0, 0),
            Self::Ready { rootfs, network } => (3, rootfs, network),
            Self::Mounted => (4, 0, 0),
            Self::Passed => (5, 0, 0),
            Self::Listener => (6, 0, 0),
        };
        let mut bytes = [0; MESSAGE_SIZE];
        for (to, from) in bytes.iter_mut().zip(
            kind.to_ne_bytes()
                .into_iter()
                .chain(first.to_ne_bytes())
                .chain(second.to_ne_bytes()),
        ) {
            *to = from;
        }
        bytes
    }

    /// Reads a message; `None` when it is none of ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (kind, first, second) = (word(0)?, word(8)?, word(16)?);
        match kind & 0xffff_ffff {
            1 => Some(Self::Failed(Failure {
                step: *Step::ALL.get((kind >> 32) as usize)?,
                index: u32::try_from(first).ok()?,
                errno: Errno(i32::try_from(second).ok()?),
            })),
            2 => Some(Self::Terminal),
            3 => Some(Self::Ready {
                rootfs: first,
                network: second,
            }),
            4 => Some(Self::Mounted),
            5 => Some(Self::Passed),
            6 => Some(Self::Listener),
            _ => None,
        }
    }

    /// Sends the message, with a descriptor when one belongs to it.
    pub(crate) fn send(self, to: Fd, descriptor: Option<Fd>) -> Result<()> {
        socket::send(to, &self.encode(), descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        for (number, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, number, "{step:?} is listed out of order");
            let message = Message::Failed(Failure {
                step: *step,
                index: 7,
                errno: Errno(libc::EPERM),
            });
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        for message in [
            Message::Terminal,
            Message::Mounted,
            Message::Passed,
            Message::Listener,
            Message::Ready {
                rootfs: 12,
                network: u64::MAX,
            },
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn noise_is_no_message() {
        assert_eq!(Message::decode(&[0xff; MESSAGE_SIZE]), None);
        assert_eq!(Message::decode(&[1; 7]), None);
        assert_eq!(Message::decode(&[]), None);
    }
}
