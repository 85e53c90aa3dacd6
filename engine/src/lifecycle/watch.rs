//! What runs in an instance, and what it uses: for `top` and `stats`.

use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use container_core::cgroup::{self, Cgroup};
use serde::Deserialize;

use super::exec;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed};
use crate::spec::VM_MEMORY;

/// A table of processes: titles, and a row for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// The titles of the columns.
    pub titles: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// The processes of a running instance, as `ps` with these options shows them (`-ef` without any). A VM's are listed by its
/// agent, which knows no options.
///
/// # Errors
/// [`Error::Refused`] for an instance that does not run, or when `ps` does not show the process numbers.
pub fn top(home: &Home, wanted: &str, options: &[String]) -> Result<Processes> {
    let found = instance::look(home, wanted)?;
    if !found.is_running() {
        return Err(Error::Refused(format!(
            "container {} is not running",
            found.record.id
        )));
    }
    if found.record.spec.backend.is_machine() {
        return of_vm(home, &found, options);
    }
    let cgroup = Cgroup::open(&cgroup::path_of_id(&found.record.id)?)?;
    let pids: Vec<u32> = cgroup
        .map(|cgroup| cgroup.processes())
        .transpose()?
        .unwrap_or_default();
    let mut command = Command::new("ps");
    match options {
        [] => command.arg("-ef"),
        _ => command.args(options),
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::Refused(format!("cannot run ps: {e}: install the package procps")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Refused(format!(
            "ps: {}",
            said.trim().lines().next().unwrap_or("it failed")
        )));
    }
    parse(&String::from_utf8_lossy(&output.stdout), &pids)
}

/// Keeps the rows of these processes. The last column is the command, which may hold spaces.
fn parse(text: &str, pids: &[u32]) -> Result<Processes> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let place = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::Refused("couldn't find PID field in ps output".into()))?;
    let rows = lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let mut row: Vec<String> = words
                .by_ref()
                .take(titles.len().saturating_sub(1))
                .map(str::to_owned)
                .collect();
            row.push(words.collect::<Vec<_>>().join(" "));
            let pid: u32 = row.get(place)?.parse().ok()?;
            pids.contains(&pid).then_some(row)
        })
        .collect();
    Ok(Processes { titles, rows })
}

/// The helper's word on a process.
#[derive(Deserialize)]
struct GuestProcess {
    pid: u64,
    ppid: u64,
    user: String,
    c: u64,
    stime: u64,
    tty: String,
    time: u64,
    cmd: String,
}

fn of_vm(home: &Home, found: &Listed, options: &[String]) -> Result<Processes> {
    if !options.is_empty() {
        return Err(Error::Unsupported(
            "options of ps are refused for a VM: its processes are listed by the agent in it, which shows what -ef shows".into(),
        ));
    }
    let (reader, writer) = std::io::pipe().map_err(|source| Error::System {
        action: "make a pipe",
        source,
    })?;
    let null = crate::supervisor::null()?;
    let listing = std::thread::scope(|scope| {
        let reads = scope.spawn(move || {
            use std::io::Read;
            let mut text = Vec::new();
            reader.take(16 << 20).read_to_end(&mut text).map(|_| text)
        });
        let code = exec::tool(home, found, &["ps"], None, writer.as_fd(), null.as_fd());
        drop(writer);
        let text = reads
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .unwrap_or_default();
        code.map(|_| text)
    })?;
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    let rows = listing
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<GuestProcess>(line).ok())
        .map(|process| {
            let start = crate::logs::format_time(process.stime.saturating_mul(1_000_000_000));
            let seconds = process.time;
            vec![
                process.user,
                process.pid.to_string(),
                process.ppid.to_string(),
                process.c.to_string(),
                start.get(11..16).unwrap_or("?").to_owned(),
                process.tty,
                format!(
                    "{:02}:{:02}:{:02}",
                    seconds / 3600,
                    seconds / 60 % 60,
                    seconds % 60
                ),
                process.cmd,
            ]
        })
        .collect();
    Ok(Processes {
        titles: titles.map(str::to_owned).to_vec(),
        rows,
    })
}

/// What an instance uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of processor time so far.
    pub cpu: u64,
    /// Bytes of memory, without page cache that could be dropped at once.
    pub memory: u64,
    /// The limit on that.
    pub limit: u64,
    /// Tasks; for a VM, the monitor's threads.
    pub pids: u64,
    /// Bytes received and sent over the network.
    pub network: (u64, u64),
}

/// What a running instance uses at this moment; nothing of one that does not run.
///
/// # Errors
/// When its cgroup cannot be read.
pub fn usage(found: &Listed) -> Result<Usage> {
    if !found.is_running() {
        return Ok(Usage::default());
    }
    let Some(cgroup) = Cgroup::open(&cgroup::path_of_id(&found.record.id)?)? else {
        return Ok(Usage::default());
    };
    let stats = cgroup.stats()?;
    let host = host_memory();
    let limit = match found.record.spec.backend {
        backend if backend.is_machine() => found.record.spec.limits.memory.unwrap_or(VM_MEMORY),
        _ => stats.memory_limit.unwrap_or(u64::MAX),
    };
    Ok(Usage {
        cpu: stats.cpu.unwrap_or(0),
        memory: stats
            .memory
            .unwrap_or(0)
            .saturating_sub(stats.inactive_file.unwrap_or(0)),
        limit: limit.min(host),
        pids: stats.pids.unwrap_or(0),
        network: match found.record.spec.backend {
            backend if backend.is_machine() => (0, 0),
            _ => network(found.state.pid),
        },
    })
}

/// The host's memory, bytes.
fn host_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(u64::MAX, |kibibytes| kibibytes << 10)
}

/// Bytes over all interfaces of a process's network but the loopback one (proc_pid_net(5), "dev").
fn network(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    text.lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .fold((0, 0), |(received, sent), (_, rest)| {
            let mut numbers = rest
                .split_whitespace()
                .map(|text| text.parse().unwrap_or(0));
            let more = numbers.next().unwrap_or(0);
            (received + more, sent + numbers.nth(7).unwrap_or(0))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_instances_processes_are_kept_with_their_whole_command() {
        let text = "UID  PID PPID C STIME TTY TIME CMD\nroot 7 1 0 10:00 ? 00:00:00 sh -c  a b\nroot 8 1 0 10:00 ? 00:00:00 other\n";
        let found = parse(text, &[7]).unwrap();
        assert_eq!(found.titles.last().unwrap(), "CMD");
        assert_eq!(found.rows.len(), 1);
        assert_eq!(found.rows[0].last().unwrap(), "sh -c a b");
        assert!(parse("A B\n1 2\n", &[1]).is_err());
    }
}
