//! `plimsoll commit` and `plimsoll export`.

use std::path::Path;

use engine::lifecycle::{self, CommitOptions};
use engine::{Change, Home, Reference};

use crate::cli::{CommitArguments, ExportArguments};
use crate::save;

pub(crate) fn commit(root: &Path, arguments: &CommitArguments) -> anyhow::Result<u8> {
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
    let options = CommitOptions {
        name,
        author: arguments.author.clone(),
        message: arguments.message.clone(),
        changes,
        pause: arguments.pause,
    };
    let home = Home::open(root)?;
    println!(
        "{}",
        lifecycle::commit(&home, &arguments.instance, &options)?.id
    );
    Ok(0)
}

pub(crate) fn export(root: &Path, arguments: &ExportArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    save::write(arguments.output.as_deref(), &mut |output| {
        Ok(lifecycle::export(&home, &arguments.instance, output)?)
    })
}
