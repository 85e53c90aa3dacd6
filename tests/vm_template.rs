//! Templates of VMs: the first on KVM of a size is saved where it has booted, and later ones go on from there. Where KVM is
//! kvm_pvm a boot takes tens of seconds, so each shows several things, and these tests stand in a program of their own.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Host, Said, finish, kvm_is_possible};

/// A host on which VMs on KVM can be tried; says why there is none.
fn host() -> Option<Host> {
    if !kvm_is_possible() {
        return None;
    }
    eprintln!("accelerator: kvm on {}", engine::substrate());
    Some(Host::new())
}

/// Runs a shell's script in a VM on KVM, and tells the stages of its start besides.
fn run(host: &Host, flags: &[&str], script: &str) -> (Said, Vec<String>) {
    let timeline = host.scratch().join("timeline.json");
    let mut command = host.command();
    command
        .env("PLIMSOLL_TIMELINE", &timeline)
        .args(["run", "--rm", "--backend", "vm", "--accel", "kvm"])
        .args(flags)
        .args(["plimsoll/base", "sh", "-c", script]);
    let said = finish(command);
    let text = fs::read_to_string(&timeline).unwrap_or_default();
    let stages: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let stages = stages["stages"].as_array().cloned().unwrap_or_default();
    let names = stages
        .iter()
        .map(|stage| stage["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    (said, names)
}

/// Whether the stages are those of a machine that went on from a template that was there.
fn is_restored(stages: &[String]) -> bool {
    let has = |name: &str| stages.iter().any(|stage| stage == name);
    has("exec") && !has("kernel") && !has("template")
}

fn templates(host: &Host) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.root().join("vm/templates"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn a_second_vm_is_restored_and_has_its_own_random_numbers_clock_address_and_mounts() {
    let Some(host) = host() else { return };
    const TELL: &str = "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1; \
                        date +%s; ip -4 -o addr show eth0 | awk '{print $4}'; cat /proc/sys/kernel/hostname";
    let begun = now();
    let first = host.detached(
        &["--backend", "vm", "--accel", "kvm"],
        &["--name", "first", "--hostname", "one"],
        &["sh", "-c", &format!("{TELL}; sleep 600")],
    );
    assert!(!first.is_empty());
    common::eventually("the first VM tells", || {
        host.plimsoll(["logs", "first"]).stdout.lines().count() == 5
    });
    let one: Vec<String> = host
        .plimsoll(["logs", "first"])
        .stdout
        .lines()
        .map(str::to_owned)
        .collect();
    let one_done = now();
    assert_eq!(templates(&host).len(), 1);

    let shared = host.scratch().join("shared");
    fs::create_dir(&shared).unwrap();
    let mount = format!("{}:/shared", shared.display());
    let restored = now();
    let script = format!("{TELL}; echo kept > /shared/file; echo written > /written; cat /written");
    let (said, stages) = run(&host, &["-v", &mount, "--hostname", "two"], &script);
    let two: Vec<&str> = said.ok().lines().collect();
    let two_done = now();
    assert!(is_restored(&stages), "{stages:?}");
    eprintln!("first: {one:?}\nsecond: {two:?}");
    for (number, what) in ["uuid", "urandom"].iter().enumerate() {
        assert_ne!(one[number], two[number], "{what}");
    }
    let time = |text: &str| text.parse::<u64>().unwrap();
    assert!((begun..=one_done).contains(&time(&one[2])), "{one:?}");
    assert!((restored..=two_done).contains(&time(two[2])), "{two:?}");
    assert_ne!(one[3], two[3], "both run, each with its own address");
    assert_eq!((one[4].as_str(), two[4]), ("one", "two"));
    assert_eq!(two[5], "written");
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "kept\n");
    // A third is another than the second.
    let (said, stages) = run(&host, &[], TELL);
    assert!(is_restored(&stages), "{stages:?}");
    assert_ne!(said.ok().lines().nth(1), Some(two[1]));

    let listed = host.plimsoll(["vm", "template", "ls"]);
    assert!(listed.ok().contains("256MiB"), "{listed:?}");
    let name = host
        .plimsoll(["vm", "template", "ls", "-q"])
        .ok()
        .to_owned();
    assert_eq!(host.plimsoll(["vm", "template", "rm", &name]).ok(), name);
    host.plimsoll(["vm", "template", "rm", &name])
        .fails(1, &["no such template", &name]);
    // What was made from it goes on.
    assert_eq!(
        host.plimsoll(["exec", "first", "echo", "alive"]).ok(),
        "alive"
    );
    host.plimsoll(["rm", "-f", "first"]).ok();
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn a_template_that_is_cut_or_of_another_version_is_refused_and_the_vm_boots_all_the_same() {
    let Some(host) = host() else { return };
    run(&host, &["-m", "128m"], "true").0.ok();
    let template = templates(&host).remove(0);
    let memory = fs::File::options()
        .write(true)
        .open(template.join("memory"))
        .unwrap();
    memory.set_len(64 << 20).unwrap();
    let (said, stages) = run(&host, &["-m", "128m"], "echo hi");
    assert_eq!(said.ok(), "hi");
    assert!(
        said.stderr
            .contains("is refused: its memory file has 67108864 bytes"),
        "{said:?}"
    );
    assert!(!is_restored(&stages), "{stages:?}");

    // It was made anew. Now as another version would have made it.
    let state = template.join("state");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replacen("\"version\":1", "\"version\":99", 1)).unwrap();
    let listed = host.plimsoll(["vm", "template", "ls"]);
    assert!(
        listed.ok().contains("unusable: it is of version 99"),
        "{listed:?}"
    );
    let (said, stages) = run(&host, &["-m", "128m"], "echo hi");
    assert_eq!(said.ok(), "hi");
    assert!(
        said.stderr.contains("is refused: it is of version 99"),
        "{said:?}"
    );
    assert!(!is_restored(&stages), "{stages:?}");
    let (said, stages) = run(&host, &["-m", "128m"], "echo hi");
    assert_eq!((said.ok(), said.stderr.as_str()), ("hi", ""));
    assert!(is_restored(&stages), "{stages:?}");
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn of_two_first_vms_one_makes_the_template_and_two_cpus_and_no_template_are_respected() {
    let Some(host) = host() else { return };
    let both = std::thread::scope(|scope| {
        let runs = [(); 2].map(|()| {
            scope.spawn(|| {
                let flags = [
                    "run",
                    "--rm",
                    "--backend",
                    "vm",
                    "--accel",
                    "kvm",
                    "--cpus",
                    "2",
                ];
                host.plimsoll([&flags[..], &["plimsoll/base", "nproc"]].concat())
            })
        });
        runs.map(|run| run.join().unwrap())
    });
    for said in both {
        assert_eq!(said.ok(), "2");
    }
    assert_eq!(templates(&host).len(), 1);
    let (said, stages) = run(
        &host,
        &["--cpus", "2"],
        "nproc; taskset 2 true && echo both",
    );
    assert_eq!(said.ok(), "2\nboth");
    assert!(is_restored(&stages), "{stages:?}");
    host.plimsoll(["vm", "template", "rm", "--all"]).ok();
    let (said, stages) = run(&host, &["--no-template"], "echo hi");
    assert_eq!(said.ok(), "hi");
    assert!(stages.iter().any(|stage| stage == "kernel"), "{stages:?}");
    assert!(templates(&host).is_empty());
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}
