//! Many instances, many commands, and SIGKILL at random moments: nothing that was acknowledged is lost, nothing leaks, and every
//! later command works. `PLIMSOLL_KILLS` says how many kills (`make soak`: 400), `PLIMSOLL_SEED` which schedule.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Host, cgroups_of, eventually, is_alive, mounts, ways};

/// Kills in `make test`.
const KILLS: u64 = 40;

/// A schedule that can be had again: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What is known of the instances.
#[derive(Default)]
struct Known {
    /// Identifiers that a command has printed, of instances that stay until they are removed.
    kept: BTreeSet<String>,
    /// Every process that was ever recorded for one.
    processes: BTreeSet<u32>,
    /// Every identifier ever seen.
    ids: BTreeSet<String>,
}

impl Known {
    /// Writes down what the state says.
    fn look(&mut self, host: &Host) {
        for entry in fs::read_dir(host.root().join("instances"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let id = entry.file_name().to_string_lossy().into_owned();
            for member in ["pid", "supervisor"] {
                if let Some(pid) = host.state(&id, member).as_u64().filter(|pid| *pid > 1) {
                    self.processes.insert(pid as u32);
                }
            }
            self.ids.insert(id);
        }
    }
}

#[test]
fn random_kills_lose_nothing_and_leak_nothing() {
    let seed = number("PLIMSOLL_SEED", u64::from(std::process::id()) << 16 | 1);
    let kills = number("PLIMSOLL_KILLS", KILLS);
    eprintln!("PLIMSOLL_SEED={seed} PLIMSOLL_KILLS={kills}");
    let mut chance = Chance(seed.max(1));
    let host = Host::new();
    host.plimsoll(["run", "--rm", "plimsoll/base", "true"]).ok();
    host.plimsoll(["volume", "create", "kept"]).ok();
    host.plimsoll([
        "run",
        "--rm",
        "-v",
        "kept:/v",
        "plimsoll/base",
        "sh",
        "-c",
        "echo data > /v/data; sync",
    ])
    .ok();
    let ways = ways();
    let mut known = Known::default();
    for kill in 0..kills {
        round(&host, &mut chance, &ways, &mut known, kill);
    }
    // Nothing acknowledged is lost.
    let listed = host.plimsoll(["ps", "-aq", "--no-trunc"]).ok().to_owned();
    for id in &known.kept {
        assert!(listed.contains(id), "{id} is lost; there are {listed}");
    }
    let data = host.plimsoll([
        "run",
        "--rm",
        "-v",
        "kept:/v",
        "plimsoll/base",
        "cat",
        "/v/data",
    ]);
    assert_eq!(data.ok(), "data");
    // Everything can be removed, and then nothing is left.
    known.look(&host);
    let all: Vec<&str> = listed.lines().collect();
    if !all.is_empty() {
        host.plimsoll([&["rm", "-f", "-v"][..], &all].concat()).ok();
    }
    host.plimsoll(["volume", "rm", "kept"]).ok();
    host.plimsoll(["doctor", "--repair"]);
    eventually("its processes are gone", || {
        !known.processes.iter().any(|pid| is_ours(*pid, &host))
    });
    for id in &known.ids {
        assert!(cgroups_of(id).is_empty(), "{:?}", cgroups_of(id));
    }
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    // Others on this machine mount and unmount meanwhile: ours name the state directory.
    let root = host.root();
    assert!(!mounts().contains(&*root.to_string_lossy()), "{}", mounts());
}

/// Whether that process is still one of this test's: its number may be another's by now.
fn is_ours(pid: u32, host: &Host) -> bool {
    let root = host.root();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    is_alive(pid)
        && environment
            .windows(root.as_os_str().len())
            .any(|window| window == root.as_os_str().as_encoded_bytes())
}

fn round(host: &Host, chance: &mut Chance, ways: &[Vec<&str>], known: &mut Known, kill: u64) {
    // One in ten is a VM, where there is one that starts quickly.
    let way = match chance.below(10) {
        0 => ways.last().unwrap(),
        _ => ways.first().unwrap(),
    };
    let name = format!("n{kill}");
    let keep = chance.below(2) == 0;
    let mut arguments = vec!["run", "--name", &name, "-v", "kept:/v", "-v", "/anonymous"];
    if chance.below(2) == 0 {
        arguments.push("-d");
    }
    if !keep {
        arguments.push("--rm");
    }
    arguments.extend(way);
    let script = "echo up; echo more > /v/$HOSTNAME; rm /v/$HOSTNAME; sleep 1000";
    arguments.extend(["plimsoll/base", "sh", "-c", script]);
    let detached = arguments.contains(&"-d");
    let mut command: Child = host
        .command()
        .args(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let vm = way.contains(&"vm");
    std::thread::sleep(Duration::from_micros(chance.below(if vm {
        1_500_000
    } else {
        12_000
    })));
    known.look(host);
    match chance.below(6) {
        0 => common::kill(command.id(), libc::SIGKILL),
        1 => shoot(host, "supervisor"),
        2 => shoot(host, "pid"),
        3 => interrupted(host, chance, &["stop", "-t", "0", &name]),
        4 => interrupted(host, chance, &["rm", "-f", &name]),
        _ => interrupted(host, chance, &["exec", &name, "sleep", "0.01"]),
    }
    // What it printed it stands by.
    if detached {
        let output = command.wait_with_output().unwrap();
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let removed = host
            .plimsoll(["inspect", "--type", "container", &name])
            .code
            != Some(0);
        if keep && id.len() == 64 && !removed {
            known.kept.insert(id);
        }
    } else {
        common::kill(command.id(), libc::SIGKILL);
        command.wait().unwrap();
    }
    known.look(host);
    // Every later command works: each tells the truth about what there is.
    let listed = host.plimsoll(["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}"]);
    for row in listed.ok().lines() {
        let (id, _) = row.split_once(' ').unwrap();
        let said = host.plimsoll(["inspect", "--format", "{{.Id}}", id]);
        // It may have removed itself meanwhile; then that is what is said.
        assert!(
            said.stdout.trim() == id || said.stderr.contains("no such"),
            "{row}: {said:?}"
        );
    }
    // Some are removed in between, whatever they are doing.
    if chance.below(3) == 0
        && let Some(id) = known.kept.pop_first()
    {
        host.plimsoll(["rm", "-f", "-v", &id]).ok();
    }
}

/// Kills a process of some instance that runs.
fn shoot(host: &Host, member: &str) {
    for entry in fs::read_dir(host.root().join("instances"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let id = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = host.state(&id, member).as_u64().filter(|pid| *pid > 1)
            && is_ours(pid as u32, host)
        {
            common::kill(pid as u32, libc::SIGKILL);
            return;
        }
    }
}

/// A command that is itself killed in the middle.
fn interrupted(host: &Host, chance: &mut Chance, arguments: &[&str]) {
    let mut command = host
        .command()
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_micros(chance.below(6_000)));
    common::kill(command.id(), libc::SIGKILL);
    command.wait().unwrap();
}
