//! `plimsoll start`, `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`, `attach`, `rename`.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::bail;
use engine::lifecycle::{self, RunOptions, Waiter};
use engine::{Attach, Home};

use crate::cli::{
    AttachArguments, InstancesArguments, KillArguments, RenameArguments, StartArguments,
    StopArguments,
};
use crate::create::signal;
use crate::output;

pub(crate) fn start(root: &Path, arguments: &StartArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let joined = arguments.attach || arguments.interactive;
    let options = RunOptions {
        detach: !joined,
        attach: Attach {
            stdout: true,
            stderr: true,
            stdin: arguments.interactive,
            sig_proxy: true,
            detach_keys: arguments.detach_keys.clone(),
        },
    };
    if joined {
        let [instance] = arguments.instances.as_slice() else {
            bail!("you cannot start and attach multiple containers at once");
        };
        let outcome = lifecycle::start(&home, instance, &options, &mut output::notice)?;
        if let Some(reason) = &outcome.reason {
            output::notice(reason);
        }
        return Ok(outcome.code);
    }
    Ok(output::each(&arguments.instances, |wanted| {
        lifecycle::start(&home, wanted, &options, &mut output::notice).map(drop)
    }))
}

/// Runs something for each of several instances at once, since each may take its time.
fn at_once(
    instances: &[String],
    work: impl Fn(&str) -> engine::Result<()> + Sync,
) -> Vec<engine::Result<()>> {
    match instances {
        [one] => vec![work(one)],
        _ => std::thread::scope(|scope| {
            let threads: Vec<_> = instances
                .iter()
                .map(|wanted| scope.spawn(|| work(wanted)))
                .collect();
            threads
                .into_iter()
                .map(|thread| match thread.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        }),
    }
}

pub(crate) fn stop(root: &Path, arguments: &StopArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let number = arguments
        .signal
        .as_deref()
        .map(|text| signal("--signal", text))
        .transpose()?;
    let mut results = at_once(&arguments.instances, |wanted| {
        lifecycle::stop(&home, wanted, number, arguments.time)
    })
    .into_iter();
    Ok(output::each(&arguments.instances, |_| {
        results.next().unwrap_or(Ok(()))
    }))
}

pub(crate) fn restart(root: &Path, arguments: &StopArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let number = arguments
        .signal
        .as_deref()
        .map(|text| signal("--signal", text))
        .transpose()?;
    let options = RunOptions {
        detach: true,
        attach: Attach::default(),
    };
    // One after another: each start is a fork, for which this process has one thread.
    Ok(output::each(&arguments.instances, |wanted| {
        let time = arguments.time;
        lifecycle::restart(&home, wanted, number, time, &options, &mut output::notice).map(drop)
    }))
}

pub(crate) fn kill(root: &Path, arguments: &KillArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let number = signal("--signal", &arguments.signal)?;
    Ok(output::each(&arguments.instances, |wanted| {
        lifecycle::kill(&home, wanted, number)
    }))
}

pub(crate) fn pause(root: &Path, arguments: &InstancesArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    Ok(output::each(&arguments.instances, |wanted| {
        lifecycle::pause(&home, wanted)
    }))
}

pub(crate) fn unpause(root: &Path, arguments: &InstancesArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    Ok(output::each(&arguments.instances, |wanted| {
        lifecycle::unpause(&home, wanted)
    }))
}

pub(crate) fn wait(root: &Path, arguments: &InstancesArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    // Connected to all before any is waited for, so that no end is missed.
    let waiters: Vec<_> = arguments
        .instances
        .iter()
        .map(|wanted| Waiter::new(&home, wanted))
        .collect();
    let mut code = 0;
    for waiter in waiters {
        match waiter.and_then(|waiter| waiter.wait(&home)) {
            Ok(exit) => println!("{exit}"),
            Err(error) => {
                output::notice(&error.to_string());
                code = 1;
            }
        }
    }
    Ok(code)
}

pub(crate) fn attach(root: &Path, arguments: &AttachArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let found = engine::look(&home, &arguments.instance)?;
    let stdin = !arguments.no_stdin && found.record.spec.interactive;
    if stdin && found.record.spec.terminal && !std::io::stdin().is_terminal() {
        bail!("the input device is not a terminal: use --no-stdin, or run this from a terminal");
    }
    let attach = Attach {
        stdin,
        stdout: true,
        stderr: true,
        sig_proxy: arguments.sig_proxy,
        detach_keys: arguments.detach_keys.clone(),
    };
    let outcome = lifecycle::attach(&home, &arguments.instance, &attach, &mut output::notice)?;
    if let Some(reason) = &outcome.reason {
        output::notice(reason);
    }
    Ok(outcome.code)
}

pub(crate) fn rename(root: &Path, arguments: &RenameArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    engine::rename(&home, &arguments.instance, &arguments.name)?;
    Ok(0)
}
