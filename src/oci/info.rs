//! `state`, `list`, `ps` and `events`: what there is.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::Runtime;
use super::arguments::{EventsArguments, Format, IdArguments, ListArguments, PsArguments};
use super::state::{Container, Shown};

impl Runtime {
    pub(super) fn state(&self, arguments: &IdArguments) -> Result<u8> {
        let shown = Container::open(&self.root, &arguments.id)?.shown()?;
        print(&serde_json::to_string_pretty(&shown)?)
    }

    pub(super) fn list(&self, arguments: &ListArguments) -> Result<u8> {
        let all = Container::all(&self.root)?
            .iter()
            .map(Container::shown)
            .collect::<Result<Vec<_>>>()?;
        if arguments.quiet {
            let ids: Vec<_> = all.iter().map(|shown| shown.id.as_str()).collect();
            return print(&ids.join("\n"));
        }
        match arguments.format {
            Format::Json => print(&serde_json::to_string(&all)?),
            Format::Table => print(&table(&all)),
        }
    }

    pub(super) fn ps(&self, arguments: &PsArguments) -> Result<u8> {
        let container = Container::open(&self.root, &arguments.id)?;
        let pids = match container.cgroup()? {
            Some(cgroup) => cgroup.processes()?,
            None => Vec::new(),
        };
        if arguments.format == Format::Json {
            return print(&serde_json::to_string(&pids)?);
        }
        let options = match arguments.options.as_slice() {
            [] => vec!["-ef".to_owned()],
            options => options.to_vec(),
        };
        let output = Command::new("ps")
            .args(&options)
            .output()
            .context("cannot run ps (apt-get install procps)")?;
        if !output.status.success() {
            bail!(
                "ps {}: {}",
                options.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let Some(column) = header.split_whitespace().position(|name| name == "PID") else {
            bail!("ps {}: its output has no column PID", options.join(" "));
        };
        let ours = lines.filter(|line| {
            let pid = line.split_whitespace().nth(column);
            pid.and_then(|pid| pid.parse().ok())
                .is_some_and(|pid: u32| pids.contains(&pid))
        });
        print(
            &[header]
                .into_iter()
                .chain(ours)
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }

    pub(super) fn events(&self, arguments: &EventsArguments) -> Result<u8> {
        loop {
            let container = Container::open(&self.root, &arguments.id)?;
            if !container.status()?.is_alive() {
                bail!("container {} is not running", arguments.id);
            }
            let stats = match container.cgroup()? {
                Some(cgroup) => cgroup.stats()?,
                None => Default::default(),
            };
            // The members of runc's output for which this host keeps figures.
            let line = json!({
                "type": "stats",
                "id": arguments.id,
                "data": {
                    "cpu": {
                        "usage": { "total": stats.cpu },
                        "throttling": { "throttledPeriods": stats.throttled_periods },
                    },
                    "memory": {
                        "usage": {
                            "limit": stats.memory_limit,
                            "usage": stats.memory,
                            "max": stats.memory_peak,
                        },
                        "kernel": { "usage": stats.kernel_memory },
                    },
                    "pids": { "current": stats.pids },
                },
            });
            print(&line.to_string())?;
            if arguments.stats {
                return Ok(0);
            }
            std::thread::sleep(Duration::from_secs(arguments.interval));
        }
    }
}

fn table(all: &[Shown]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows: Vec<[String; 6]> = [header]
        .into_iter()
        .chain(all.iter().map(|shown| {
            [
                shown.id.clone(),
                shown.pid.to_string(),
                shown.status.to_owned(),
                shown.bundle.display().to_string(),
                shown.created.clone(),
                shown.owner.clone(),
            ]
        }))
        .collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("   ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

/// Prints a line. A reader who has gone is no failure.
pub(super) fn print(text: &str) -> Result<u8> {
    if text.is_empty() {
        return Ok(0);
    }
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(0),
    }
}
