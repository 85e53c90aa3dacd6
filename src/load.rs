//! `plimsoll load`.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Context, bail};
use engine::Home;

use crate::cli::LoadArguments;

pub(crate) fn load(root: &Path, arguments: &LoadArguments) -> anyhow::Result<u8> {
    let images = match &arguments.input {
        Some(path) => {
            let file =
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            Home::open(root)?.images()?.load(file)?
        }
        None if io::stdin().is_terminal() => {
            bail!(
                "standard input is a terminal, not an archive: name one with --input, or redirect it"
            );
        }
        None => Home::open(root)?.images()?.load(io::stdin().lock())?,
    };
    for image in &images {
        if image.names.is_empty() {
            println!(
                "{}{}",
                if arguments.quiet {
                    ""
                } else {
                    "Loaded image ID: "
                },
                image.id
            );
        }
        for name in &image.names {
            println!(
                "{}{name}",
                if arguments.quiet {
                    ""
                } else {
                    "Loaded image: "
                }
            );
        }
    }
    Ok(0)
}
