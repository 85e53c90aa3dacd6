//! Starting a container.

mod describe;
mod network;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::Spec;

use crate::cgroup::{self, Cgroup};
use crate::child::report::{MESSAGE_SIZE, Message};
use crate::child::{self, ChildStdio};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::stage::Stage;
use crate::sys::clone::{self, Child};
use crate::sys::process::{self, Ended};
use crate::sys::{self, Errno, socket};

/// Where the container's root file system comes from.
#[derive(Clone, Copy, Debug)]
pub enum Rootfs<'a> {
    /// An overlay, mounted in the container's own mount namespace: it never appears in the host's table of mounts.
    Overlay {
        /// Read-only layers, the topmost first; at most 500. All paths are absolute.
        lower: &'a [PathBuf],
        /// The directory that receives the container's changes.
        upper: &'a Path,
        /// An empty directory on the same file system as `upper`.
        work: &'a Path,
        /// Never flush the upper layer to disk, not even when the container asks for it (overlay's `volatile`). An
        /// overlay otherwise writes its whole upper file system back when it is taken down.
        volatile: bool,
    },
    /// A directory. Without a mount namespace in the specification, it is entered by chroot(2).
    Directory(&'a Path),
    /// `root.path` of the specification, taken from this bundle directory.
    Bundle(&'a Path),
    /// The host's own root file system.
    Host,
}

/// The container's standard input, output and error.
#[derive(Debug)]
pub enum Stdio {
    /// The launcher's own.
    Inherit {
        /// Pass standard input too; otherwise the container reads from /dev/null.
        stdin: bool,
    },
    /// These three. The launcher keeps no copy.
    Descriptors([OwnedFd; 3]),
    /// A pseudo-terminal from the container's own devpts; [`Container::terminal`] is its master.
    Terminal {
        /// Height of the window in characters; 0 leaves it unset.
        rows: u16,
        /// Width of the window in characters; 0 leaves it unset.
        columns: u16,
    },
}

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Names the container's cgroup, `/plimsoll/<id>`, unless the specification has a `linux.cgroupsPath`.
    pub id: &'a str,
    /// What to run and in what. `root.path` and `process.terminal` are not read here: [`Launch::rootfs`] and
    /// [`Launch::stdio`] say it.
    pub spec: &'a Spec,
    /// The root file system.
    pub rootfs: Rootfs<'a>,
    /// The standard streams.
    pub stdio: Stdio,
}

/// Refuses an ID that could name something else than a cgroup of ours.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let first = id
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+'));
    if first && rest && id.len() <= 255 {
        Ok(())
    } else {
        Err(Error::InvalidId { id: id.to_owned() })
    }
}

/// Starts a container. When this returns, its command has been executed.
///
/// The container dies with the thread that called this (`PR_SET_PDEATHSIG`): call it from one that lives as long as
/// the container shall, such as the main thread. Other threads may exist.
pub fn start(launch: Launch<'_>) -> Result<Container> {
    check_id(launch.id)?;
    let plan = Plan::new(launch.spec, &launch.rootfs)?;
    let cgroup = match cgroup_of(&launch)? {
        Some((path, resources)) => Some(Cgroup::plan(&path, &resources)?),
        None => None,
    };
    let view = cgroup.as_ref().map(Cgroup::view).unwrap_or_default();
    // In a user namespace the process may not: the launcher puts it there.
    let enters = !plan.namespaces.has_user();
    let entrances = cgroup
        .as_ref()
        .filter(|_| enters)
        .map(Cgroup::entrances)
        .unwrap_or_default();
    let mut starting = Starting {
        child: None,
        cgroup,
        stages: Vec::with_capacity(5),
    };

    let [ours, theirs] =
        socket::pair().map_err(|errno| Error::setup("make a socket pair", errno))?;
    // SAFETY: the call above made both descriptors, and nobody else knows them.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let launcher = this_process()?;
    let own_program = own_program()?;
    let streams = Streams::new(launch.stdio)?;

    // On version 2 the process is born in its cgroup; those of version 1 are made while it makes its mounts.
    let born_in = match &mut starting.cgroup {
        Some(cgroup) => cgroup.make_unified()?,
        None => None,
    };
    let context = child::Context {
        plan: &plan,
        cgroups: &view,
        entrances: &entrances,
        socket: theirs.as_raw_fd(),
        launcher: launcher.as_raw_fd(),
        own_program,
        stdio: streams.child(),
    };
    let child = clone_into_namespaces(&plan, &context, born_in.as_ref().map(AsFd::as_fd))?;
    let pid = child.pid;
    starting.child = Some(child);
    starting.reached("clone");
    drop((theirs, streams, born_in));

    if plan.namespaces.makes_user() {
        write_mappings(pid, &plan)?;
        tell(&ours, None)?;
    }
    if let Some(adjustment) = plan.process.oom_score_adj {
        set_oom_score_adj(pid, adjustment)?;
    }
    if let Some(cgroup) = &mut starting.cgroup {
        cgroup.make_controllers((!enters).then_some(pid as u32))?;
        starting.reached("cgroup");
    }
    let network = if plan.namespaces.network_by_launcher() {
        Some(network::new_namespace()?)
    } else {
        None
    };
    if network.is_some() {
        starting.reached("network");
    }
    tell(&ours, network.as_ref().map(AsFd::as_fd))?;
    drop(network);
    // Held, so that the end of the process does not wait for the namespace to be taken down (see Container::wait).
    let mounts = match plan.namespaces.makes_mount() {
        true => fs::File::open(format!("/proc/{pid}/ns/mnt"))
            .ok()
            .map(OwnedFd::from),
        false => None,
    };
    let terminal = listen(&mut starting, &ours, &plan)?;
    starting.reached("exec");
    starting.finish(|child, stages, cgroup| {
        Container::new(
            launch.id,
            child.pid,
            child.pidfd,
            terminal,
            mounts,
            stages,
            cgroup,
        )
    })
}

/// The container's standard streams on the launcher's side, kept until the process has its copies.
enum Streams {
    Null(fs::File),
    Inherited,
    Given([OwnedFd; 3]),
    Terminal { rows: u16, columns: u16 },
}

impl Streams {
    fn new(stdio: Stdio) -> Result<Self> {
        Ok(match stdio {
            Stdio::Inherit { stdin: true } => Self::Inherited,
            Stdio::Inherit { stdin: false } => Self::Null(
                fs::File::open("/dev/null")
                    .map_err(|error| Error::setup("open /dev/null", error))?,
            ),
            Stdio::Descriptors(three) => Self::Given(three),
            Stdio::Terminal { rows, columns } => Self::Terminal { rows, columns },
        })
    }

    fn child(&self) -> ChildStdio {
        match self {
            Self::Null(null) => ChildStdio::Descriptors([null.as_raw_fd(), 1, 2]),
            Self::Inherited => ChildStdio::Descriptors([0, 1, 2]),
            Self::Given(three) => {
                ChildStdio::Descriptors([0, 1, 2].map(|stream: usize| three[stream].as_raw_fd()))
            }
            Self::Terminal { rows, columns } => ChildStdio::Terminal {
                rows: *rows,
                columns: *columns,
            },
        }
    }
}

/// Follows the process until it executes its command: its terminal, or what went wrong.
fn listen(starting: &mut Starting, socket: &OwnedFd, plan: &Plan) -> Result<Option<OwnedFd>> {
    let mut terminal = None;
    let mut ready = false;
    loop {
        let mut bytes = [0; MESSAGE_SIZE];
        let (length, descriptor) = match socket::receive(socket.as_raw_fd(), &mut bytes) {
            Ok(received) => received,
            // The process ended without reading what was sent to it. This is told once, before what it said itself.
            Err(Errno(libc::ECONNRESET)) => continue,
            Err(errno) => return Err(Error::setup("hear from the container's process", errno)),
        };
        // SAFETY: the kernel has just made it for this process.
        let descriptor = descriptor.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) });
        if length == 0 {
            // `execve` has closed the process's side, or its death has.
            return if ready {
                Ok(terminal)
            } else {
                Err(starting.died(plan))
            };
        }
        match Message::decode(bytes.get(..length).unwrap_or_default()) {
            Some(Message::Terminal) => terminal = descriptor,
            Some(Message::Ready { rootfs, network }) => {
                ready = true;
                for (name, at) in [("rootfs", rootfs), ("network", network)] {
                    if at != 0 {
                        starting.stages.push(Stage { name, at });
                    }
                }
            }
            Some(Message::Failed(failure)) => return Err(describe::failure(plan, failure)),
            None => {
                return Err(Error::setup(
                    "understand the container's process",
                    Errno(libc::EBADMSG),
                ));
            }
        }
    }
}

/// A start under way: a failure takes back what has been made.
struct Starting {
    child: Option<Child>,
    cgroup: Option<Cgroup>,
    stages: Vec<Stage>,
}

impl Starting {
    fn reached(&mut self, name: &'static str) {
        self.stages.push(Stage {
            name,
            at: sys::monotonic(),
        });
    }

    /// Hands everything over to the container.
    fn finish(
        mut self,
        container: impl FnOnce(Child, Vec<Stage>, Option<Cgroup>) -> Container,
    ) -> Result<Container> {
        let child = self
            .child
            .take()
            .ok_or_else(|| Error::setup("find the container's process", Errno(libc::ESRCH)))?;
        let mut stages = std::mem::take(&mut self.stages);
        stages.sort_by_key(|stage| stage.at);
        Ok(container(child, stages, self.cgroup.take()))
    }

    /// The process ended without a word.
    fn died(&mut self, plan: &Plan) -> Error {
        let ended = match &self.child {
            Some(child) => process::wait(child.pidfd.as_raw_fd(), true),
            None => Ok(None),
        };
        let oom = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.oom_kills().unwrap_or(0) > 0);
        let command = plan.command().to_owned();
        match ended {
            Ok(Some(Ended::Signaled(signal))) => Error::Died {
                signal,
                command,
                hint: match signal {
                    libc::SIGKILL if oom => ": its memory limit is too small to start anything",
                    libc::SIGSYS => ": its seccomp profile forbids what starting needs",
                    _ => "",
                },
            },
            _ => Error::setup(format!("start {command}"), Errno(libc::ECHILD)),
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill and little to wait for.
            let _ = clone::pidfd_send_signal(child.pidfd.as_raw_fd(), libc::SIGKILL);
            let _ = process::wait(child.pidfd.as_raw_fd(), true);
        }
        if let Some(cgroup) = self.cgroup.take() {
            // What cannot be removed now is found later by its name.
            let _ = cgroup.remove();
        }
    }
}

/// The cgroup path and the limits a launch asks for; `None` without either.
fn cgroup_of(launch: &Launch<'_>) -> Result<Option<(PathBuf, oci_spec::runtime::LinuxResources)>> {
    let Some(linux) = launch.spec.linux() else {
        return Ok(None);
    };
    let resources = linux.resources();
    let path = match linux.cgroups_path() {
        Some(path) if !path.as_os_str().is_empty() => cgroup::path_of_spec(path)?,
        _ if resources.is_none() => return Ok(None),
        _ => cgroup::path_of_id(launch.id)?,
    };
    Ok(Some((path, resources.clone().unwrap_or_default())))
}

fn clone_into_namespaces(
    plan: &Plan,
    context: &child::Context<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child> {
    let own_pids = match plan.namespaces.pid_to_join() {
        None => None,
        Some(join) => {
            let own = fs::File::open("/proc/self/ns/pid")
                .map_err(|error| Error::setup("open /proc/self/ns/pid", error))?;
            clone::setns(join.fd.as_raw_fd(), libc::CLONE_NEWPID).map_err(|errno| {
                Error::setup(
                    format!("join the pid namespace {}", join.path.display()),
                    errno,
                )
            })?;
            Some(own)
        }
    };
    let mask = process::block_signals();
    // SAFETY: neither `child::run` nor what it calls allocates or locks (its module's invariant).
    let child = unsafe {
        clone::clone3(
            plan.namespaces.clone_flags(),
            cgroup.map(|fd| fd.as_raw_fd()),
            libc::SIGCHLD,
            || child::run(context),
        )
    };
    process::restore_signals(&mask);
    if let Some(own) = own_pids {
        clone::setns(own.as_raw_fd(), libc::CLONE_NEWPID)
            .map_err(|errno| Error::setup("return to the own pid namespace", errno))?;
    }
    child.map_err(|errno| describe::clone(plan, errno))
}

fn tell(socket: &OwnedFd, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    match socket::send(
        socket.as_raw_fd(),
        &[1],
        descriptor.map(|fd| fd.as_raw_fd()),
    ) {
        Ok(()) => Ok(()),
        // The process has failed and gone; what it has said is still to be read.
        Err(Errno(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        Err(errno) => Err(Error::setup("speak to the container's process", errno)),
    }
}

fn write_mappings(pid: libc::pid_t, plan: &Plan) -> Result<()> {
    for (file, map) in [
        ("uid_map", &plan.namespaces.uid_map),
        ("gid_map", &plan.namespaces.gid_map),
    ] {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, map).map_err(|error| {
            Error::setup(format!("write {:?} to {path}", map.trim_end()), error)
        })?;
    }
    Ok(())
}

fn set_oom_score_adj(pid: libc::pid_t, adjustment: i32) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let current =
        fs::read_to_string(&path).map_err(|error| Error::setup(format!("read {path}"), error))?;
    if current.trim() == adjustment.to_string() {
        return Ok(());
    }
    fs::write(&path, adjustment.to_string()).map_err(|error| {
        let hint = if error.raw_os_error() == Some(libc::EACCES) {
            " (lowering it takes CAP_SYS_RESOURCE)"
        } else {
            ""
        };
        Error::setup(
            format!("set process.oomScoreAdj to {adjustment}{hint}"),
            error,
        )
    })
}

/// A pidfd of this process. It must not be kept over a fork.
fn this_process() -> Result<OwnedFd> {
    let pid = std::process::id() as libc::pid_t;
    let fd = clone::pidfd_open(pid)
        .map_err(|errno| Error::setup("open a pidfd of this process", errno))?;
    // SAFETY: the call above made the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Device and inode of this program's file, which stay what they are while it runs.
fn own_program() -> Result<(u64, u64)> {
    static OWN: OnceLock<(u64, u64)> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(*own);
    }
    let stat = fs::metadata("/proc/self/exe")
        .map_err(|error| Error::setup("look at /proc/self/exe", error))?;
    Ok(*OWN.get_or_init(|| (stat.dev(), stat.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_climb_out_of_our_cgroup_is_refused() {
        for id in ["", "..", ".", "a/b", "-a", "a b", "ä", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["a", "0123abcdef", "a.b-c_d+e", &"x".repeat(255)] {
            check_id(id).unwrap();
        }
    }
}
