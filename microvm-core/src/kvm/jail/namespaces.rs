//! Namespaces of the monitor's own, around an empty root directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::thread::{Builder, JoinHandle};

use crate::share::Shared;

/// From include/uapi/linux/mount.h.
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// From include/uapi/linux/sockios.h.
const SIOCGSKNS: u64 = 0x894c;

/// struct mount_attr.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// What a system call gives, or why it failed.
fn check(result: i64) -> io::Result<i64> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn descriptor(result: i64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts each share behind a mount that is nowhere: `..` leads no further than what is shared, and where nothing may be
/// written the kernel itself sees to that. Must be done where the host's mounts are.
pub(super) fn cut_off(shares: &mut [Shared]) -> io::Result<()> {
    for share in shares {
        let flags =
            libc::O_CLOEXEC as u32 | OPEN_TREE_CLONE | AT_RECURSIVE | libc::AT_EMPTY_PATH as u32;
        // SAFETY: the empty path ends in a zero.
        let mount = descriptor(unsafe {
            libc::syscall(
                libc::SYS_open_tree,
                share.source.as_raw_fd(),
                c"".as_ptr(),
                flags,
            )
        })?;
        if share.read_only {
            let attributes = Attributes {
                set: MOUNT_ATTR_RDONLY,
                ..Attributes::default()
            };
            // SAFETY: the empty path ends in a zero, and the structure is as long as we say.
            check(unsafe {
                libc::syscall(
                    libc::SYS_mount_setattr,
                    mount.as_raw_fd(),
                    c"".as_ptr(),
                    AT_RECURSIVE | libc::AT_EMPTY_PATH as u32,
                    &raw const attributes,
                    size_of_val(&attributes),
                )
            })?;
        }
        share.source = mount;
    }
    Ok(())
}

/// Leaves the host's mounts, semaphores and name; its processes were left with the fork, and its network is in a moment.
/// Without the privilege for that, a user namespace gives it, in which nobody is anybody; then the network is left too.
pub(super) fn leave(privileged: bool) -> io::Result<()> {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if !privileged {
        flags |= libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
    }
    // SAFETY: unshare takes a number; the names are as long as we say.
    unsafe {
        check(libc::unshare(flags).into())?;
        // The host's names are nobody's business in here.
        check(libc::sethostname(c"".as_ptr(), 0).into())?;
        check(libc::setdomainname(c"".as_ptr(), 0).into())?;
    }
    Ok(())
}

/// A network namespace in the making: it takes a tenth of a start, and nothing else waits for it.
pub(super) struct Network(JoinHandle<io::Result<OwnedFd>>);

impl Network {
    /// Lets a thread make it.
    pub(super) fn make() -> io::Result<Self> {
        Builder::new()
            .name("network".to_owned())
            .stack_size(super::STACK)
            .spawn(|| {
                // SAFETY: unshare, socket and this ioctl take numbers.
                unsafe {
                    check(libc::unshare(libc::CLONE_NEWNET).into())?;
                    let socket = descriptor(
                        libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
                            .into(),
                    )?;
                    // The namespace that a socket is in, without a path to it.
                    descriptor(libc::ioctl(socket.as_raw_fd(), SIOCGSKNS).into())
                }
            })
            .map(Self)
    }

    /// Takes the calling thread there.
    pub(super) fn enter(self) -> io::Result<()> {
        let namespace = self
            .0
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        // SAFETY: setns takes two numbers.
        check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }.into()).map(drop)
    }
}

/// Makes an empty directory, to which nothing can be added, the root. What comes back is the host's root, which no path
/// leads to any more.
pub(super) fn empty_root() -> io::Result<OwnedFd> {
    // SAFETY: all strings end in a zero or are null where nothing is meant, and the descriptors are open.
    unsafe {
        // Nothing that is done here may reach the host's mounts.
        check(
            libc::mount(
                ptr::null(),
                c"/".as_ptr(),
                ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                ptr::null(),
            )
            .into(),
        )?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let host = descriptor(libc::open(c"/".as_ptr(), flags).into())?;
        let system = descriptor(libc::syscall(
            libc::SYS_fsopen,
            c"tmpfs".as_ptr(),
            FSOPEN_CLOEXEC,
        ))?;
        check(libc::syscall(
            libc::SYS_fsconfig,
            system.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            ptr::null::<u8>(),
            ptr::null::<u8>(),
            0,
        ))?;
        let root = descriptor(libc::syscall(
            libc::SYS_fsmount,
            system.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        ))?;
        // Anywhere but on the root itself, which could then not be unmounted alone. pivot_root(2) would leave the host's root
        // above this one, in reach until it is unmounted, which takes longer than everything else here.
        check(libc::syscall(
            libc::SYS_move_mount,
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            c"/proc".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        ))?;
        check(libc::fchdir(root.as_raw_fd()).into())?;
        check(libc::chroot(c".".as_ptr()).into())?;
        Ok(host)
    }
}

/// Makes a directory the calling thread's own working directory.
pub(super) fn stand_in(directory: &OwnedFd) -> io::Result<()> {
    // SAFETY: both take numbers.
    unsafe {
        check(libc::unshare(libc::CLONE_FS).into())?;
        check(libc::fchdir(directory.as_raw_fd()).into()).map(drop)
    }
}

/// Unmounts everything from the working directory on.
pub(super) fn unmount_here() -> io::Result<()> {
    // SAFETY: the path ends in a zero.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into()).map(drop)
}

/// How much address space this process has, bytes.
pub(super) fn address_space() -> io::Result<u64> {
    const PAGE: u64 = 4096;
    let mut text = String::new();
    // A few numbers of pages, the first of which is the one (proc(5), /proc/pid/statm).
    File::open("/proc/self/statm")?
        .take(256)
        .read_to_string(&mut text)?;
    let pages = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<u64>().ok());
    pages
        .map(|pages| pages * PAGE)
        .ok_or_else(|| io::Error::other("/proc/self/statm holds no number"))
}
