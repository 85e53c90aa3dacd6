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

/// The stack of the thread that lets go of the host's root, bytes.
const STACK: usize = 64 << 10;

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

/// Leaves the host's mounts, network, semaphores and name; its processes were left with the fork. Without the privilege
/// for that, a user namespace gives it, in which nobody is anybody.
pub(super) fn leave(privileged: bool) -> io::Result<()> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if !privileged {
        flags |= libc::CLONE_NEWUSER;
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

/// Makes an empty directory, to which nothing can be added, the root. The thread that comes back lets go of the host's:
/// the kernel waits for all its processors in that, which takes a while.
pub(super) fn empty_root() -> io::Result<Option<JoinHandle<io::Result<()>>>> {
    // SAFETY: all strings end in a zero or are null where nothing is meant, and the descriptors are open.
    let pivoted = unsafe {
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
        check(libc::syscall(
            libc::SYS_move_mount,
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            c"/".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        ))?;
        check(libc::fchdir(root.as_raw_fd()).into())?;
        check(libc::syscall(
            libc::SYS_pivot_root,
            c".".as_ptr(),
            c".".as_ptr(),
        ))
    };
    match pivoted {
        Ok(_) => {}
        // The host's root is its initramfs, which cannot be left: it stays below, where no path leads.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // SAFETY: the path ends in a zero.
            check(unsafe { libc::chroot(c".".as_ptr()) }.into())?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    Builder::new()
        .name("leave".to_owned())
        .stack_size(STACK)
        // After the pivot the old root lies upon the new one, at the working directory.
        // SAFETY: the path ends in a zero.
        .spawn(|| check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into()).map(drop))
        .map(Some)
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
