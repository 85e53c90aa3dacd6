//! `exec`: another process in a container.

use std::os::fd::AsFd;

use anyhow::{Result, anyhow, bail};
use container_core::{Exec, SeccompListener, Stdio, exec_with_listener};
use oci_spec::runtime::{Capabilities, Capability, Process, User};

use super::Runtime;
use super::arguments::ExecArguments;
use super::bundle::read_process;
use super::console::{self, Signals};
use super::state::{Container, Status};

impl Runtime {
    pub(super) fn exec(&self, arguments: &ExecArguments) -> Result<u8> {
        let container = Container::open(&self.root, &arguments.id)?;
        let status = container.status()?;
        match status {
            Status::Created | Status::Running => {}
            Status::Paused if arguments.ignore_paused => {}
            Status::Paused => bail!(
                "cannot exec in the paused container {}: resume it, or give --ignore-paused",
                arguments.id
            ),
            _ => bail!(
                "cannot exec in container {}: it is {}",
                arguments.id,
                status.name()
            ),
        }
        let spec = container.spec()?;
        let process = match &arguments.process {
            Some(path) => read_process(path, &self.log)?,
            None => {
                let own = spec.process().clone().ok_or_else(|| {
                    anyhow!(
                        "the container has no process whose rights exec could take: give --process"
                    )
                })?;
                override_process(own, arguments)?
            }
        };
        if arguments
            .process_label
            .as_deref()
            .is_some_and(|label| !label.is_empty())
        {
            bail!("--process-label: SELinux is not supported");
        }
        if arguments
            .apparmor
            .as_deref()
            .is_some_and(|name| !name.is_empty() && name != "unconfined")
        {
            bail!("--apparmor: AppArmor is not supported");
        }
        let terminal = process.terminal() == Some(true);
        console::check_terminal(
            terminal,
            arguments.console_socket.as_deref(),
            arguments.detach,
        )?;
        let signals = match arguments.detach {
            true => None,
            false => Some(Signals::take()?),
        };
        let init = container
            .init()?
            .ok_or_else(|| anyhow!("container {} has ended", arguments.id))?;
        let cgroup = container.cgroup()?;
        let stdio = if terminal {
            let (rows, columns) = match process.console_size() {
                Some(size) => {
                    let number = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
                    (number(size.height()), number(size.width()))
                }
                None => console::window(),
            };
            Stdio::Terminal { rows, columns }
        } else {
            Stdio::Inherit { stdin: true }
        };
        if status == Status::Paused
            && let Some(cgroup) = &cgroup
        {
            // It would stop on its way in.
            cgroup.thaw()?;
        }
        let listener = SeccompListener::of(&spec, &container.hook_state(&spec));
        let running = Exec {
            init: &init,
            process: &process,
            seccomp: spec
                .linux()
                .as_ref()
                .and_then(|linux| linux.seccomp().as_ref()),
            cgroup: cgroup.as_ref(),
            stdio,
            tied: false,
            preserve_fds: arguments.preserve_fds,
        };
        let mut running = exec_with_listener(running, listener.as_ref())?;
        if status == Status::Paused
            && let Some(cgroup) = &cgroup
        {
            cgroup.freeze()?;
        }
        let mut master = running.take_terminal();
        let told = (|| {
            if let Some(socket) = &arguments.pidfd_socket {
                console::send(socket, "pidfd", running.pidfd())?;
            }
            if let Some(socket) = &arguments.console_socket
                && let Some(master) = master.take()
            {
                console::send(socket, "/dev/ptmx", master.as_fd())?;
            }
            if let Some(path) = &arguments.pid_file {
                console::write_pid(path, running.pid())?;
            }
            Ok(())
        })();
        if let Err(error) = told {
            running.signal(libc::SIGKILL)?;
            running.wait()?;
            return Err(error);
        }
        let Some(signals) = signals else {
            return Ok(0);
        };
        console::attend(running.pidfd(), master, &signals, |signal| {
            // One that has ended takes it without a word.
            let _ = running.signal(signal);
        })?;
        Ok((running.wait()?.code() & 0xff) as u8)
    }
}

/// The container's own process with what the flags say in place of its own.
fn override_process(mut process: Process, arguments: &ExecArguments) -> Result<Process> {
    if arguments.command.is_empty() {
        bail!("exec needs a command, or --process");
    }
    process
        .set_args(Some(arguments.command.clone()))
        .set_terminal(Some(arguments.tty))
        .set_console_size(None);
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    for variable in &arguments.env {
        let Some((name, _)) = variable.split_once('=') else {
            bail!("--env: {variable:?} must be KEY=VALUE");
        };
        environment.retain(|known| known.split('=').next() != Some(name));
        environment.push(variable.clone());
    }
    process.set_env(Some(environment));
    if let Some(text) = &arguments.user {
        process.set_user(user(text, process.user())?);
    }
    if !arguments.additional_gids.is_empty() {
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&arguments.additional_gids);
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if !arguments.cap.is_empty() {
        add_capabilities(&mut process, &arguments.cap)?;
    }
    Ok(process)
}

fn user(text: &str, before: &User) -> Result<User> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let number = |part: &str| {
        part.parse::<u32>()
            .map_err(|_| anyhow!("--user: {text:?} must be UID or UID:GID, in numbers"))
    };
    let mut user = before.clone();
    user.set_uid(number(uid)?);
    if let Some(gid) = gid {
        user.set_gid(number(gid)?);
    }
    Ok(user)
}

fn add_capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    let mut added = Capabilities::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = match upper.starts_with("CAP_") {
            true => upper,
            false => format!("CAP_{upper}"),
        };
        let capability: Capability = serde_json::from_value(full.into())
            .map_err(|_| anyhow!("--cap: {name:?} is no capability"))?;
        added.insert(capability);
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    // As runc does: not inheritable, and ambient only where the container has ambient ones.
    let (bounding, effective, permitted) = (
        with(sets.bounding()),
        with(sets.effective()),
        with(sets.permitted()),
    );
    sets.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    process.set_capabilities(Some(sets));
    Ok(())
}
