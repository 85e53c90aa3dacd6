//! `plimsoll completion` and `plimsoll man`: made from the same description of the command line as `--help`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};

use crate::cli::{Cli, CompletionArguments, ManArguments};

/// Prints a shell's completion script.
pub(crate) fn completion(arguments: &CompletionArguments) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Cli::command(),
        "plimsoll",
        &mut script,
    );
    io::stdout().lock().write_all(&script)?;
    Ok(0)
}

/// Writes a man page for the program and one for each verb: `plimsoll.1`, `plimsoll-run.1`.
pub(crate) fn man(arguments: &ManArguments) -> anyhow::Result<u8> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let mut command = Cli::command();
    command.build();
    pages(&command, "plimsoll", directory)?;
    Ok(0)
}

fn pages(command: &Command, name: &str, directory: &Path) -> anyhow::Result<()> {
    // clap wants names that live as long as the program, and this one ends right after.
    let owned: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let page = command
        .clone()
        .name(owned)
        .display_name(owned)
        .version(crate::version::VERSION);
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    let path = directory.join(format!("{name}.1"));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, &format!("{name}-{}", verb.get_name()), directory)?;
    }
    Ok(())
}
