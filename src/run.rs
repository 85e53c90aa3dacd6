//! `plimsoll run`.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::bail;
use engine::{Home, InstanceSpec, Limits};

use crate::cli::RunArguments;

pub(crate) fn run(root: &Path, arguments: &RunArguments) -> anyhow::Result<u8> {
    if arguments.tty && arguments.interactive && !std::io::stdin().is_terminal() {
        bail!("the input device is not a terminal: leave -t out, or run this from a terminal");
    }
    let spec = spec(arguments)?;
    let home = Home::open(root)?;
    let outcome = engine::run(&home, &spec, &mut |line| eprintln!("plimsoll: {line}"))?;
    if let Some(reason) = &outcome.reason {
        eprintln!("plimsoll: {reason}");
    }
    Ok(outcome.code)
}

fn spec(arguments: &RunArguments) -> anyhow::Result<InstanceSpec> {
    let spec = InstanceSpec {
        image: arguments.image.clone(),
        command: arguments.command.clone(),
        backend: arguments.backend.into(),
        accel: arguments.accel.into(),
        name: arguments.name.clone(),
        auto_remove: arguments.rm,
        interactive: arguments.interactive,
        terminal: arguments.tty,
        env: arguments.env.clone(),
        workdir: arguments.workdir.clone(),
        user: arguments.user.clone(),
        hostname: arguments.hostname.clone(),
        entrypoint: arguments.entrypoint.as_ref().map(|program| {
            // docker: an empty entry point takes the image's away.
            if program.is_empty() {
                Vec::new()
            } else {
                vec![program.clone()]
            }
        }),
        limits: Limits {
            memory: arguments.memory.map(|size| size.0),
            cpus: arguments.cpus,
            pids: arguments.pids_limit,
        },
        kernel: arguments.kernel.clone(),
        seccomp_unconfined: seccomp_unconfined(&arguments.security_opt)?,
        read_only: arguments.read_only,
        network: arguments.network.into(),
    };
    spec.check()?;
    Ok(spec)
}

fn seccomp_unconfined(options: &[String]) -> anyhow::Result<bool> {
    let mut unconfined = false;
    for option in options {
        match option.as_str() {
            "seccomp=unconfined" => unconfined = true,
            "seccomp=builtin"
            | "no-new-privileges"
            | "no-new-privileges:true"
            | "no-new-privileges=true" => {}
            _ => bail!(
                "--security-opt {option:?} is not known: use seccomp=unconfined (no-new-privileges is always on)"
            ),
        }
    }
    Ok(unconfined)
}
