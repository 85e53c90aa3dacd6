//! `plimsoll run`.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::bail;
use engine::lifecycle::RunOptions;
use engine::{Attach, Home};

use crate::cli::RunArguments;
use crate::create::{refuse_existing, spec, write_id};
use crate::output;
use crate::registry::with_image;

pub(crate) fn run(root: &Path, arguments: &RunArguments) -> anyhow::Result<u8> {
    let create = &arguments.create;
    if create.tty && create.interactive && !arguments.detach && !std::io::stdin().is_terminal() {
        bail!("the input device is not a terminal: leave -t out, or run this from a terminal");
    }
    if arguments.detach && !create.attach.is_empty() {
        bail!("conflicting options: cannot specify both --attach and --detach");
    }
    let spec = spec(create)?;
    let home = Home::open(root)?;
    refuse_existing(create.cidfile.as_deref())?;
    let wants = |stream: &str| {
        create.attach.is_empty()
            || create
                .attach
                .iter()
                .any(|name| name.eq_ignore_ascii_case(stream))
    };
    let options = RunOptions {
        detach: arguments.detach,
        attach: Attach {
            stdin: create.interactive && wants("stdin"),
            stdout: wants("stdout"),
            stderr: wants("stderr"),
            sig_proxy: arguments.sig_proxy,
            detach_keys: arguments.detach_keys.clone(),
        },
    };
    let mut written = Ok(());
    let outcome = with_image(&home, &create.wanted(), || {
        engine::lifecycle::run(
            &home,
            &spec,
            &options,
            &mut |record| {
                if let Some(path) = &create.cidfile {
                    written = write_id(path, &record.id);
                }
                Ok(())
            },
            &mut output::notice,
        )
    })?;
    written?;
    if arguments.detach {
        println!("{}", outcome.id);
    }
    if let Some(reason) = &outcome.reason {
        output::notice(reason);
    }
    Ok(outcome.code)
}
