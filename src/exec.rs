//! `plimsoll exec`.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, bail};
use engine::Home;
use engine::lifecycle::{self, ExecSpec};

use crate::cli::ExecArguments;
use crate::output;

pub(crate) fn exec(root: &Path, arguments: &ExecArguments) -> anyhow::Result<u8> {
    if arguments.tty
        && arguments.interactive
        && !arguments.detach
        && !std::io::stdin().is_terminal()
    {
        bail!("the input device is not a terminal: leave -t out, or run this from a terminal");
    }
    let mut env = Vec::new();
    for path in &arguments.env_file {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the environment file {}", path.display()))?;
        let entries = text.lines().map(str::trim_start);
        env.extend(
            entries
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
    }
    env.extend(arguments.env.iter().cloned());
    let env = env
        .into_iter()
        .filter_map(|entry| match entry.contains('=') {
            true => Some(entry),
            false => std::env::var(&entry)
                .ok()
                .map(|value| format!("{entry}={value}")),
        })
        .collect();
    let spec = ExecSpec {
        command: arguments.command.clone(),
        env,
        workdir: arguments.workdir.clone(),
        user: arguments.user.clone(),
        interactive: arguments.interactive,
        terminal: arguments.tty,
        detach: arguments.detach,
        privileged: arguments.privileged,
    };
    let home = Home::open(root)?;
    let outcome = lifecycle::exec(&home, &arguments.instance, &spec, &mut output::notice)?;
    Ok(outcome.code)
}
