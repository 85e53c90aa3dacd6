//! Makes processes: what happens between a process's creation and its program's first instruction.

use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

use guest_protocol::{FailureKind, GuestConfig, Process, Started, UPPER_FD};

use crate::failure::{Context, Failure};
use crate::rootfs::{self, absolute, c_string, make_directories, mount_making};
use crate::stdio::{Ends, Stdio};
use crate::sys::process::{self, ChildStack, Namespace};
use crate::sys::{Errno, Fd, file, mount, time};

/// Where programs are looked for when the environment does not say: docker's default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that runs.
pub(crate) struct Launched {
    pub(crate) pid: u32,
    /// Becomes readable when it has ended.
    pub(crate) pidfd: Fd,
    /// The agent's ends of its stdio.
    pub(crate) stdio: Stdio,
}

/// What kind of process to make.
pub(crate) enum Role<'a> {
    /// The one that the instance is for. It is PID 1 of a PID namespace, as in a container: `$$` is 1, signals without a
    /// handler do not harm it, and all it leaves ends with it, so that nothing can outlive it or keep its output open.
    /// Orphans are its own to reap.
    Main(&'a GuestConfig),
    /// A further one.
    Further {
        /// What to execute in place of what the image has by that name.
        program: Option<&'a Fd>,
        /// What it gets as [`UPPER_FD`].
        upper: Option<&'a Fd>,
    },
}

/// Starts a process; its program has been executed when this returns.
///
/// It shares every namespace but the PIDs' with the agent, and is root of the whole machine unless `wanted` says otherwise.
pub(crate) fn launch(wanted: &Process, role: Role<'_>) -> Result<(Launched, Started), Failure> {
    let program = Program::new(wanted)?;
    let main = matches!(role, Role::Main(_));
    let (stdio, ends) = Stdio::make(wanted, main)?;
    // Boxed so that it is known to stay in its place while the child writes to it.
    let mut child = Box::new(Child {
        wanted,
        role,
        program,
        ends,
        failure: None,
    });
    let mut stack = Box::new(ChildStack([0; 16 << 10]));
    let namespace = if main {
        Namespace::New
    } else {
        Namespace::Joined
    };
    let prepared_ns = time::now();
    let argument = core::ptr::from_mut(child.as_mut()).cast();
    // SAFETY: `child` lives until after the call, and the agent is built with panic = "abort", so nothing unwinds.
    let spawned = unsafe { process::spawn(namespace, &mut stack, enter, argument) };
    let now_ns = time::now();
    let (pid, pidfd) = spawned.or_fail(|| "make a process")?;
    if let Some(failure) = child.failure.take() {
        // It has ended by itself; reaping it is tidiness.
        let _ = process::wait(pid);
        return Err(failure);
    }
    let started = Started {
        pid,
        prepared_ns,
        now_ns,
    };
    Ok((Launched { pid, pidfd, stdio }, started))
}

/// Mounts /proc as the calling process sees it.
pub(crate) fn mount_proc() -> Result<(), Failure> {
    let closed = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount_making(c"proc", c"/proc", c"proc", closed, c"").or_fail(|| "mount proc on /proc")
}

/// What parent and child share while the parent stands still.
struct Child<'a> {
    wanted: &'a Process,
    role: Role<'a>,
    program: Program,
    ends: Ends,
    failure: Option<Failure>,
}

extern "C" fn enter(argument: *mut c_void) -> ! {
    // SAFETY: `launch` passes a `Child` that it does not touch until this process has ended or executed a program.
    let child = unsafe { &mut *argument.cast::<Child<'_>>() };
    let failure = match child.prepare() {
        Ok(()) => child.execute(),
        Err(failure) => failure,
    };
    child.failure = Some(failure);
    process::exit(127)
}

impl Child<'_> {
    /// Everything before exec, in the order in which privilege is needed.
    fn prepare(&self) -> Result<(), Failure> {
        let wanted = self.wanted;
        process::new_session().or_fail(|| "make a session")?;
        self.ends.install(wanted).or_fail(|| "install stdio")?;
        if let Role::Main(_) = self.role {
            mount_proc()?;
        }
        for limit in &wanted.rlimits {
            process::set_limit(limit)
                .or_fail(|| format!("set resource limit {}", limit.resource))?;
        }
        match &self.role {
            Role::Main(config) => {
                enter_directory(&wanted.cwd)?;
                if config.read_only_rootfs {
                    rootfs::make_read_only()?;
                }
            }
            Role::Further { upper, .. } => {
                enter_existing_directory(&wanted.cwd)?;
                if let Some(upper) = upper {
                    file::duplicate(upper, UPPER_FD).or_fail(|| "pass the upper directory on")?;
                }
            }
        }
        if wanted.no_new_privileges {
            process::no_new_privileges().or_fail(|| "set no_new_privs")?;
        }
        change_user(wanted)?;
        process::set_umask(wanted.umask & 0o777);
        Ok(())
    }

    /// Becomes the program. Returns only to say why not.
    fn execute(&self) -> Failure {
        match self.role {
            Role::Further {
                program: Some(file),
                ..
            } => self.program.execute_file(file),
            _ => self.program.execute(),
        }
    }
}

/// Enters the main process's working directory, which docker makes when it is missing.
fn enter_directory(path: &str) -> Result<(), Failure> {
    let directory = absolute(path)?;
    let enter = || mount::change_directory(&directory);
    match enter() {
        Err(Errno(libc::ENOENT)) => make_directories(&directory).and_then(|()| enter()),
        other => other,
    }
    .or_fail(|| format!("enter the working directory {path}"))
}

/// Enters a further process's, which must be there; docker's exit codes tell the reasons apart as for a program.
fn enter_existing_directory(path: &str) -> Result<(), Failure> {
    mount::change_directory(&absolute(path)?).map_err(|errno| {
        let message = format!("cannot enter the working directory {path}: {errno}");
        Failure::new(kind_of(errno), message)
    })
}

fn change_user(wanted: &Process) -> Result<(), Failure> {
    let sets = wanted.capabilities.as_ref();
    if let Some(sets) = sets {
        process::bound_capabilities(sets.bounding).or_fail(|| "limit the capabilities")?;
    }
    // The agent is root without supplementary groups, so for root there is nothing to do.
    if wanted.uid != 0 || wanted.gid != 0 || !wanted.additional_gids.is_empty() {
        if sets.is_some() {
            process::keep_capabilities(true).or_fail(|| "keep the capabilities")?;
        }
        process::set_groups(&wanted.additional_gids).or_fail(|| "set the supplementary groups")?;
        process::set_ids(wanted.uid, wanted.gid)
            .or_fail(|| format!("become user {} and group {}", wanted.uid, wanted.gid))?;
    }
    if let Some(sets) = sets {
        process::set_capabilities(sets).or_fail(|| "set the capabilities")?;
    }
    Ok(())
}

/// A program with its arguments and environment, as exec takes them.
struct Program {
    /// What it is called by: the first argument.
    name: String,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// The directories to look in; empty when the name is a path.
    path: Vec<String>,
}

impl Program {
    fn new(process: &Process) -> Result<Self, Failure> {
        let Some(name) = process.args.first() else {
            return Err(Failure::config("there is no command to run"));
        };
        let strings = |texts: &[String]| {
            texts
                .iter()
                .map(|text| c_string(text))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            name: name.clone(),
            arguments: strings(&process.args)?,
            environment: strings(&process.env)?,
            path: search_path(name, &process.env),
        })
    }

    /// Becomes what the image has by the program's name. Returns only to say why not.
    fn execute(&self) -> Failure {
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        if self.path.is_empty() {
            let Ok(path) = c_string(&self.name) else {
                return self.failure(Errno(libc::EINVAL));
            };
            let errno = process::execute(&path, &arguments, &environment);
            return match errno {
                Errno(libc::ENOENT) if !self.name.is_empty() && file::exists(&path) => {
                    self.lacks_interpreter()
                }
                errno => self.failure(errno),
            };
        }
        let mut refused = None;
        for directory in &self.path {
            let Ok(path) = c_string(&format!("{directory}/{}", self.name)) else {
                continue;
            };
            match process::execute(&path, &arguments, &environment) {
                Errno(libc::ENOENT) if file::exists(&path) => return self.lacks_interpreter(),
                // Not here: the next directory may have it.
                Errno(libc::ENOENT | libc::ENOTDIR) => {}
                errno @ Errno(libc::EACCES) => refused = Some(errno),
                errno => return self.failure(errno),
            }
        }
        match refused {
            Some(errno) => self.failure(errno),
            None => Failure::new(
                FailureKind::NotFound,
                format!("exec: {:?}: executable file not found in $PATH", self.name),
            ),
        }
    }

    /// Becomes what this file holds. Returns only to say why not.
    fn execute_file(&self, file: &Fd) -> Failure {
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        self.failure(process::execute_file(file, &arguments, &environment))
    }

    /// Why exec failed.
    fn failure(&self, errno: Errno) -> Failure {
        Failure::new(kind_of(errno), format!("exec: {:?}: {errno}", self.name))
    }

    /// The file is there, and what its first line or its ELF header names is not.
    fn lacks_interpreter(&self) -> Failure {
        Failure::new(
            FailureKind::NotFound,
            format!(
                "exec: {:?}: the image lacks the interpreter or loader that the file names",
                self.name
            ),
        )
    }
}

/// The strings as exec takes them.
fn pointers(strings: &[CString]) -> Vec<*const u8> {
    let mut pointers: Vec<*const u8> = strings
        .iter()
        .map(|string| string.as_ptr().cast())
        .collect();
    pointers.push(core::ptr::null());
    pointers
}

/// Sorts of failures, as docker's exit codes tell them apart.
fn kind_of(errno: Errno) -> FailureKind {
    match errno.0 {
        libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG => FailureKind::NotFound,
        libc::E2BIG | libc::ENOMEM => FailureKind::System,
        _ => FailureKind::NotExecutable,
    }
}

/// Where to look for a program of this name: nowhere when it is a path. An empty entry of PATH is the working directory.
fn search_path(name: &str, environment: &[String]) -> Vec<String> {
    if name.contains('/') || name.is_empty() {
        return Vec::new();
    }
    let path = environment
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| String::from(if directory.is_empty() { "." } else { directory }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn program(name: &str, environment: &[&str]) -> Program {
        let process = Process {
            args: vec![String::from(name)],
            env: environment
                .iter()
                .map(|entry| String::from(*entry))
                .collect(),
            cwd: String::from("/"),
            uid: 0,
            gid: 0,
            additional_gids: vec![],
            umask: 0o22,
            terminal: None,
            stdin: false,
            rlimits: vec![],
            no_new_privileges: false,
            capabilities: None,
        };
        Program::new(&process).unwrap()
    }

    #[test]
    fn a_path_is_not_looked_up() {
        assert!(search_path("./x", &[]).is_empty());
        assert!(search_path("/bin/x", &[]).is_empty());
    }

    #[test]
    fn the_environment_says_where_to_look_and_docker_does_without_it() {
        assert_eq!(
            search_path("x", &[String::from("PATH=/a::/b")]),
            ["/a", ".", "/b"]
        );
        assert_eq!(search_path("x", &[]).len(), 6);
    }

    #[test]
    fn a_program_that_is_nowhere_is_not_found() {
        let failure = program("plimsoll-no-such-program", &["PATH=/bin:/usr/bin"]).execute();
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert_eq!(
            failure.message,
            "exec: \"plimsoll-no-such-program\": executable file not found in $PATH"
        );
        assert_eq!(
            program("/no/such", &[]).execute().kind,
            FailureKind::NotFound
        );
        assert_eq!(program("", &[]).execute().kind, FailureKind::NotFound);
    }

    #[test]
    fn a_file_that_is_no_program_is_not_executable() {
        let failure = program("/proc/version", &[]).execute();
        assert_eq!(failure.kind, FailureKind::NotExecutable);
        assert_eq!(
            failure.message,
            "exec: \"/proc/version\": permission denied"
        );
        assert_eq!(
            program("/proc", &[]).execute().kind,
            FailureKind::NotExecutable
        );
        assert_eq!(
            program("sys", &["PATH=/proc"]).execute().kind,
            FailureKind::NotExecutable
        );
    }

    #[test]
    fn a_script_without_its_interpreter_says_so() {
        let path =
            std::env::temp_dir().join(std::format!("plimsoll-script-{}", std::process::id()));
        std::fs::write(&path, "#!/no/such/shell\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let failure = program(path.to_str().unwrap(), &[]).execute();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert!(
            failure.message.contains("interpreter"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn no_command_is_refused() {
        let mut process = Process {
            args: vec![],
            env: vec![],
            cwd: String::new(),
            uid: 0,
            gid: 0,
            additional_gids: vec![],
            umask: 0,
            terminal: None,
            stdin: false,
            rlimits: vec![],
            no_new_privileges: false,
            capabilities: None,
        };
        assert!(Program::new(&process).is_err());
        process.args = vec![String::from("a\0b")];
        assert!(Program::new(&process).is_err());
    }
}
