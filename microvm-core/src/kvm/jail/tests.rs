//! The jail from inside: what somebody can do there who runs as they like in a virtual CPU's thread.
//!
//! Each attempt is made twice. Without the filter of system calls, the other walls must hold; with it, nothing is left
//! after the attempt.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::kvm::tests::{Guest, SPIN, guest};
use crate::kvm::{launch, open};
use crate::{End, Share};

/// What is done in the place of the first virtual CPU; what it says is how the machine ends.
#[derive(Clone)]
pub(in crate::kvm) struct Intruder {
    pub(in crate::kvm) act: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether system calls are filtered; without, the other walls are seen.
    pub(super) filtered: bool,
}

/// Runs a machine with an intruder that does this.
fn intrude(guest: &Guest, filtered: bool, act: impl Fn() -> String + Send + Sync + 'static) -> End {
    let (mut parts, control) = open(&guest.config).unwrap();
    let act = Arc::new(act);
    parts.intruder = Some(Intruder { act, filtered });
    launch(parts, control, &crate::Membership::default())
        .unwrap()
        .wait_for(Some(Duration::from_secs(60)))
        .unwrap()
        .expect("an intruder comes to an end")
}

/// Lets this thread make the system calls of one that serves files, and no others: any other ends the tests.
pub(crate) fn seal_for_files() {
    static FILTERS: std::sync::OnceLock<Filters> = std::sync::OnceLock::new();
    FILTERS
        .get_or_init(|| Filters::new(true).unwrap())
        .install(Work::Files)
        .unwrap();
}

/// What a call came to, as text.
fn told(result: i64) -> String {
    match result {
        0.. => "done".to_owned(),
        _ => {
            let error = io::Error::last_os_error();
            let number = error.raw_os_error().unwrap_or_default();
            match number {
                libc::EPERM => "EPERM".to_owned(),
                libc::EACCES => "EACCES".to_owned(),
                libc::ENOENT => "ENOENT".to_owned(),
                libc::ESRCH => "ESRCH".to_owned(),
                libc::ENOSYS => "ENOSYS".to_owned(),
                libc::EROFS => "EROFS".to_owned(),
                libc::ENETUNREACH => "ENETUNREACH".to_owned(),
                libc::ECONNREFUSED => "ECONNREFUSED".to_owned(),
                _ => error.to_string(),
            }
        }
    }
}

/// An attempt: its name, what it comes to without the filter, and how it is made.
type Attempt = (&'static str, &'static [&'static str], fn(&Outside) -> i64);

/// What of the host an attempt is made at.
#[derive(Clone, Copy)]
struct Outside {
    process: i32,
    port: u16,
}

fn path(path: &CStr) -> i64 {
    // SAFETY: the path ends in a zero.
    unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }.into()
}

fn connect(family: i32, address: *const libc::sockaddr, length: usize) -> i64 {
    // SAFETY: the caller's address is as long as it says.
    unsafe {
        let socket = libc::socket(family, libc::SOCK_STREAM, 0);
        if socket < 0 {
            return -1;
        }
        libc::connect(socket, address, length as u32).into()
    }
}

const ATTEMPTS: &[Attempt] = &[
    ("open /etc/passwd", &["ENOENT"], |_| path(c"/etc/passwd")),
    ("open /proc/self/mem", &["ENOENT"], |_| {
        path(c"/proc/self/mem")
    }),
    ("open /dev/kvm", &["ENOENT"], |_| path(c"/dev/kvm")),
    ("open /../etc/passwd", &["ENOENT"], |_| {
        path(c"/../etc/passwd")
    }),
    ("open ../../etc/passwd", &["ENOENT"], |_| {
        path(c"../../etc/passwd")
    }),
    ("make a file", &["EROFS", "EACCES"], |_| {
        // SAFETY: the path ends in a zero.
        unsafe { libc::open(c"/made".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600) }.into()
    }),
    ("mount proc", &["EPERM"], |_| {
        // SAFETY: all strings end in a zero, and null is no data.
        unsafe {
            libc::mount(
                c"proc".as_ptr(),
                c"/".as_ptr(),
                c"proc".as_ptr(),
                0,
                std::ptr::null(),
            )
        }
        .into()
    }),
    ("unmount the root", &["EPERM"], |_| {
        // SAFETY: the path ends in a zero.
        unsafe { libc::umount2(c"/".as_ptr(), libc::MNT_DETACH) }.into()
    }),
    ("make a mount namespace", &["EPERM"], |_| {
        // SAFETY: unshare takes a number.
        unsafe { libc::unshare(libc::CLONE_NEWNS) }.into()
    }),
    ("make a network namespace", &["EPERM"], |_| {
        // SAFETY: unshare takes a number.
        unsafe { libc::unshare(libc::CLONE_NEWNET) }.into()
    }),
    ("kill the starter", &["ESRCH"], |outside| {
        // SAFETY: kill takes numbers; were it heard, signal 0 would do nothing.
        unsafe { libc::kill(outside.process, 0) }.into()
    }),
    ("kill everybody else", &["ESRCH"], |_| {
        // SAFETY: kill takes numbers; were it heard, signal 0 would do nothing.
        unsafe { libc::kill(-1, 0) }.into()
    }),
    ("trace the starter", &["ESRCH"], |outside| {
        // SAFETY: this request takes a process and touches no memory.
        unsafe { libc::ptrace(libc::PTRACE_ATTACH, outside.process, 0, 0) }
    }),
    ("read the starter's memory", &["ESRCH"], |outside| {
        let mut byte = [0u8];
        let local = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        // SAFETY: the vectors are valid; the remote one is for the kernel to check.
        unsafe { libc::process_vm_readv(outside.process, &local, 1, &local, 1, 0) as i64 }
    }),
    ("hold the starter by a pidfd", &["ESRCH"], |outside| {
        // SAFETY: pidfd_open takes numbers.
        unsafe { libc::syscall(libc::SYS_pidfd_open, outside.process, 0) }
    }),
    (
        "connect to the host's loopback",
        &["ENETUNREACH"],
        |outside| {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: outside.port.to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
                },
                sin_zero: [0; 8],
            };
            connect(
                libc::AF_INET,
                (&raw const address).cast(),
                size_of_val(&address),
            )
        },
    ),
    (
        "connect to an abstract socket",
        &["ECONNREFUSED"],
        |outside| {
            let address = socket_name(outside.process);
            connect(
                libc::AF_UNIX,
                (&raw const address).cast(),
                size_of_val(&address),
            )
        },
    ),
    ("open a raw socket", &["EPERM"], |_| {
        // SAFETY: socket takes numbers.
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into()
    }),
    ("execute a shell", &["ENOENT"], |_| {
        let arguments = [c"sh".as_ptr(), std::ptr::null()];
        // SAFETY: the path ends in a zero, and the list in a null.
        unsafe { libc::execv(c"/bin/sh".as_ptr(), arguments.as_ptr()) }.into()
    }),
    ("execute what is open", &["EACCES", "EPERM"], |_| {
        let arguments = [c"".as_ptr(), std::ptr::null()];
        let empty = [std::ptr::null::<u8>()];
        // SAFETY: the path ends in a zero, and both lists in a null. Descriptor 0 is /dev/null.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                0,
                c"".as_ptr(),
                arguments.as_ptr(),
                empty.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        }
    }),
    ("become root", &["EPERM"], |_| {
        // SAFETY: the raw call takes a number, for this thread.
        unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) }
    }),
    ("load a module", &["EPERM", "ENOSYS"], |_| {
        // SAFETY: finit_module takes numbers and a string that ends in a zero.
        unsafe { libc::syscall(libc::SYS_finit_module, 0, c"".as_ptr(), 0) }
    }),
    ("set the host's clock", &["EPERM"], |_| {
        let time = libc::timespec {
            tv_sec: i64::MAX,
            tv_nsec: -1,
        };
        // SAFETY: the time is valid to read, and no time that a clock can have.
        match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) } {
            0 => 0,
            // The kernel looks at the time before it looks at who asks.
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => {
                // SAFETY: umask takes a number, and the name is empty: who may set it, may set the clock.
                unsafe { libc::sethostname(c"x".as_ptr(), 1).into() }
            }
            _ => -1,
        }
    }),
];

fn socket_name(process: i32) -> libc::sockaddr_un {
    let mut address = libc::sockaddr_un {
        sun_family: libc::AF_UNIX as u16,
        sun_path: [0; 108],
    };
    for (to, from) in address.sun_path[1..]
        .iter_mut()
        .zip(format!("plimsoll-test-{process}").bytes())
    {
        *to = from as libc::c_char;
    }
    address
}

/// Something on the host for the attempts, which is there as long as the sockets are.
fn outside() -> (Outside, std::net::TcpListener, RawFd) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let process = std::process::id() as i32;
    let address = socket_name(process);
    // SAFETY: the address is as long as we say. Another test of this process may have bound the name: then it listens.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        libc::bind(
            socket,
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        );
        libc::listen(socket, 1);
        socket
    };
    let port = listener.local_addr().unwrap().port();
    (Outside { process, port }, listener, socket)
}

/// Whether this process may give a monitor namespaces: as root.
fn is_root() -> bool {
    let root = may_administer();
    if !root {
        eprintln!("skipped: the jail's namespaces need root");
    }
    root
}

#[test]
fn without_its_filter_the_jail_still_holds() {
    let Some(guest) = guest(SPIN) else { return };
    if !is_root() {
        return;
    }
    let (outside, _listener, _socket) = outside();
    let report = intrude(&guest, false, move || {
        let lines: Vec<String> = ATTEMPTS
            .iter()
            .map(|(name, _, attempt)| format!("{name}: {}", told(attempt(&outside))))
            .collect();
        lines.join("\n")
    });
    let End::MonitorFailed(report) = report else {
        panic!("{report}")
    };
    for (line, (name, allowed, _)) in report.lines().zip(ATTEMPTS) {
        let outcome = line.strip_prefix(&format!("{name}: ")).unwrap();
        assert!(allowed.contains(&outcome), "{line}, not {allowed:?}");
    }
    assert_eq!(report.lines().count(), ATTEMPTS.len());
}

#[test]
fn with_its_filter_nothing_is_left_after_any_attempt() {
    let Some(guest) = guest(SPIN) else { return };
    if !is_root() {
        return;
    }
    let (outside, _listener, _socket) = outside();
    for (name, _, attempt) in ATTEMPTS {
        let end = intrude(&guest, true, move || {
            format!("{name}: {}", told(attempt(&outside)))
        });
        assert_eq!(end, End::Killed(libc::SIGSYS), "{name}");
        assert!(end.to_string().contains("system call that it may not"));
    }
}

#[test]
fn the_jail_is_empty_and_its_prisoner_nobody() {
    let Some(guest) = guest(SPIN) else { return };
    if !is_root() {
        return;
    }
    let report = intrude(&guest, false, || {
        // SAFETY: these take nothing.
        let (uid, gid, pid) = unsafe { (libc::getuid(), libc::getgid(), libc::getpid()) };
        // SAFETY: prctl takes numbers.
        let (dumpable, no_new) = unsafe {
            (
                libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0),
                libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
            )
        };
        let root = std::fs::read_dir("/").map(Iterator::count);
        // SAFETY: the kernel writes at most as much as there is room for.
        let groups = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
        let mut name = [0u8; 65];
        // SAFETY: as before.
        unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) };
        format!(
            "{} {} {pid} {dumpable} {no_new} {root:?} {groups} {}",
            uid == gid && uid > 0x7000_0000,
            credentials::capabilities(),
            name[0]
        )
    });
    assert_eq!(
        report,
        End::MonitorFailed("true 0 1 0 1 Ok(0) 0 0".to_owned())
    );
}

#[test]
fn a_monitor_that_shares_files_keeps_only_what_that_takes() {
    let Some(mut guest) = guest(SPIN) else { return };
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("secret"), "").unwrap();
    for (read_only, powers) in [(true, "4"), (false, "880000df")] {
        guest.config.shares = vec![Share {
            name: "0".to_owned(),
            source: std::fs::File::open(&inside).unwrap().into(),
            read_only,
        }];
        let mut vm = crate::Hypervisor::launch(&crate::kvm::Kvm, &guest.config).unwrap();
        let mut found: Vec<String> = std::fs::read_dir(format!("/proc/{}/task", vm.pid()))
            .unwrap()
            .map(|task| {
                let status = task.unwrap().path().join("status");
                let status = std::fs::read_to_string(status).unwrap();
                let line = |key| {
                    let line = status.lines().find_map(|line| line.strip_prefix(key));
                    line.unwrap().trim().to_owned()
                };
                let capabilities = line("CapPrm:");
                format!(
                    "{} {} {}",
                    line("Name:"),
                    capabilities.trim_start_matches('0'),
                    line("Seccomp:")
                )
            })
            // A thread of the kernel's, which KVM gives to each machine, and one that ends by itself.
            .filter(|line| !line.starts_with("kvm-") && !line.starts_with("leave"))
            .collect();
        found.sort_unstable();
        let files = format!("files {powers} 2");
        assert_eq!(found, [files.as_str(), "plimsoll-vmm  2", "vcpu0  2"]);
        vm.kill().unwrap();
        vm.wait().unwrap();
    }
}

#[test]
fn what_is_shared_is_all_that_its_descriptor_leads_to() {
    let Some(mut guest) = guest(SPIN) else { return };
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("secret"), "").unwrap();
    guest.config.shares = vec![Share {
        name: "0".to_owned(),
        source: std::fs::File::open(&inside).unwrap().into(),
        read_only: true,
    }];
    let report = intrude(&guest, false, || {
        let mut found = 0;
        let escaped = (0..DESCRIPTORS as i32).any(|descriptor| {
            // SAFETY: the path ends in a zero; a number that is no descriptor is an error.
            unsafe {
                let above = libc::openat(descriptor, c"..".as_ptr(), libc::O_PATH);
                found += i32::from(above >= 0);
                libc::faccessat(above.as_raw_fd(), c"secret".as_ptr(), libc::F_OK, 0) == 0
                    || libc::mkdirat(descriptor, c"made".as_ptr(), 0o700) == 0
            }
        });
        format!("{} {escaped}", found > 0)
    });
    assert_eq!(report, End::MonitorFailed("true false".to_owned()));
    assert!(std::fs::read_dir(&inside).unwrap().next().is_none());
}

#[test]
fn the_monitor_is_in_namespaces_of_its_own_and_holds_no_mount_of_the_hosts() {
    let Some(guest) = guest(SPIN) else { return };
    if !is_root() {
        return;
    }
    let vm = crate::Hypervisor::launch(&crate::kvm::Kvm, &guest.config).unwrap();
    let of = |process: &str, kind: &str| {
        std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap()
    };
    let pid = vm.pid().to_string();
    for kind in ["mnt", "net", "ipc", "uts", "pid"] {
        assert_ne!(of(&pid, kind), of("self", kind), "{kind}");
    }
    // A thread lets go of them, and ends.
    let mounts = || std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mut tries = 0;
    while !mounts().is_empty() && tries < 1000 {
        std::thread::sleep(Duration::from_millis(10));
        tries += 1;
    }
    assert_eq!(mounts(), "");
}
