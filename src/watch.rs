//! `plimsoll top` and `plimsoll stats`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use engine::lifecycle::{self, Usage};
use engine::{Home, Listed};
use serde_json::{Value, json};

use crate::cli::{StatsArguments, TopArguments};
use crate::format::list;
use crate::output;

/// How long processor time is watched for a percentage, as docker does.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn top(root: &Path, arguments: &TopArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let found = lifecycle::top(&home, &arguments.instance, &arguments.options)?;
    let titles: Vec<&str> = found.titles.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = found
        .rows
        .into_iter()
        .map(|row| row.iter().map(|cell| output::printable(cell)).collect())
        .collect();
    output::table(&titles, &rows)?;
    Ok(0)
}

pub(crate) fn stats(root: &Path, arguments: &StatsArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let live = !arguments.no_stream;
    let mut first = true;
    loop {
        let instances = chosen(&home, arguments)?;
        let before: Vec<Usage> = instances.iter().map(usage).collect();
        let begun = Instant::now();
        if !instances.is_empty() || live {
            std::thread::sleep(INTERVAL);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let rows: Vec<Value> = instances
            .iter()
            .zip(&before)
            .map(|(instance, before)| row(instance, before, seconds, arguments.no_trunc))
            .collect();
        if live && !first && std::io::stdout().is_terminal() {
            // Back to the top left corner, and clear what was there.
            print!("\x1b[H\x1b[J");
        } else if live && std::io::stdout().is_terminal() {
            print!("\x1b[2J\x1b[H");
        }
        first = false;
        list::print(&list::STATS, arguments.format.as_deref(), false, &rows)?;
        std::io::stdout().flush()?;
        if !live {
            return Ok(0);
        }
    }
}

/// Those that were named, or all that run.
fn chosen(home: &Home, arguments: &StatsArguments) -> anyhow::Result<Vec<Listed>> {
    if arguments.instances.is_empty() {
        let mut all = engine::list(home)?;
        all.retain(|instance| arguments.all || instance.is_running());
        return Ok(all);
    }
    arguments
        .instances
        .iter()
        .map(|wanted| Ok(engine::look(home, wanted)?))
        .collect()
}

/// One that ends in the middle uses nothing any more.
fn usage(instance: &Listed) -> Usage {
    lifecycle::usage(instance).unwrap_or_default()
}

fn row(instance: &Listed, before: &Usage, seconds: f64, whole: bool) -> Value {
    let after = usage(instance);
    let busy = after.cpu.saturating_sub(before.cpu) as f64 / 1e9;
    let share = |part: f64, of: f64| if of > 0.0 { part / of * 100.0 } else { 0.0 };
    let id = if whole {
        instance.record.id.as_str()
    } else {
        instance.record.short_id()
    };
    json!({
        "BlockIO": "0B / 0B",
        "CPUPerc": format!("{:.2}%", share(busy, seconds)),
        "Container": id,
        "ID": id,
        "MemPerc": format!("{:.2}%", share(after.memory as f64, after.limit as f64)),
        "MemUsage": format!("{} / {}", binary(after.memory), binary(after.limit)),
        "Name": instance.record.name,
        "NetIO": format!("{} / {}", output::size(after.network.0), output::size(after.network.1)),
        "PIDs": after.pids.to_string(),
    })
}

/// A size with binary units and four digits, as docker's `stats` has it: `1.234MiB`.
fn binary(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        value if value >= 1000.0 => 0,
        value if value >= 100.0 => 1,
        value if value >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_and_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (5 << 20, "5MiB"),
            (25_276_510_208, "23.54GiB"),
        ] {
            assert_eq!(binary(bytes), text, "{bytes}");
        }
    }
}
