//! `plimsoll history`.

use std::path::Path;
use std::time::UNIX_EPOCH;

use engine::{HistoryLine, Home};
use serde_json::{Value, json};

use crate::cli::HistoryArguments;
use crate::format::{list, rows, time};
use crate::output;

/// docker's width for a command.
const COMMAND_WIDTH: usize = 45;

pub(crate) fn history(root: &Path, arguments: &HistoryArguments) -> anyhow::Result<u8> {
    let store = Home::open(root)?.images()?;
    engine::base::ensure(&store)?;
    let image = store.resolve(&arguments.image)?;
    let id = image.id.to_string();
    let lines = store.history(&image)?;
    let lines: Vec<Value> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            // Only the last step is an image.
            let id = if index == 0 { id.as_str() } else { "<missing>" };
            row(line, id, arguments)
        })
        .collect();
    let kind = if arguments.human {
        &list::HISTORY
    } else {
        &list::HISTORY_IN_FULL
    };
    list::print(kind, arguments.format.as_deref(), arguments.quiet, &lines)?;
    Ok(0)
}

fn row(line: &HistoryLine, id: &str, arguments: &HistoryArguments) -> Value {
    let created = line
        .created
        .and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs()));
    let command = output::printable(&line.created_by.replace('\t', " "));
    json!({
        "Comment": output::printable(&line.comment),
        "CreatedAt": created.map_or_else(|| "N/A".into(), |at| time::rfc3339(at * 1_000_000_000)),
        "CreatedBy": if arguments.no_trunc { command } else { rows::ellipsis(&command, COMMAND_WIDTH) },
        "CreatedSince": created.map_or_else(|| "N/A".into(), output::ago),
        "ID": if id.starts_with('<') { id.to_owned() } else { rows::id(id, arguments.no_trunc) },
        "Size": if arguments.human { output::size(line.bytes) } else { line.bytes.to_string() },
    })
}
