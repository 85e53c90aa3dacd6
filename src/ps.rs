//! `plimsoll ps`.

use std::path::Path;

use engine::{Home, Listed};
use serde_json::json;

use crate::cli::{Format, PsArguments};
use crate::output;

/// docker's width for a command.
const COMMAND_WIDTH: usize = 20;

pub(crate) fn ps(root: &Path, arguments: &PsArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let listed: Vec<Listed> = engine::list(&home)?
        .into_iter()
        .filter(|item| arguments.all || item.running)
        .collect();
    let id = |item: &Listed| {
        if arguments.no_trunc {
            item.record.id.clone()
        } else {
            item.record.short_id().to_owned()
        }
    };
    if arguments.quiet {
        listed.iter().for_each(|item| println!("{}", id(item)));
        return Ok(0);
    }
    let command = |item: &Listed| command(&item.record.command, arguments.no_trunc);
    match arguments.format {
        Format::Json => output::json_lines(listed.iter().map(|item| {
            json!({
                "ID": id(item),
                "Image": item.record.spec.image,
                "Command": command(item),
                "CreatedAt": item.record.created,
                "Status": status(item),
                "State": if item.running { "running" } else { "exited" },
                "ExitCode": item.record.exit.as_ref().map(|exit| exit.code),
                "Names": item.record.name,
                "Backend": item.record.spec.backend.as_str(),
            })
        }))?,
        Format::Table => {
            let rows: Vec<Vec<String>> = listed
                .iter()
                .map(|item| {
                    vec![
                        id(item),
                        output::printable(&item.record.spec.image),
                        command(item),
                        output::ago(item.record.created / 1_000_000_000),
                        status(item),
                        item.record.name.clone(),
                        item.record.spec.backend.as_str().to_owned(),
                    ]
                })
                .collect();
            output::table(
                &[
                    "CONTAINER ID",
                    "IMAGE",
                    "COMMAND",
                    "CREATED",
                    "STATUS",
                    "NAMES",
                    "BACKEND",
                ],
                &rows,
            )?;
        }
    }
    Ok(0)
}

fn command(words: &[String], whole: bool) -> String {
    let text = output::printable(&words.join(" "));
    if whole || text.chars().count() <= COMMAND_WIDTH {
        format!("\"{text}\"")
    } else {
        let cut: String = text.chars().take(COMMAND_WIDTH - 1).collect();
        format!("\"{cut}…\"")
    }
}

fn status(item: &Listed) -> String {
    match &item.record.exit {
        Some(exit) => format!(
            "Exited ({}) {}",
            exit.code,
            output::ago(exit.at / 1_000_000_000)
        ),
        None if item.running => format!(
            "Up {}",
            output::ago(item.record.created / 1_000_000_000).trim_end_matches(" ago")
        ),
        None => "Created".into(),
    }
}
