//! The same commands, given to Debian's docker.io and to Plimsoll, have the same outputs and exit codes.
//!
//! Where they have not, the step says why; the reasons are in [`steps::Step::differs`]'s callers, and printed. Identifiers,
//! times and ages are made equal first. What an engine says about a failure is compared by the words that matter, since
//! docker tells in it how it is built ("Error response from daemon: …").

#[path = "../common/mod.rs"]
mod common;
mod dockerd;
mod normal;
mod steps;

mod files;
mod lifecycle;
mod lists;
mod running;
mod volumes;

use std::sync::{Mutex, PoisonError};

use common::Host;
use dockerd::Dockerd;
use steps::{Engine, Step};

/// One pair of engines at a time: the differences of a busy machine are not of interest.
static ONE: Mutex<()> = Mutex::new(());

/// Runs the steps on docker and as our containers, and fails with everything in which they differ.
#[track_caller]
fn same(title: &str, steps: &[Step]) {
    compare(title, &["--backend", "container"], steps);
}

/// The same, with containers, and then with VMs where those start quickly.
#[track_caller]
fn same_in_vms(title: &str, steps: &[Step]) {
    same(title, steps);
    for way in common::ways() {
        if way.contains(&"vm") {
            compare(title, &way, steps);
        }
    }
}

#[track_caller]
fn compare(title: &str, way: &[&'static str], steps: &[Step]) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(image) = dockerd::image() else {
        skip!("{title}, because there is no /bin/busybox (busybox-static)");
    };
    let dockerd = match Dockerd::start() {
        Ok(dockerd) => dockerd,
        Err(reason) => skip!("{title}, because {reason}"),
    };
    let host = Host::new();
    let engines = [
        Engine::new("docker", dockerd.scratch(), &[], || dockerd.command()),
        Engine::new("plimsoll", host.scratch(), way, || host.command()),
    ];
    for engine in &engines {
        engine.import(&image);
    }
    let in_vm = way.contains(&"vm");
    let mut wrong = Vec::new();
    let mut done = 0;
    for step in steps {
        if let Some(reason) = step.not_in_vms()
            && in_vm
        {
            eprintln!("not for VMs: {}: {reason}", step.name());
            continue;
        }
        done += 1;
        let [docker, ours] = engines.each_ref().map(|engine| engine.run(step));
        if let Err(difference) = step.compare(&docker, &ours) {
            wrong.push(difference);
        }
    }
    for engine in &engines {
        engine.clean();
    }
    assert!(
        wrong.is_empty(),
        "{title} ({}): {} of {done} steps differ\n\n{}",
        way.join(" "),
        wrong.len(),
        wrong.join("\n")
    );
}
