//! QEMU's process, or virtiofsd's: made, put into its cgroup, and only then executed.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::process::{Fork, Process, fork_into};
use crate::{Error, Membership, Result};

use super::arguments::Passed;
use super::share::Tree;

/// A program, executed.
pub(super) struct Child {
    pub(super) process: Process,
    /// What it writes to stderr; reading does not block.
    pub(super) errors: File,
}

/// Everything the new process needs, made before the fork: after it nothing may be allocated, since another thread of this
/// process may have held the allocator's lock.
struct Plan<'a> {
    path: CString,
    arguments: Vec<*const libc::c_char>,
    null: File,
    console: RawFd,
    errors: OwnedFd,
    /// Where it says why it could not be executed: [`CGROUP`] or [`EXECUTE`], and the error's number.
    failure: OwnedFd,
    passed: Vec<RawFd>,
    parent: libc::pid_t,
    tree: Option<&'a Tree>,
}

/// What the new process failed at.
const CGROUP: u8 = 1;
const EXECUTE: u8 = 2;
const ASSEMBLE: u8 = 3;

impl Child {
    /// Starts the program with these arguments, the passed descriptors, the console as its stdout, and nothing else; in a
    /// mount namespace with this tree, if there is one.
    pub(super) fn start(
        program: &Path,
        arguments: &[String],
        passed: Passed,
        console: &File,
        cgroup: &Membership,
        tree: Option<&Tree>,
    ) -> Result<Self> {
        let failed = |what| move |error: io::Error| Error::system(what)(error);
        let strings = std::iter::once(program.as_os_str())
            .chain(arguments.iter().map(OsStr::new))
            .map(|text| CString::new(text.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failed("pass QEMU its arguments")(error.into()))?;
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let (errors, errors_end) = pipe().map_err(failed("make a pipe"))?;
        let (failure, failure_end) = pipe().map_err(failed("make a pipe"))?;
        // Whatever happens, QEMU is not held up by what nobody reads, and neither is who reads it.
        set_nonblocking(&errors).map_err(failed("set a pipe non-blocking"))?;
        set_nonblocking(&errors_end).map_err(failed("set a pipe non-blocking"))?;
        let plan = Plan {
            path: strings[0].clone(),
            arguments: pointers,
            null: File::open("/dev/null").map_err(failed("open /dev/null"))?,
            console: console.as_raw_fd(),
            errors: errors_end,
            failure: failure_end,
            passed: passed
                .descriptors()
                .iter()
                .map(AsRawFd::as_raw_fd)
                .collect(),
            // SAFETY: getpid takes nothing and cannot fail.
            parent: unsafe { libc::getpid() },
            tree,
        };
        // SAFETY: the child calls only what may be called between fork and exec (see `Plan::enter`).
        let pid = match unsafe { fork_into(cgroup) } {
            Ok(Fork::Child(entered)) => plan.enter(&entered),
            Ok(Fork::Parent(pid)) => pid,
            Err(error) => return Err(failed("make QEMU's process")(error)),
        };
        // From here on dropping `process` kills the child and waits for it.
        let process = Process::adopt(pid)?;
        drop(plan);
        drop(passed);
        let mut said = [0; 5];
        let length = File::from(failure)
            .read(&mut said)
            .map_err(failed("start QEMU's process"))?;
        let [step, errno @ ..] = said;
        let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
        match (length, step) {
            (0, _) => Ok(Self {
                process,
                errors: File::from(errors),
            }),
            (_, CGROUP) => Err(Error::Cgroup(source)),
            (_, ASSEMBLE) => Err(failed("put together what the guest shares")(source)),
            _ => Err(Error::File {
                path: program.to_owned(),
                what: "cannot execute it",
                source,
            }),
        }
    }
}

impl Plan<'_> {
    /// The child's way to exec. Only system calls, and nothing that allocates or takes a lock.
    fn enter(&self, entered: &io::Result<()>) -> ! {
        if let Err(error) = entered {
            self.fail(CGROUP, error.raw_os_error().unwrap_or(libc::EIO));
        }
        // SAFETY: every pointer is to memory that was made before the fork and is this process's own copy; the descriptors
        // are this process's; all calls are async-signal-safe.
        unsafe {
            self.prepare();
            if let Some(tree) = self.tree
                && let Err(errno) = tree.enter()
            {
                self.fail(ASSEMBLE, errno);
            }
            libc::execv(self.path.as_ptr(), self.arguments.as_ptr());
            self.fail(EXECUTE, *libc::__errno_location())
        }
    }

    /// Says why, and ends.
    fn fail(&self, step: u8, errno: i32) -> ! {
        let [a, b, c, d] = errno.to_ne_bytes();
        let said = [step, a, b, c, d];
        // SAFETY: the bytes are this process's own; _exit runs nothing that belongs to the starter.
        unsafe {
            libc::write(self.failure.as_raw_fd(), said.as_ptr().cast(), said.len());
            libc::_exit(127)
        }
    }

    /// # Safety
    /// For the new process alone, before exec.
    unsafe fn prepare(&self) {
        // SAFETY: as in `enter`.
        unsafe {
            // QEMU ends with the thread that started it, however that ends; if it has ended already, now.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != self.parent {
                libc::_exit(127);
            }
            // Away from the terminal: its ctrl-c is for the guest's process, which gets it over the control channel.
            libc::setsid();
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::dup2(self.null.as_raw_fd(), 0);
            libc::dup2(self.console, 1);
            libc::dup2(self.errors.as_raw_fd(), 2);
            // Whatever this process has inherited and nobody has marked stays behind.
            libc::syscall(
                libc::SYS_close_range,
                3,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            for descriptor in &self.passed {
                libc::fcntl(*descriptor, libc::F_SETFD, 0);
            }
        }
    }
}

/// A pipe: the end to read from, the end to write to.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((reader.into(), writer.into()))
}

fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    // SAFETY: F_SETFL takes a number; the pipe has no other status flags.
    match unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(program: &str, arguments: &[&str], cgroup: &Membership) -> Result<Child> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let console = tempfile::tempfile().unwrap();
        Child::start(
            Path::new(program),
            &arguments,
            Passed::default(),
            &console,
            cgroup,
            None,
        )
    }

    #[test]
    fn what_it_says_on_stderr_is_kept() {
        let mut child = start(
            "/bin/sh",
            &["-c", "echo woe >&2; exit 3"],
            &Membership::default(),
        )
        .unwrap();
        let status = child.process.wait_for(None).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
        let mut said = String::new();
        child.errors.read_to_string(&mut said).unwrap();
        assert_eq!(said, "woe\n");
    }

    #[test]
    fn only_passed_descriptors_are_there() {
        let mut passed = Passed::default();
        let number = passed.file(File::open("/dev/null").unwrap());
        let script =
            "exec >&2; for f in /proc/self/fd/*; do n=${f##*/}; [ -e $f ] && echo $n; done; true";
        let console = tempfile::tempfile().unwrap();
        let arguments = ["-c".to_owned(), script.to_owned()];
        let mut child = Child::start(
            Path::new("/bin/sh"),
            &arguments,
            passed,
            &console,
            &Membership::default(),
            None,
        )
        .unwrap();
        child.process.wait_for(None).unwrap();
        let mut said = String::new();
        child.errors.read_to_string(&mut said).unwrap();
        let mut found: Vec<i32> = said.lines().map(|line| line.parse().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, number]);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_its_path() {
        let error = start("/no/such/qemu", &[], &Membership::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("/no/such/qemu") && error.contains("cannot execute it"),
            "{error}"
        );
    }

    #[test]
    fn it_enters_its_cgroup_before_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = folder.path().join("tasks");
        let membership = Membership {
            unified: None,
            tasks: vec![File::create(&tasks).unwrap()],
        };
        let script = format!("cat {} >&2", tasks.display());
        let mut child = start("/bin/sh", &["-c", &script], &membership).unwrap();
        child.process.wait_for(None).unwrap();
        let mut said = String::new();
        child.errors.read_to_string(&mut said).unwrap();
        assert_eq!(said, "0");
    }

    #[test]
    fn it_does_not_run_when_it_cannot_enter_its_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("ran");
        let membership = Membership {
            unified: None,
            // Nothing can be written to it.
            tasks: vec![File::open("/dev/null").unwrap()],
        };
        let error = start("/bin/touch", &[mark.to_str().unwrap()], &membership)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("cgroup"), "{error}");
        assert!(!mark.exists());
    }

    #[test]
    fn dropping_it_kills_it() {
        let child = start("/bin/sleep", &["1000"], &Membership::default()).unwrap();
        let pid = child.process.pid();
        drop(child);
        // SAFETY: signal 0 only asks whether the process exists.
        assert_eq!(unsafe { libc::kill(pid, 0) }, -1);
    }
}
