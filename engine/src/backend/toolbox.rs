//! Instances as containers inside a microVM of their own: an engine within, reached by forwarding ports twice, as Docker Toolbox
//! was.
//!
//! The machine is an ordinary one of the VM backend. Its image is the engine's ([`crate::toolbox`]), its command the engine's
//! `run` of what the user asked for; the host's image store and whatever the user mounts are shared with it.

use super::{Backend, Context, Job, Running, vm};
use crate::error::{Error, Result};
use crate::instance::Record;
use crate::mount::{MountKind, MountSpec};
use crate::process::Process;
use crate::spec::{BackendKind, InstanceSpec, Limits, Ulimit};
use crate::toolbox::{self, INNER, MOUNTS, PROGRAM, STORE};
use crate::user::Identity;

/// The backend.
pub(crate) struct Toolbox;

impl Backend for Toolbox {
    fn start(&self, job: &Job<'_>, context: &mut Context<'_>) -> Result<Box<dyn Running>> {
        let image = toolbox::ensure(job.store)?;
        let record = machine(job)?;
        let process = Process {
            args: command(job)?,
            env: vec![
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
                "HOME=/root".to_owned(),
                format!("TERM={}", variable(&job.process.env, "TERM")),
            ],
            cwd: "/".to_owned(),
            identity: Identity::root(),
        };
        vm::Vm::boot(
            &Job {
                record: &record,
                image: &image,
                process: &process,
                ..*job
            },
            context,
            true,
        )
    }
}

fn variable<'e>(env: &'e [String], name: &str) -> &'e str {
    env.iter()
        .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or("dumb")
}

/// The machine in place of the instance: the same but for what belongs to the container in it.
fn machine(job: &Job<'_>) -> Result<Record> {
    let asked = &job.record.spec;
    let store = job.store.root().to_str().ok_or_else(|| {
        Error::Unsupported("a toolbox needs a state directory whose path is text".to_owned())
    })?;
    let mut mounts = vec![MountSpec::bind(store, STORE, true)];
    for (number, mount) in asked.mounts.iter().enumerate() {
        if !matches!(mount.kind, MountKind::Tmpfs(_)) {
            mounts.push(MountSpec {
                target: format!("{MOUNTS}/{number}"),
                ..mount.clone()
            });
        }
    }
    let mut record = job.record.clone();
    record.spec = InstanceSpec {
        backend: BackendKind::Vm,
        mounts,
        limits: Limits {
            memory: asked.limits.memory,
            cpus: asked.limits.cpus,
            ..Limits::default()
        },
        read_only: false,
        privileged: false,
        init: false,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        no_new_privileges: false,
        ulimits: Vec::new(),
        seccomp_unconfined: false,
        ..asked.clone()
    };
    Ok(record)
}

/// What the machine runs: the engine's `run` with the user's flags.
fn command(job: &Job<'_>) -> Result<Vec<String>> {
    let asked = &job.record.spec;
    let attach = match asked.interactive {
        true => "-ai",
        false => "-a",
    };
    let mut words: Vec<String> = vec![PROGRAM.to_owned(), attach.to_owned()];
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    add("--name", INNER.to_owned());
    add("--hostname", job.record.hostname().to_owned());
    add("--workdir", job.process.cwd.clone());
    let identity = &job.process.identity;
    add("--user", format!("{}:{}", identity.uid, identity.gid));
    for variable in &job.process.env {
        add("--env", variable.clone());
    }
    for capability in &asked.cap_add {
        add("--cap-add", capability.clone());
    }
    for capability in &asked.cap_drop {
        add("--cap-drop", capability.clone());
    }
    for limit in &asked.ulimits {
        add("--ulimit", ulimit(limit));
    }
    for (number, mount) in asked.mounts.iter().enumerate() {
        match &mount.kind {
            MountKind::Tmpfs(_) => {
                let options = mount.options().join(",");
                add("--tmpfs", format!("{}:{options}", mount.target));
            }
            _ => {
                let read_only = if mount.read_only { ":ro" } else { "" };
                let target = &mount.target;
                add("--volume", format!("{MOUNTS}/{number}:{target}{read_only}"));
            }
        }
    }
    // The second forwarding: what the host sends to the machine goes on to the container.
    let mut ports: Vec<String> = job
        .network
        .bindings
        .iter()
        .map(|binding| format!("{0}:{0}/{1}", binding.port, binding.protocol))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        add("--publish", port);
    }
    if !asked.network.is_attached() {
        add("--network", "none".to_owned());
    }
    if asked.no_new_privileges {
        add("--security-opt", "no-new-privileges".to_owned());
    }
    if asked.seccomp_unconfined {
        add("--security-opt", "seccomp=unconfined".to_owned());
    }
    if let Some(processes) = asked.limits.pids {
        add("--pids-limit", processes.to_string());
    }
    let (program, arguments) = job
        .process
        .args
        .split_first()
        .ok_or_else(|| Error::NoCommand(asked.image.clone()))?;
    add("--entrypoint", program.clone());
    for (flag, given) in [
        ("--interactive", asked.interactive),
        ("--tty", asked.terminal),
        ("--read-only", asked.read_only),
        ("--privileged", asked.privileged),
        ("--init", asked.init),
    ] {
        if given {
            words.push(flag.to_owned());
        }
    }
    words.push(job.record.image_id.clone());
    words.extend(arguments.iter().cloned());
    Ok(words)
}

fn ulimit(limit: &Ulimit) -> String {
    let text = |value: u64| match value {
        u64::MAX => "-1".to_owned(),
        value => value.to_string(),
    };
    format!("{}={}:{}", limit.name, text(limit.soft), text(limit.hard))
}
