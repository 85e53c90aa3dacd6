//! The notes' WordPress and its database, with MariaDB and a blog of our own from Debian's packages: one in a VM and the other in a
//! container, linked by name, its port published; and the other way round.

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::world::{HOST_ADDRESS, World};
use common::{in_lab, which};
use sha2::{Digest, Sha256};

const CONTAINER: &[&str] = &["--backend", "container"];

/// QEMU's emulation, which runs a database within seconds; kvm_pvm would take minutes.
const VM: &[&str] = &["--backend", "vm", "--accel", "tcg"];

/// How long MariaDB may take to make its first database under emulation, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(240);

/// Why these tests cannot run here, if they cannot.
fn obstacle() -> Option<&'static str> {
    if in_lab() {
        Some("the lab has no Debian mirror; the host's run of this test covers it")
    } else if which("debootstrap").is_none() {
        Some("debootstrap is not installed (make test installs it)")
    } else if which("qemu-system-x86_64").is_none() {
        Some("qemu-system-x86_64 is not installed, which --accel tcg needs (make test installs it)")
    } else {
        None
    }
}

/// The image as an archive: built by `plimsoll build` once for each state of tests/database, and kept.
fn archive(world: &World) -> PathBuf {
    let context = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/database");
    let mut hasher = Sha256::new();
    for file in ["Dockerfile", "entrypoint", "blog", "query", "posts"] {
        hasher.update(std::fs::read(context.join(file)).unwrap());
    }
    let digest: String = hasher.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let kept = PathBuf::from(format!("/var/cache/plimsoll/test/database-{digest}.tar"));
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    if !kept.is_file() {
        let debian = common::debian::archive();
        // Not inside the world, from which no mirror is reached.
        let host = &world.host;
        host.plimsoll(["import", debian.to_str().unwrap(), "debian:bookworm"])
            .ok();
        let context = context.to_str().unwrap();
        host.plimsoll(["build", "--network", "host", "-t", "database", context])
            .ok();
        let part = kept.with_extension("part");
        host.plimsoll(["save", "-o", part.to_str().unwrap(), "database"])
            .ok();
        std::fs::rename(&part, &kept).unwrap();
    }
    kept
}

fn load(world: &World) {
    let archive = archive(world);
    world
        .plimsoll(["load", "-i", archive.to_str().unwrap()])
        .ok();
}

/// What the blog answers on the host's port, asked as curl does.
fn page(world: &World, port: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--fail", "--max-time", "60"]);
    command.arg(format!("http://{HOST_ADDRESS}:{port}/cgi-bin/posts"));
    world.inside.enter(&mut command);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts a database and a blog that is linked to it, and asks the blog until it answers.
fn blog_answers(world: &World, database: &[&str], blog: &[&str], volume: &str) -> String {
    let run = |way: &[&str], rest: &str| {
        let mut words = vec!["run", "-d", "-m", "512m"];
        words.extend(way);
        words.extend(rest.split(' '));
        world.plimsoll(words).ok().to_owned()
    };
    run(
        database,
        &format!(
            "--name wordpressdb -e MYSQL_ROOT_PASSWORD=password -e MYSQL_DATABASE=wordpress -v {volume}:/var/lib/mysql database"
        ),
    );
    run(
        blog,
        "--name wordpress --hostname blog --link wordpressdb:mysql -p 80 database blog",
    );
    let port = world.line("port wordpress 80/tcp").ok().to_owned();
    let port = port.rsplit(':').next().unwrap().to_owned();
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = page(world, &port);
        if !answer.is_empty() {
            return answer;
        }
        let running = world.line("ps --format {{.Names}}");
        if running.ok().lines().count() < 2 || Instant::now() > end {
            panic!(
                "the blog does not answer\nblog: {:?}\ndatabase: {:?}",
                world.line("logs wordpress"),
                world.line("logs --tail 20 wordpressdb")
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn n20_a_blog_and_its_database_run_on_different_backends_either_way_round() {
    if let Some(reason) = obstacle() {
        skip!("{reason}");
    }
    let world = World::new();
    let before = world.snapshot();
    load(&world);
    let first = blog_answers(&world, VM, CONTAINER, "notes");
    assert_eq!(first, "written by blog\n");
    world.line("rm -f wordpress").ok();
    // In good order: what it has written is on the volume then.
    world.line("stop wordpressdb").ok();
    world.line("rm wordpressdb").ok();
    // N19: the data outlive the instance, and the other backend reads them.
    let second = blog_answers(&world, CONTAINER, VM, "notes");
    assert_eq!(second, "written by blog\n");
    world.line("rm -f wordpress wordpressdb").ok();
    world.line("volume rm notes").ok();
    common::eventually("links, rules and forwarding are as before", || {
        world.snapshot() == before
    });
}

#[test]
fn n22_a_database_without_its_password_says_why_in_its_logs() {
    if let Some(reason) = obstacle() {
        skip!("{reason}");
    }
    let world = World::new();
    load(&world);
    for way in [CONTAINER, VM] {
        let mut words = vec!["run", "-d", "--name", "db"];
        words.extend(way);
        words.push("database");
        world.plimsoll(words).ok();
        assert_eq!(world.line("wait db").ok(), "1", "{way:?}");
        let logs = world.line("logs --tail 2 db");
        assert!(
            logs.stderr.contains("MYSQL_ROOT_PASSWORD is not set"),
            "{way:?}: {logs:?}"
        );
        world.line("rm -v db").ok();
        // The blog too says what it lacks.
        let mut words = vec!["run", "--rm"];
        words.extend(way);
        words.extend(["database", "blog"]);
        let said = world.plimsoll(words);
        assert_eq!(said.code, Some(1), "{way:?}: {said:?}");
        assert!(
            said.stderr.contains("--link NAME:mysql"),
            "{way:?}: {said:?}"
        );
    }
    assert_eq!(world.line("volume ls -q").ok(), "");
}
