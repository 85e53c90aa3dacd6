//! The container's process, from `clone3` to `execve`.
//!
//! **Invariant:** this module and those below it run in a copy of a process that may have had other threads. They call
//! [`crate::sys`] and read the [`Plan`]; they do not allocate, lock, or panic, and they leave by `execve` or `_exit`.

mod copy_up;
mod dev;
mod exec;
mod gate;
mod identity;
mod init;
pub(crate) mod join;
mod mounts;
pub(crate) mod report;
pub(crate) mod root;
mod targets;

use std::convert::Infallible;
use std::ffi::CString;

use self::report::{At, Failure, Message, Outcome, Step};
use crate::plan::Plan;
use crate::plan::rootfs::RootPlan;
use crate::sys::{self, Errno, Fd, clone, file, process, socket};

/// The working directory's own descriptor, as *at calls take it.
pub(crate) const HERE: Fd = libc::AT_FDCWD;

/// Standard input, output and error of the container.
#[derive(Clone, Copy)]
pub(crate) enum ChildStdio {
    /// These descriptors, in this order.
    Descriptors([Fd; 3]),
    /// A terminal of the container's own, with this window.
    Terminal { rows: u16, columns: u16 },
}

/// Whether the process waits before it executes its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It does not.
    Open,
    /// For a word of the launcher.
    Launcher,
    /// For a word of whoever connects to this listening socket.
    Listener(Fd),
}

/// What the launcher hands over besides the plan.
pub(crate) struct Context<'a> {
    pub(crate) plan: &'a Plan,
    /// The overlay of the plan, where the launcher has mounted it.
    pub(crate) mounted: Option<Fd>,
    /// The container's mount of its cgroups, when it asks for one.
    pub(crate) cgroups: &'a crate::cgroup::View,
    /// Files by which this process enters its cgroups.
    pub(crate) entrances: &'a [CString],
    /// This side of the socket.
    pub(crate) socket: Fd,
    /// The launcher's side.
    pub(crate) other_side: Fd,
    /// A pidfd of the launcher.
    pub(crate) launcher: Fd,
    /// Device and inode of this program's own file.
    pub(crate) own_program: (u64, u64),
    pub(crate) stdio: ChildStdio,
    /// The process dies with the launcher's thread.
    pub(crate) tied: bool,
    pub(crate) gate: Gate,
    /// Descriptors from 3 that the command gets as they are.
    pub(crate) preserve: Fd,
    /// The process stays as PID 1 and has the command run by a child.
    pub(crate) init: bool,
    /// Hooks are run before the root is entered: the process waits for them.
    pub(crate) hooks: bool,
    /// The name of a session keyring of its own.
    pub(crate) keyring: Option<&'a std::ffi::CStr>,
}

/// The state of the set-up.
struct Setup<'a> {
    plan: &'a Plan,
    cgroups: &'a crate::cgroup::View,
    entrances: &'a [CString],
    socket: Fd,
    own_program: (u64, u64),
    stdio: ChildStdio,
    tied: bool,
    gate: Gate,
    preserve: Fd,
    init: bool,
    hooks: bool,
    keyring: Option<&'a std::ffi::CStr>,
    /// The overlay that the launcher has mounted.
    mounted: Option<Fd>,
    /// The container's root directory, once it is mounted.
    root: Fd,
    /// What masked paths are hidden with, once it is known: an empty directory, and the null device.
    empty: Option<Fd>,
    null: Option<Fd>,
    rootfs_at: u64,
    network_at: u64,
}

/// Runs the container's process. Every way out ends it.
pub(crate) fn run(context: &Context<'_>) -> Infallible {
    let mut setup = Setup::new(context);
    let Err(failure) = setup.run();
    setup.give_up(failure)
}

impl<'a> Setup<'a> {
    /// The state at the beginning, with the launcher's death arranged for.
    fn new(context: &Context<'a>) -> Self {
        if context.tied {
            // The launcher's death must end the container, also when it came before this line.
            let tied = sys::credentials::set_parent_death_signal(libc::SIGKILL)
                .and_then(|()| clone::has_ended(context.launcher));
            if tied != Ok(false) {
                process::exit(1);
            }
        }
        // Held here, too, it would never tell that the launcher is gone.
        file::close(context.other_side);
        // Low numbers are kept for what the command gets.
        let lowest = 3 + context.preserve;
        let moved = file::dup_above(context.socket, lowest).and_then(|socket| {
            Ok((
                socket,
                match context.gate {
                    Gate::Listener(listener) => Gate::Listener(file::dup_above(listener, lowest)?),
                    gate => gate,
                },
            ))
        });
        let Ok((socket, gate)) = moved else {
            process::exit(1)
        };
        Self {
            plan: context.plan,
            cgroups: context.cgroups,
            entrances: context.entrances,
            socket,
            own_program: context.own_program,
            stdio: context.stdio,
            tied: context.tied,
            gate,
            preserve: context.preserve,
            init: context.init,
            hooks: context.hooks,
            keyring: context.keyring,
            mounted: context.mounted,
            root: -1,
            empty: None,
            null: None,
            rootfs_at: 0,
            network_at: 0,
        }
    }

    /// Tells what failed, and ends.
    fn give_up(&self, failure: Failure) -> Infallible {
        // Nobody is left to tell when this fails.
        let _ = Message::Failed(failure).send(self.socket, None);
        process::exit(1)
    }
}

impl Setup<'_> {
    fn run(&mut self) -> Outcome<Infallible> {
        // Nobody who shares the PID namespace may look into this copy of the launcher's memory.
        sys::credentials::make_undumpable().at(Step::Session)?;
        let plan = self.plan;
        if plan.namespaces.makes_user() {
            // The launcher writes the mappings; root inside is somebody only then.
            self.wait().at(Step::Launcher)?;
            self.become_root()?;
        }
        self.leave_session()?;
        // Modes below are meant as they are written; the container's own mask comes last.
        process::set_umask(0);
        for (index, join) in plan.namespaces.join.iter().enumerate() {
            // Joining a PID namespace is the launcher's: it moves children.
            if join.flag != libc::CLONE_NEWPID {
                clone::setns(sys::raw(&join.fd), join.flag).at_index(Step::Join, index)?;
            }
            if join.flag == libc::CLONE_NEWUSER {
                self.become_root()?;
            }
        }
        self.make_time_namespace()?;
        if plan.namespaces.makes_network() && !plan.namespaces.network_by_launcher() {
            socket::loopback_up().at(Step::Loopback)?;
            self.network_at = sys::monotonic();
        }
        if plan.namespaces.has_mount() {
            self.build_root()?;
        } else {
            self.launcher()?;
            self.enter_chroot()?;
            self.bound()?;
        }
        self.name_host()?;
        self.open_streams_and_close_the_rest()?;
        self.take_identity_and_run()
    }

    /// Leaves the launcher's session and keys behind.
    fn leave_session(&self) -> Outcome<()> {
        process::new_session().at(Step::Session)?;
        match self.keyring.map(sys::credentials::join_session_keyring) {
            // A kernel without keys, or a filter around the launcher: there is nothing to leave.
            None | Some(Ok(()) | Err(Errno(libc::ENOSYS | libc::EPERM))) => Ok(()),
            Some(Err(errno)) => Err(errno).at(Step::Keyring),
        }
    }

    fn become_root(&self) -> Outcome<()> {
        sys::credentials::set_group(0).at(Step::UserNamespace)?;
        sys::credentials::set_user(0).at(Step::UserNamespace)?;
        // A change of user makes a process what fs.suid_dumpable says.
        sys::credentials::make_undumpable().at(Step::UserNamespace)
    }

    /// Everything that happens in a mount namespace.
    fn build_root(&mut self) -> Outcome<()> {
        self.isolate_mounts()?;
        self.mount_root()?;
        self.rootfs_at = sys::monotonic();
        let plan = self.plan;
        let (early, late) = plan
            .mounts
            .split_at(plan.early_mounts.min(plan.mounts.len()));
        self.mount_each(early, 0)?;
        // What can be done without the launcher is done while it works.
        if !early.is_empty() {
            self.make_default_devices()?;
            self.restrict_paths(true)?;
            self.bound()?;
        }
        self.launcher()?;
        self.mount_each(late, early.len())?;
        if early.is_empty() {
            self.make_default_devices()?;
            self.bound()?;
        }
        self.make_devices()?;
        self.make_working_directory()?;
        self.wait_for_hooks()?;
        self.enter_root()?;
        if let ChildStdio::Terminal { rows, columns } = self.stdio {
            self.open_terminal(rows, columns)?;
        }
        self.write_sysctls()?;
        self.restrict_paths(false)?;
        self.restrict_root()?;
        self.propagate_root()
    }

    /// Has the launcher run the hooks that belong before the root is entered.
    fn wait_for_hooks(&self) -> Outcome<()> {
        if self.hooks {
            Message::Mounted
                .send(self.socket, None)
                .at(Step::Launcher)?;
            self.wait().at(Step::Launcher)?;
        }
        Ok(())
    }

    fn enter_chroot(&mut self) -> Outcome<()> {
        self.wait_for_hooks()?;
        if let RootPlan::Chroot(path) = &self.plan.root {
            file::chroot(&path.path).at(Step::Chroot)?;
        }
        file::chdir(c"/").at(Step::Chroot)?;
        self.root =
            file::openat(HERE, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at(Step::Chroot)?;
        self.rootfs_at = sys::monotonic();
        if let ChildStdio::Terminal { rows, columns } = self.stdio {
            self.open_terminal(rows, columns)?;
        }
        self.make_working_directory()
    }

    /// Makes a time namespace, which `execve` enters, and sets its clocks while nothing runs in it.
    fn make_time_namespace(&self) -> Outcome<()> {
        if !self.plan.namespaces.makes_time() {
            return Ok(());
        }
        clone::unshare(crate::init::CLONE_NEWTIME).at(Step::Time)?;
        if self.plan.time_offsets.is_empty() {
            return Ok(());
        }
        let file =
            file::openat(HERE, c"/proc/self/timens_offsets", libc::O_WRONLY, 0).at(Step::Time)?;
        file::write(file, &self.plan.time_offsets).at(Step::Time)?;
        file::close(file);
        Ok(())
    }

    fn name_host(&self) -> Outcome<()> {
        if let Some(name) = &self.plan.hostname {
            process::set_hostname(name).at(Step::Hostname)?;
        }
        if let Some(name) = &self.plan.domainname {
            process::set_domainname(name).at(Step::Domainname)?;
        }
        Ok(())
    }

    /// Waits for a word of the launcher, with a descriptor perhaps.
    fn wait(&self) -> sys::Result<Option<Fd>> {
        let mut word = [0_u8; 1];
        match socket::receive(self.socket, &mut word)? {
            // The launcher is gone or has given up.
            (0, _) => Err(Errno(libc::ECANCELED)),
            (_, descriptor) => Ok(descriptor),
        }
    }

    /// Waits until the launcher has made the cgroups and the network namespace, and enters them.
    fn launcher(&self) -> Outcome<()> {
        if let Some(network) = self.wait().at(Step::Launcher)? {
            clone::setns(network, libc::CLONE_NEWNET).at(Step::NetworkNamespace)?;
            file::close(network);
        }
        self.enter_cgroups()?;
        if self.plan.namespaces.makes_cgroup() {
            clone::unshare(libc::CLONE_NEWCGROUP).at(Step::CgroupNamespace)?;
        }
        Ok(())
    }

    /// Enters the cgroups of version 1, one by one.
    fn enter_cgroups(&self) -> Outcome<()> {
        for (index, entrance) in self.entrances.iter().enumerate() {
            let file = file::openat(HERE, entrance, libc::O_WRONLY, 0)
                .at_index(Step::CgroupEntrance, index)?;
            file::write(file, b"0").at_index(Step::CgroupEntrance, index)?;
            file::close(file);
        }
        Ok(())
    }

    /// A failure that is this program's own and not the kernel's.
    fn fail<T>(&self, step: Step, index: usize, errno: i32) -> Outcome<T> {
        Err(Failure {
            step,
            index: index as u32,
            errno: Errno(errno),
        })
    }
}
