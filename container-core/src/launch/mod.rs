//! Starting a container.

mod ahead;
mod created;
mod describe;
mod network;
pub(crate) mod starting;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

pub use self::ahead::Ahead;
pub use self::created::{Created, open_gate};
pub(crate) use self::describe::failure as describe_failure;
use self::starting::{Starting, Streams, Until, own_program, tell, this_process};
use crate::cgroup::{self, Cgroup};
use crate::child::{self, Gate};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::hooks::{self, HookState};
use crate::init::Init;
use crate::listener::SeccompListener;
use crate::plan::{Plan, c_string};
use crate::seccomp::Filter;
use crate::sys::clone::{self, Child};
use crate::sys::{self, process};

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
    /// The container dies with the thread that starts it (`PR_SET_PDEATHSIG`). Otherwise it outlives its launcher.
    pub tied: bool,
    /// A small init of ours is PID 1: it reaps orphans, passes signals on to the command and ends as the command did.
    pub init: bool,
    /// How many of the launcher's descriptors, from 3 on, the command gets as they are.
    pub preserve_fds: u32,
    /// A session keyring of the container's own, in place of the launcher's.
    pub new_keyring: bool,
    /// Puts interfaces into the container's new network namespace, before the command is executed.
    pub network: Option<NetworkSetup<'a>>,
    /// What the launcher does while the process has the rest of its set-up to itself.
    pub meanwhile: Option<Meanwhile<'a>>,
    /// What of it has been begun already. Its root must be the one of [`Launch::rootfs`].
    pub ahead: Option<Ahead>,
    /// Make the root the root by moving it over the old one, in place of pivot_root(2). For hosts whose own root is an
    /// initramfs; a container with CAP_SYS_CHROOT can leave its root then.
    pub no_pivot: bool,
    /// The bundle's directory, which hooks are told of.
    pub bundle: Option<&'a Path>,
    /// For [`create`] only: the path of a socket by which another process can have the container started (see
    /// [`open_gate`]). It must not exist yet.
    pub gate: Option<&'a Path>,
}

/// Work on a network namespace that has just been made, with its loopback interface up.
#[derive(Clone, Copy)]
pub struct NetworkSetup<'a>(pub &'a (dyn Fn(BorrowedFd<'_>) -> std::io::Result<()> + Sync));

impl std::fmt::Debug for NetworkSetup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkSetup")
    }
}

/// Work for which the container's process, whose number it gets, need not wait.
pub struct Meanwhile<'a>(pub &'a mut (dyn FnMut(i32) + Send));

impl std::fmt::Debug for Meanwhile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl<'a> Launch<'a> {
    /// A container that is tied to its launcher, without an init of ours, with nothing but its streams passed on.
    pub fn new(id: &'a str, spec: &'a Spec, rootfs: Rootfs<'a>, stdio: Stdio) -> Self {
        Self {
            id,
            spec,
            rootfs,
            stdio,
            tied: true,
            init: false,
            preserve_fds: 0,
            new_keyring: false,
            network: None,
            meanwhile: None,
            ahead: None,
            no_pivot: false,
            bundle: None,
            gate: None,
        }
    }
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

/// Starts a container. When this returns, its command has been executed, and its hooks up to `poststart` have run.
///
/// If [`Launch::tied`], the container dies with the thread that called this: call it from one that lives as long as the
/// container shall, such as the main thread. Other threads may exist.
pub fn start(launch: Launch<'_>) -> Result<Container> {
    if launch.spec.hooks().is_some() {
        return create(launch)?.start();
    }
    let mut plan = Plan::new(launch.spec, &launch.rootfs)?;
    plan.no_pivot = launch.no_pivot;
    let begun = begin(launch, &plan, Gate::Open)?;
    begun.finish()
}

/// Makes a container whose command waits to be executed: everything of it is there, its hooks up to `createContainer`
/// have run.
///
/// A specification without a `process` makes a container too, which cannot be started.
pub fn create(launch: Launch<'_>) -> Result<Created> {
    let mut spec = std::borrow::Cow::Borrowed(launch.spec);
    if spec.process().is_none() {
        spec.to_mut().set_process(Some(created::placeholder()?));
    }
    let mut plan = Plan::new(&spec, &launch.rootfs)?;
    plan.no_pivot = launch.no_pivot;
    if launch.spec.process().is_none() {
        plan.process.candidates.clear();
    }
    let listener = match launch.gate {
        None => None,
        Some(path) => Some(created::listen(path)?),
    };
    let gate = match &listener {
        None => Gate::Launcher,
        Some(listener) => Gate::Listener(listener.as_raw_fd()),
    };
    let hooks = launch.spec.hooks().clone();
    let state = HookState::of(&launch);
    let begun = begin(launch, &plan, gate)?;
    Ok(Created::new(begun, &plan, hooks, state))
}

/// A container's process that has made everything, and executes its command next or has done so.
pub(crate) struct Begun {
    pub(crate) starting: Starting,
    pub(crate) socket: OwnedFd,
    id: String,
    terminal: Option<OwnedFd>,
    mounts: Option<OwnedFd>,
}

impl Begun {
    /// Hands everything over to the container.
    pub(crate) fn finish(self) -> Result<Container> {
        let Self {
            mut starting,
            id,
            terminal,
            mounts,
            ..
        } = self;
        starting.reached("exec");
        starting.finish(|child, stages, cgroup| {
            Container::new(
                &id,
                child.pid,
                child.pidfd,
                terminal,
                mounts,
                stages,
                cgroup,
            )
        })
    }

    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }
}

fn begin(launch: Launch<'_>, plan: &Plan, gate: Gate) -> Result<Begun> {
    check_id(launch.id)?;
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
    let mut starting = Starting::new(cgroup);
    if plan.process.filter.as_ref().is_some_and(Filter::notifies) {
        starting.listener = SeccompListener::of(launch.spec, &HookState::of(&launch));
    }
    let early_hooks = launch
        .spec
        .hooks()
        .as_ref()
        .filter(|hooks| hooks::any_before_start(hooks));
    let state = early_hooks.map(|_| HookState::of(&launch));
    let keyring = match launch.new_keyring {
        true => Some(c_string("id", format!("_ses.{}", launch.id))?),
        false => None,
    };

    let (ours, theirs) = starting::sockets()?;
    let launcher = this_process()?;
    let own_program = own_program()?;
    let streams = Streams::new(launch.stdio)?;
    // In a user namespace of the container's own nothing of it would be the container's.
    let ahead = launch.ahead.filter(|_| enters);

    // On version 2 the process is born in its cgroup; those of version 1 are made while it makes its mounts.
    let born_in = match &mut starting.cgroup {
        Some(cgroup) => cgroup.make_unified()?,
        None => None,
    };
    let root = match &ahead {
        Some(ahead) => ahead
            .root()
            .map_err(|failure| describe::failure(plan, failure))?,
        None => None,
    };
    let context = child::Context {
        plan,
        mounted: root.as_ref().map(AsRawFd::as_raw_fd),
        cgroups: &view,
        entrances: &entrances,
        socket: theirs.as_raw_fd(),
        other_side: ours.as_raw_fd(),
        launcher: launcher.as_raw_fd(),
        own_program,
        stdio: streams.child(),
        tied: launch.tied,
        gate,
        preserve: preserved(launch.preserve_fds)?,
        init: launch.init,
        hooks: early_hooks.is_some(),
        keyring: keyring.as_deref(),
    };
    let child =
        clone_into_namespaces(plan, &context, &launcher, born_in.as_ref().map(AsFd::as_fd))?;
    let pid = child.pid;
    starting.child = Some(child);
    starting.reached("clone");
    drop((theirs, streams, born_in, root));

    if plan.namespaces.makes_user() {
        write_mappings(pid, plan)?;
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
        let made = match &ahead {
            Some(ahead) => ahead.network()?,
            None => None,
        };
        let namespace = made.map_or_else(network::new_namespace, Ok)?;
        if let Some(NetworkSetup(work)) = launch.network {
            work(namespace.as_fd())
                .map_err(|error| Error::setup("set up the container's network", error))?;
        }
        Some(namespace)
    } else {
        None
    };
    if network.is_some() {
        starting.reached("network");
    }
    tell(&ours, network.as_ref().map(AsFd::as_fd))?;
    drop(network);
    if let Some(Meanwhile(work)) = launch.meanwhile {
        work(pid);
    }
    // Held, so that the end of the process does not wait for the namespace to be taken down (see Container::wait).
    let mounts = match plan.namespaces.makes_mount() {
        true => fs::File::open(format!("/proc/{pid}/ns/mnt"))
            .ok()
            .map(OwnedFd::from),
        false => None,
    };
    let until = if gate == Gate::Open {
        Until::Executed
    } else {
        Until::Ready
    };
    let mut terminal = None;
    let describe = |failure| describe::failure(plan, failure);
    if let (Some(hooks), Some(state)) = (early_hooks, state) {
        starting.listen(
            &ours,
            Until::Mounted,
            &mut terminal,
            plan.command(),
            &describe,
        )?;
        let init = Init::of(starting.target()?)?;
        state.run_before_start(hooks, &init, starting.cgroup.as_ref())?;
        tell(&ours, None)?;
    }
    starting.listen(&ours, until, &mut terminal, plan.command(), &describe)?;
    Ok(Begun {
        starting,
        socket: ours,
        id: launch.id.to_owned(),
        terminal,
        mounts,
    })
}

/// The number of descriptors to pass on, as the kernel counts them.
pub(crate) fn preserved(count: u32) -> Result<sys::Fd> {
    // The kernel's own bound on a table of descriptors (fs.nr_open's default).
    match sys::Fd::try_from(count) {
        Ok(count) if count <= 1 << 20 => Ok(count),
        _ => Err(Error::invalid(
            "preserve-fds",
            format!("{count} is more than a process can have"),
        )),
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
    launcher: &OwnedFd,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child> {
    let joins = plan.namespaces.pid_to_join();
    let _hidden = match joins {
        None => None,
        Some(join) => {
            let hidden = starting::Hidden::new()
                .map_err(|errno| Error::setup("hide this process's memory", errno))?;
            clone::setns(join.fd.as_raw_fd(), libc::CLONE_NEWPID).map_err(|errno| {
                Error::setup(
                    format!("join the pid namespace {}", join.path.display()),
                    errno,
                )
            })?;
            Some(hidden)
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
    if joins.is_some() {
        clone::setns(launcher.as_raw_fd(), libc::CLONE_NEWPID)
            .map_err(|errno| Error::setup("return to the own pid namespace", errno))?;
    }
    child.map_err(|errno| describe::clone(plan, errno))
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
