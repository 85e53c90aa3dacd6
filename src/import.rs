//! `plimsoll import`.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use engine::{Change, Home, ImportOptions, Reference};

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
    if let Some(platform) = arguments.platform.as_deref()
        && !matches!(platform, "linux/amd64" | "linux")
    {
        bail!("--platform {platform} is refused: this engine runs linux/amd64 only");
    }
    let options = ImportOptions {
        name: name.as_ref(),
        changes: &changes,
        message: arguments.message.as_deref(),
        ..ImportOptions::default()
    };
    let store = Home::open(root)?.images()?;
    let image = if arguments.archive.as_os_str() == "-" {
        store.import_with(io::stdin().lock(), &options)?
    } else {
        let file = File::open(&arguments.archive)
            .with_context(|| format!("cannot open {}", arguments.archive.display()))?;
        store.import_with(file, &options)?
    };
    println!("{}", image.id);
    Ok(0)
}
