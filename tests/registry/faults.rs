//! What happens to a pull that is killed, and on a disk that is full.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Station;
use crate::server::{Options, Registry, succeed};

/// Pushes an image of several layers' worth of noise, so that its pull takes a while.
fn push_noise(station: &Station, name: &str, megabytes: usize) {
    let tree = station.scratch().join("noise");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/cat")).unwrap();
    fs::write(tree.join("text"), "whole\n").unwrap();
    let mut random = fs::File::open("/dev/urandom").unwrap();
    for file in 0..megabytes {
        let mut target = fs::File::create(tree.join(format!("noise{file}"))).unwrap();
        std::io::copy(&mut std::io::Read::take(&mut random, 1 << 20), &mut target).unwrap();
    }
    let archive = station.scratch().join("noise.tar.gz");
    succeed(Command::new("bash").arg("-c").arg(format!(
        "set -o pipefail; tar -C {} -c . | gzip -1 > {}",
        tree.display(),
        archive.display()
    )));
    station.import(&archive, name);
    station.run(&format!("push -q {name}")).ok();
    let _ = fs::remove_dir_all(tree);
    let _ = fs::remove_file(archive);
}

/// Bytes of layers that have come.
fn incoming(root: &Path) -> u64 {
    let files = fs::read_dir(root.join("images/incoming"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

#[test]
fn a_pull_that_is_killed_leaves_nothing_visible_and_the_next_one_goes_on() {
    let Some(registry) = Registry::start(&Options::default()) else {
        return;
    };
    let (sender, receiver) = (Station::new(), Station::new());
    let name = format!("{}/large:1", registry.host());
    push_noise(&sender, &name, 64);
    let root = receiver.host.root();
    let mut killed = 0;
    let mut furthest = 0;
    for round in 0..12u64 {
        let mut pull = receiver
            .command()
            .args(["pull", "-q", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        // A little later each time.
        while incoming(&root) < furthest + (2 << 20)
            && started.elapsed() < Duration::from_millis(500 + 50 * round)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        pull.kill().unwrap();
        if pull.wait().unwrap().success() {
            break;
        }
        killed += 1;
        let come = incoming(&root);
        assert!(
            come >= furthest,
            "what had come is lost: {come} of {furthest} bytes"
        );
        furthest = come;
        let listed = receiver.run("images -q --filter reference=*/large");
        assert_eq!(listed.ok(), "", "half an image is visible");
    }
    assert!(
        killed > 0 && furthest > 0,
        "{killed} were killed, {furthest} bytes had come"
    );
    receiver.run(&format!("pull {name}")).ok();
    assert_eq!(
        receiver
            .run(&format!("run --rm --network none --pull never {name}"))
            .ok(),
        "whole"
    );
    assert_eq!(incoming(&root), 0);
    assert_eq!(sender.digest(&name), receiver.digest(&name));
    let left: Vec<_> = fs::read_dir(root.join("images/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_blob_that_the_registry_has_damaged_is_refused_and_mends_when_it_is_whole_again() {
    let Some(registry) = Registry::start(&Options::default()) else {
        return;
    };
    let (sender, receiver) = (Station::new(), Station::new());
    let name = format!("{}/app:1", registry.host());
    sender.image(&name, "fine");
    sender.run(&format!("push -q {name}")).ok();
    let blobs = sender.host.root().join("images/blobs/sha256");
    let largest = fs::read_dir(blobs)
        .unwrap()
        .flatten()
        .max_by_key(|entry| {
            entry.metadata().unwrap().len().min(2 << 20)
                * u64::from(registry.blob(&entry.file_name().to_string_lossy()).exists())
        })
        .unwrap();
    let blob = registry.blob(&largest.file_name().to_string_lossy());
    let good = fs::read(&blob).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0x55;
    for damaged in [&bad[..], &good[..middle], &[]] {
        fs::write(&blob, damaged).unwrap();
        let said = receiver.run(&format!("pull {name}"));
        said.fails(1, &["layer sha256:"]);
        assert_eq!(receiver.run("images -q --filter reference=*/app").ok(), "");
    }
    fs::write(&blob, &good).unwrap();
    assert_eq!(
        receiver
            .run(&format!("run --rm -q --network none {name}"))
            .ok(),
        "fine"
    );
}

#[test]
fn a_full_disk_is_said_and_the_pull_goes_on_once_there_is_room() {
    let Some(registry) = Registry::start(&Options::default()) else {
        return;
    };
    let sender = Station::new();
    let name = format!("{}/large:1", registry.host());
    push_noise(&sender, &name, 24);
    let station = Station::new();
    let script = format!(
        "set -u; mkdir -p $PLIMSOLL_ROOT; mount -t tmpfs -o size=40m none $PLIMSOLL_ROOT\n\
         {0} pull -q {1}; echo code $?\n\
         {0} images -q --filter reference=*/large; echo listed\n\
         mount -o remount,size=400m $PLIMSOLL_ROOT\n\
         {0} pull -q {1}; echo code $?\n\
         {0} run --rm --network none {1}; echo code $?\n",
        crate::common::binary().display(),
        name
    );
    let mut child = Command::new("unshare")
        .args(["-m", "bash"])
        .env("PLIMSOLL_ROOT", station.host.root())
        .env("DOCKER_CONFIG", station.scratch().join("docker"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        ["code 1", "listed", &name, "code 0", "whole", "code 0"],
        "{errors}"
    );
    assert!(errors.contains("not enough space"), "{errors}");
}
