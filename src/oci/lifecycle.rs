//! `create`, `start`, `run`, `kill` and `delete`.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use container_core::cgroup::{self, Cgroup};
use container_core::{Created, Init, Launch, Rootfs, SeccompListener, Stdio, create, open_gate};
use oci_spec::runtime::Spec;

use super::arguments::{
    CreateArguments, DeleteArguments, IdArguments, KillArguments, RunArguments,
};
use super::bundle::Bundle;
use super::console::{self, Signals};
use super::state::{Container, Record, Status, check_id, forget};
use super::{Runtime, signal, time};

/// The cgroup that holds those of containers for which the configuration names none. Not that of the engine's instances,
/// which settles what it does not know.
const PARENT: &str = "plimsoll-oci";

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container that has been made and waits.
struct Waiting {
    container: Container,
    created: Created,
    spec: Spec,
}

impl Runtime {
    pub(super) fn create(&self, arguments: &CreateArguments) -> Result<u8> {
        let waiting = self.make(arguments, true)?;
        waiting.created.leave();
        Ok(0)
    }

    /// Everything up to the point where the command waits.
    fn make(&self, arguments: &CreateArguments, detached: bool) -> Result<Waiting> {
        check_id(&arguments.id)?;
        let bundle = Bundle::load(&arguments.bundle, &self.log)?;
        let rootfs = bundle.rootfs()?;
        let Bundle {
            directory,
            mut spec,
        } = bundle;
        let terminal = spec
            .process()
            .as_ref()
            .is_some_and(|process| process.terminal() == Some(true));
        console::check_terminal(terminal, arguments.console_socket.as_deref(), detached)?;
        let cgroup = place_cgroup(&mut spec, &arguments.id)?;
        let preserve_fds = self.pass_on_descriptors(arguments.preserve_fds, &mut spec)?;
        let own = Init::find(std::process::id() as i32)?;
        let record = Record {
            oci_version: spec.version().clone(),
            id: arguments.id.clone(),
            bundle: directory.clone(),
            rootfs: rootfs.clone(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            cgroup,
            created: time::rfc3339(SystemTime::now()),
            pid: 0,
            start_time: 0,
            creator: own.map(|own| (own.pid(), own.start_time())),
        };
        let mut container = Container::make(&self.root, record, &spec)?;
        let stdio = if terminal {
            let (rows, columns) = size_of(&spec);
            Stdio::Terminal { rows, columns }
        } else {
            Stdio::Inherit { stdin: true }
        };
        let gate = container.gate();
        let made = create(Launch {
            tied: false,
            preserve_fds,
            new_keyring: !arguments.no_new_keyring,
            no_pivot: arguments.no_pivot,
            bundle: Some(&directory),
            gate: Some(&gate),
            ..Launch::new(&arguments.id, &spec, Rootfs::Directory(&rootfs), stdio)
        })
        .map_err(anyhow::Error::from)
        .and_then(|mut created| {
            let init = created.init()?;
            container.record.pid = init.pid();
            container.record.start_time = init.start_time();
            container.save()?;
            if let Some(socket) = &arguments.pidfd_socket {
                console::send(socket, "pidfd", created.pidfd()?)?;
            }
            if let Some(socket) = &arguments.console_socket
                && let Some(master) = created.take_terminal()
            {
                use std::os::fd::AsFd;
                console::send(socket, "/dev/ptmx", master.as_fd())?;
            }
            if let Some(path) = &arguments.pid_file {
                console::write_pid(path, init.pid())?;
            }
            Ok(created)
        });
        match made {
            Ok(created) => Ok(Waiting {
                container,
                created,
                spec,
            }),
            Err(error) => {
                // Nothing stays of a container that could not be created.
                remove_parent();
                container.forget()?;
                Err(error)
            }
        }
    }

    /// Descriptors that socket activation has left to this process are the container's, as runc has it.
    fn pass_on_descriptors(&self, asked: u32, spec: &mut Spec) -> Result<u32> {
        let activated = match std::env::var("LISTEN_FDS") {
            Ok(text) => text.parse::<u32>().unwrap_or(0),
            Err(_) => 0,
        };
        let count = asked.saturating_add(activated);
        for descriptor in 3..3_u32.saturating_add(count.min(1024)) {
            let path = format!("/proc/self/fd/{descriptor}");
            if !Path::new(&path).exists() {
                bail!("--preserve-fds: there is no descriptor {descriptor} to pass on");
            }
        }
        if activated > 0
            && let Some(process) = spec.process_mut()
        {
            let mut environment = process.env().clone().unwrap_or_default();
            environment.push(format!("LISTEN_FDS={activated}"));
            environment.push("LISTEN_PID=1".to_owned());
            process.set_env(Some(environment));
        }
        Ok(count)
    }

    pub(super) fn start(&self, arguments: &IdArguments) -> Result<u8> {
        let container = Container::open_locked(&self.root, &arguments.id)?;
        let status = container.status()?;
        if status != Status::Created {
            bail!(
                "cannot start container {}: it is {}, not created",
                arguments.id,
                status.name()
            );
        }
        let spec = container.spec()?;
        let command = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().as_ref()?.first().cloned())
            .ok_or_else(|| anyhow!("process: is needed to start a container"))?;
        let init = container
            .init()?
            .ok_or_else(|| anyhow!("container {} has ended", arguments.id))?;
        let started = self.start_hooked(&container, &spec, &init, || {
            pass_gate(&container, &spec, &command)?;
            container.close_gate()
        });
        if let Err(error) = started {
            // A container whose start has failed is stopped.
            end(&container, &init)?;
            return Err(error);
        }
        Ok(0)
    }

    /// Starts with the hooks that belong to it.
    fn start_hooked(
        &self,
        container: &Container,
        spec: &Spec,
        init: &Init,
        start: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Some(hooks) = spec.hooks() else {
            return start();
        };
        let state = container.hook_state(spec);
        state.run_at_start(hooks, init, container.cgroup()?.as_ref())?;
        start()?;
        state.run_after_start(hooks, init.pid())?;
        Ok(())
    }

    pub(super) fn run(&self, arguments: &RunArguments) -> Result<u8> {
        let signals = match arguments.detach {
            true => None,
            false => Some(Signals::take()?),
        };
        let Waiting {
            container,
            mut created,
            spec,
        } = self.make(&arguments.create, arguments.detach)?;
        let master = created.take_terminal();
        let init = created.init()?;
        // This process's own child: `start` of the library would do, but for the gate, which is the one to tell whether a
        // container runs.
        let command = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().as_ref()?.first().cloned());
        created.leave();
        let started = match &command {
            None => Err(anyhow!("process: is needed to start a container")),
            Some(command) => self.start_hooked(&container, &spec, &init, || {
                pass_gate(&container, &spec, command)?;
                container.close_gate()
            }),
        };
        if let Err(error) = started {
            end(&container, &init)?;
            reap(init.pid());
            self.remove(&container)?;
            return Err(error);
        }
        let Some(signals) = signals else {
            return Ok(0);
        };
        // The lock would keep others from a container that runs for days.
        let id = &arguments.create.id;
        drop(container);
        console::attend(init.pidfd(), master, &signals, |signal| {
            // One that has ended takes it without a word.
            let _ = init.signal(signal);
        })?;
        let code = reap(init.pid());
        if !arguments.keep
            && let Some(container) = Container::try_open(&self.root, id)?
        {
            self.remove(&container)?;
        }
        Ok(code)
    }

    pub(super) fn kill(&self, arguments: &KillArguments) -> Result<u8> {
        let number = signal::parse(&arguments.signal)?;
        let container = Container::open(&self.root, &arguments.id)?;
        let cgroup = container.cgroup()?;
        if arguments.all
            && let Some(cgroup) = &cgroup
        {
            return signal_all(cgroup, number).map(|()| 0);
        }
        let alive = match container.init()? {
            Some(init) => init.signal(number)?,
            None => false,
        };
        if !alive {
            bail!("container {} is not running", arguments.id);
        }
        // Version 1's freezer holds even a process that is killed.
        if number == libc::SIGKILL
            && let Some(cgroup) = cgroup
            && cgroup.frozen()?
        {
            cgroup.thaw()?;
        }
        Ok(0)
    }

    pub(super) fn delete(&self, arguments: &DeleteArguments) -> Result<u8> {
        let id = &arguments.id;
        let container = match Container::open_locked(&self.root, id) {
            Ok(container) => container,
            Err(error) => {
                if !arguments.force {
                    return Err(error);
                }
                // Whatever was left of it goes.
                if check_id(id).is_ok() {
                    if let Some(cgroup) = Cgroup::open(&Path::new(PARENT).join(id))? {
                        cgroup.remove()?;
                    }
                    forget(&self.root.join(id))?;
                    remove_parent();
                }
                return Ok(0);
            }
        };
        let status = container.status()?;
        if status != Status::Stopped {
            if !arguments.force {
                bail!(
                    "cannot delete container {id} that is not stopped: {}",
                    status.name()
                );
            }
            if let Some(init) = container.init()? {
                end(&container, &init)?;
            }
        }
        self.remove(&container)?;
        Ok(0)
    }

    /// Undoes the creation of a container that has stopped.
    fn remove(&self, container: &Container) -> Result<()> {
        if let Some(cgroup) = container.cgroup()? {
            cgroup.remove()?;
        }
        remove_parent();
        let spec = container.spec();
        container.forget()?;
        if let Ok(spec) = spec
            && let Some(hooks) = spec.hooks()
        {
            for error in container.hook_state(&spec).run_after_end(hooks) {
                self.log.warn(&error.to_string());
            }
        }
        Ok(())
    }
}

/// Has a container that waits execute its command.
fn pass_gate(container: &Container, spec: &Spec, command: &str) -> Result<()> {
    let listener = SeccompListener::of(spec, &container.hook_state(spec));
    let listener = listener
        .as_ref()
        .map(|listener| (listener, container.record.pid));
    Ok(open_gate(&container.gate(), command, listener)?)
}

/// The cgroup of a container, written into its configuration when that names none.
fn place_cgroup(spec: &mut Spec, id: &str) -> Result<PathBuf> {
    let Some(linux) = spec.linux_mut() else {
        let mut linux = oci_spec::runtime::Linux::default();
        linux
            .set_namespaces(None)
            .set_resources(None)
            .set_masked_paths(None)
            .set_readonly_paths(None)
            .set_seccomp(None)
            .set_cgroups_path(Some(Path::new("/").join(PARENT).join(id)));
        spec.set_linux(Some(linux));
        return Ok(Path::new(PARENT).join(id));
    };
    let path = match linux.cgroups_path() {
        Some(path) if !path.as_os_str().is_empty() => match path.components().next() {
            Some(Component::RootDir) => path.clone(),
            _ => Path::new("/").join(PARENT).join(path),
        },
        _ => Path::new("/").join(PARENT).join(id),
    };
    let below = cgroup::path_of_spec(&path)?;
    linux.set_cgroups_path(Some(path));
    Ok(below)
}

/// Removes the cgroup that holds those of our containers, where it is empty. It is no failure when it is not.
fn remove_parent() {
    let Ok(hierarchies) = cgroup::detect() else {
        return;
    };
    let tops = hierarchies
        .v1()
        .iter()
        .map(|hierarchy| hierarchy.mount.as_path())
        .chain(hierarchies.v2());
    for top in tops {
        let _ = std::fs::remove_dir(top.join(PARENT));
    }
}

/// The window's size: the specification's, or that of this process's terminal.
fn size_of(spec: &Spec) -> (u16, u16) {
    let asked = spec
        .process()
        .as_ref()
        .and_then(|process| process.console_size());
    match asked {
        Some(size) => {
            let number = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
            (number(size.height()), number(size.width()))
        }
        None => console::window(),
    }
}

/// Kills a container and waits until it has ended.
fn end(container: &Container, init: &Init) -> Result<()> {
    init.signal(libc::SIGKILL)?;
    if let Some(cgroup) = container.cgroup()? {
        cgroup.kill()?;
    }
    let started = Instant::now();
    while !init.has_ended()? {
        if started.elapsed() > PATIENCE {
            bail!("container {} does not end", container.record.id);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Sends a signal to every process in a cgroup. A killing one is sent at once, so that no fork escapes it.
fn signal_all(cgroup: &Cgroup, number: i32) -> Result<()> {
    if number == libc::SIGKILL {
        return cgroup.kill().context("cannot kill all processes");
    }
    for pid in cgroup.processes()? {
        if let Some(process) = Init::find(pid as i32)? {
            process.signal(number)?;
        }
    }
    Ok(())
}

/// Waits for a child that has ended, or is about to: its exit code as a shell has it.
fn reap(pid: i32) -> u8 {
    use nix::sys::wait::{WaitStatus, waitpid};
    loop {
        return match waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => (code & 0xff) as u8,
            Ok(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32) as u8,
            Err(nix::errno::Errno::EINTR) => continue,
            _ => 255,
        };
    }
}
