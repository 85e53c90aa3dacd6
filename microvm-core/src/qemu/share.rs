//! What the guest shares under QEMU: served by virtiofsd, which has the guest's memory and a connection to QEMU
//! (vhost-user).
//!
//! virtiofsd serves one directory. It gets one that looks as our own monitor's does: a tmpfs, in a mount namespace of
//! virtiofsd's own, in which each share is mounted on an entry. The connection is made in there too, by way of a socket's
//! name that nobody else can see.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::Passed;
use super::last_lines;
use super::spawn::Child;
use crate::process::Process;
use crate::share::Shared;
use crate::{Error, Membership, Result};

/// Where the tree is, in the namespace. What else is there is of no use to virtiofsd.
const BASE: &str = "/tmp";

/// The socket's name in the tree; no share can have it.
const SOCKET: &str = "/tmp/.socket";

/// Where Debian 12 has QEMU's own virtiofsd, in C; its successor, in Rust, takes other arguments.
const IN_C: &str = "/usr/lib/qemu/virtiofsd";
const IN_RUST: &str = "/usr/libexec/virtiofsd";

/// How long virtiofsd may take to end once it has failed.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// virtiofsd, running. Dropping it kills it and waits for it.
pub(super) struct Server {
    /// The number of QEMU's end of the connection.
    pub(super) socket: RawFd,
    process: Process,
    errors: File,
}

impl Server {
    /// Starts virtiofsd with these shares; QEMU's end of the connection is among what is passed.
    pub(super) fn start(
        shares: Vec<Shared>,
        passed: &mut Passed,
        cgroup: &Membership,
    ) -> Result<Self> {
        let program = virtiofsd_binary().ok_or(Error::NoVirtiofsd)?;
        let tree = Tree::new(shares)?;
        let mut for_server = Passed::default();
        let listener = tree
            .listener
            .try_clone()
            .map_err(Error::system("copy a socket"))?;
        let arguments = arguments(&program, for_server.file(listener));
        let null = File::options()
            .write(true)
            .open("/dev/null")
            .map_err(Error::system("open /dev/null"))?;
        let child = Child::start(&program, &arguments, for_server, &null, cgroup, Some(&tree))?;
        Ok(Self {
            // virtiofsd's process has connected it, before it was virtiofsd.
            socket: passed.file(tree.client),
            process: child.process,
            errors: child.errors,
        })
    }

    /// Why it has ended, if it has.
    pub(super) fn failed(mut self) -> Option<Error> {
        self.process.wait_for(Some(LAST_WORDS)).ok().flatten()?;
        let mut text = Vec::new();
        let _ = self.errors.read_to_end(&mut text);
        let said = last_lines(&text);
        (!said.is_empty()).then(|| Error::Start(format!("virtiofsd: {said}")))
    }
}

/// Where virtiofsd is, if it is installed: on the PATH, else in one of the places where distributions put it.
pub fn virtiofsd_binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join("virtiofsd"))
        .chain([IN_RUST, IN_C].map(PathBuf::from))
        .find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    let about = path.metadata();
    about.is_ok_and(|about| {
        about.is_file()
            && std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o111 != 0
    })
}

/// Which of the host's attributes stand for a guest's: what overlayfs asks directories of a lower layer for can be read with
/// privileges only, which virtiofsd has none of, and layers of images bear it under another name too.
const XATTR_MAP: &str = "xattrmap=:prefix:all:trusted.overlay.:user.plimsoll.::ok:all:::";

/// Its arguments. It is told that attributes are valid for no time, since others may change the files, and to let pages be
/// cached, without which files cannot be mapped. The one in Rust cannot be told the former: it takes a second.
fn arguments(program: &Path, listener: i32) -> Vec<String> {
    let socket = format!("--fd={listener}");
    // Its limit of descriptors is raised as far as it may be already.
    let limit = "--rlimit-nofile=0";
    let xattr_map = format!("--{XATTR_MAP}");
    let arguments: &[&str] = match program.as_os_str() == OsStr::new(IN_C) {
        true => &[
            "-f",
            "-o",
            "source=/tmp,sandbox=chroot,cache=auto,timeout=0,xattr,log_level=warn",
            "-o",
            XATTR_MAP,
        ],
        false => &[
            "--shared-dir=/tmp",
            "--sandbox=chroot",
            "--cache=auto",
            "--xattr",
            &xattr_map,
            "--log-level=warn",
        ],
    };
    [socket.as_str(), limit]
        .iter()
        .chain(arguments)
        .map(|argument| (*argument).to_owned())
        .collect()
}

/// What virtiofsd serves, taken hold of before its process is made and put together in there.
pub(super) struct Tree {
    branches: Vec<Branch>,
    listener: OwnedFd,
    client: OwnedFd,
    address: libc::sockaddr_un,
}

/// A share: a mount that is nowhere yet, and where it will be.
struct Branch {
    path: CString,
    mount: OwnedFd,
    directory: bool,
}

impl Tree {
    fn new(shares: Vec<Shared>) -> Result<Self> {
        let branches = shares
            .into_iter()
            .map(|share| {
                let path = [BASE, "/", &share.name].concat();
                Ok(Branch {
                    path: CString::new(path).map_err(|_| io::ErrorKind::InvalidInput)?,
                    mount: take_mount(share.source.as_fd(), share.read_only)?,
                    directory: share.directory,
                })
            })
            .collect::<io::Result<_>>()
            .map_err(Error::system("take hold of what the guest shares"))?;
        Ok(Self {
            branches,
            listener: socket().map_err(Error::system("make a socket"))?,
            client: socket().map_err(Error::system("make a socket"))?,
            address: address(),
        })
    }

    /// Puts the tree together in a mount namespace of this process's own, and connects the two sockets there.
    ///
    /// For a new process, before exec: makes system calls only, allocates nothing, takes no lock.
    pub(super) fn enter(&self) -> Result<(), i32> {
        let base = c"/tmp".as_ptr();
        let none = std::ptr::null();
        // SAFETY: every path and the options end in a zero byte, every pointer is null where it may be or to memory that was
        // made before the fork; the structures are as long as we say.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            // What is mounted here is seen nowhere else; what the host unmounts is unmounted here.
            let slave = libc::MS_REC | libc::MS_SLAVE;
            check(libc::mount(none, c"/".as_ptr(), none, slave, none.cast()))?;
            let tmpfs = c"tmpfs".as_ptr();
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let options = c"mode=755,size=1m".as_ptr();
            check(libc::mount(tmpfs, base, tmpfs, flags, options.cast()))?;
            for branch in &self.branches {
                branch.attach()?;
            }
            let address = (&raw const self.address).cast();
            let length = size_of_val(&self.address) as libc::socklen_t;
            check(libc::bind(self.listener.as_raw_fd(), address, length))?;
            check(libc::listen(self.listener.as_raw_fd(), 1))?;
            check(libc::connect(self.client.as_raw_fd(), address, length))?;
            check(libc::unlink(c"/tmp/.socket".as_ptr()))?;
            let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
            check(libc::mount(none, base, none, read_only, none.cast()))?;
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
            limit.rlim_cur = limit.rlim_max;
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
        Ok(())
    }
}

impl Branch {
    /// # Safety
    /// As for [`Tree::enter`].
    unsafe fn attach(&self) -> Result<(), i32> {
        /// MOVE_MOUNT_F_EMPTY_PATH: linux/mount.h.
        const FROM_EMPTY_PATH: u32 = 4;
        // SAFETY: all paths end in a zero byte; a descriptor that is closed was just made.
        unsafe {
            if self.directory {
                check(libc::mkdir(self.path.as_ptr(), 0o755))?;
            } else {
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
                let file = libc::open(self.path.as_ptr(), flags, 0o644);
                check(file)?;
                libc::close(file);
            }
            check(libc::syscall(
                libc::SYS_move_mount,
                self.mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                self.path.as_ptr(),
                FROM_EMPTY_PATH,
            ) as i32)
        }
    }
}

fn check(result: i32) -> Result<(), i32> {
    match result {
        0.. => Ok(()),
        // SAFETY: the pointer is to this thread's error number.
        _ => Err(unsafe { *libc::__errno_location() }),
    }
}

/// A mount of what is shared and of everything mounted below it, which is nowhere, and read-only where asked.
fn take_mount(source: BorrowedFd<'_>, read_only: bool) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::AT_EMPTY_PATH as u32
        | libc::AT_RECURSIVE as u32;
    // SAFETY: the empty path ends in a zero byte.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    let mount = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    if read_only {
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_RDONLY,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        // SAFETY: the empty path ends in a zero byte, and the structure is as long as we say.
        let set = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(mount)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address() -> libc::sockaddr_un {
    // SAFETY: sockaddr_un is plain numbers; all zeros is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    address
        .sun_path
        .iter_mut()
        .zip(OsStr::new(SOCKET).as_bytes())
        .for_each(|(to, from)| *to = *from as libc::c_char);
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_told_to_serve_the_tree() {
        for program in [IN_C, IN_RUST, "/usr/local/bin/virtiofsd"] {
            let line = arguments(Path::new(program), 9).join(" ");
            assert!(line.starts_with("--fd=9 "), "{line}");
            assert!(line.contains(&format!("={BASE}")), "{line}");
            assert!(line.contains("cache=auto"), "{line}");
        }
    }
}
