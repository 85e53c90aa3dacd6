//! `plimsoll ps`.

use std::path::Path;

use engine::{Home, Listed, Status};
use serde_json::json;

use crate::cli::{Format, PsArguments};
use crate::output;

/// docker's width for a command.
const COMMAND_WIDTH: usize = 20;

pub(crate) fn ps(root: &Path, arguments: &PsArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let listed: Vec<Listed> = engine::list(&home)?
        .into_iter()
        .filter(|item| arguments.all || item.is_running())
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
                "State": item.state.status.as_str(),
                "ExitCode": item.state.exit_code,
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

/// docker's words for where an instance stands.
fn status(item: &Listed) -> String {
    let state = &item.state;
    let since = |moment: u64| output::ago(moment / 1_000_000_000);
    let up = || since(state.started_at).trim_end_matches(" ago").to_owned();
    match state.status {
        Status::Created => "Created".into(),
        Status::Running => format!("Up {}", up()),
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!(
            "Restarting ({}) {}",
            state.exit_code,
            since(state.finished_at)
        ),
        Status::Exited => format!("Exited ({}) {}", state.exit_code, since(state.finished_at)),
    }
}
