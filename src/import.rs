//! `plimsoll import`.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::Context;
use engine::{Change, Home, Reference};

use crate::cli::ImportArguments;

pub(crate) fn import(root: &Path, arguments: &ImportArguments) -> anyhow::Result<u8> {
    // Everything that was typed is checked before anything is read.
    let changes = arguments
        .change
        .iter()
        .map(|text| text.parse::<Change>())
        .collect::<Result<Vec<_>, _>>()?;
    let name = arguments
        .name
        .as_deref()
        .map(str::parse::<Reference>)
        .transpose()?;
    let store = Home::open(root)?.images()?;
    let image = if arguments.archive.as_os_str() == "-" {
        store.import(io::stdin().lock(), name.as_ref(), &changes)?
    } else {
        let file = File::open(&arguments.archive)
            .with_context(|| format!("cannot open {}", arguments.archive.display()))?;
        store.import(file, name.as_ref(), &changes)?
    };
    println!("{}", image.id);
    Ok(0)
}
