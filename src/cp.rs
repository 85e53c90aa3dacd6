//! `plimsoll cp` and `plimsoll diff`.

use std::io;
use std::path::Path;

use anyhow::bail;
use engine::Home;
use engine::archive::{self, CopyOptions};
use engine::lifecycle;

use crate::cli::{CpArguments, DiffArguments};
use crate::output;

pub(crate) fn cp(root: &Path, arguments: &CpArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let options = CopyOptions {
        archive: arguments.archive,
        follow_link: arguments.follow_link,
    };
    let (from, source) = archive::split_argument(&arguments.source);
    let (to, destination) = archive::split_argument(&arguments.destination);
    if source == "-" && from.is_none() && destination == "-" {
        bail!("copying between standard streams is not supported: name a container");
    }
    let copied = match (from, to) {
        (Some(container), None) => {
            let files = lifecycle::files(&home, container)?;
            archive::from_remote(
                files.remote(),
                container,
                source,
                destination,
                &options,
                &mut io::stdout().lock(),
            )?
        }
        (None, Some(container)) => {
            let files = lifecycle::files(&home, container)?;
            archive::to_remote(
                files.remote(),
                container,
                source,
                destination,
                &options,
                &mut io::stdin().lock(),
            )?
        }
        (Some(_), Some(_)) => bail!("copying between containers is not supported"),
        (None, None) => bail!("must specify at least one container source: NAME:PATH"),
    };
    if let (false, Some(to)) = (arguments.quiet, &copied.to) {
        eprintln!(
            "Successfully copied {} to {}",
            output::size(copied.bytes),
            output::printable(to)
        );
    }
    Ok(0)
}

pub(crate) fn diff(root: &Path, arguments: &DiffArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    for change in lifecycle::diff(&home, &arguments.instance)? {
        println!(
            "{} {}",
            change.kind.letter(),
            output::printable(&change.path)
        );
    }
    Ok(0)
}
