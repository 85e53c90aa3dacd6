//! N8: the engine inside a microVM, as Docker Toolbox had it; a container's ports are forwarded twice.

mod common;

use common::world::{HOST_ADDRESS, World};
use common::{Host, eventually, vm_ways};

/// The accelerators that start a toolbox within seconds here.
fn accelerators() -> Vec<&'static str> {
    vm_ways()
        .into_iter()
        .filter_map(|way| way.last().copied())
        .filter(|accel| !(common::kvm_is_emulated() && *accel == "kvm"))
        .collect()
}

#[test]
fn n8_a_container_in_a_machine_answers_through_two_forwardings() {
    for accel in accelerators() {
        let world = World::new();
        let before = world.snapshot();
        let way = ["--backend", "toolbox", "--accel", accel, "-m", "512m"];
        world.detached(
            &way,
            "--name box -h box -p 8080:7 -p 9053:7/udp",
            "exec workload echo 7",
        );
        assert_eq!(
            world
                .line("ps --format {{.Names}}/{{.Backend}}/{{.Ports}}")
                .ok(),
            "box/toolbox/0.0.0.0:8080->7/tcp, 0.0.0.0:9053->7/udp"
        );
        eventually("it answers", || is_answered(&world, HOST_ADDRESS, 8080));
        let udp = format!(
            "exec 3<>/dev/udp/{HOST_ADDRESS}/9053; echo hello >&3; timeout 5 head -n 1 <&3"
        );
        assert_eq!(world.outside.sh(&udp).stdout, "hello\n", "{accel}");
        world.line("rm -f box").ok();
        eventually("links, rules and forwarding are as they were", || {
            world.snapshot() == before
        });
    }
}

/// Whether the workload's server answers somebody outside: one byte says that an echo is wanted, then a message of 64 bytes
/// comes back.
fn is_answered(world: &World, host: &str, port: u16) -> bool {
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port} && printf 'e%064d' 5 >&3 && timeout 5 head -c 64 <&3"
    );
    world.outside.sh(&script).stdout == format!("{:064}", 5)
}

#[test]
fn n8_what_an_image_has_deleted_is_not_there_in_it_either() {
    let Some(accel) = accelerators().first().copied() else {
        skip!("a toolbox, because no VM starts quickly here");
    };
    let host = Host::new();
    let context = host.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM plimsoll/base\n\
         RUN mkdir /again && echo old >/again/old && echo gone >/gone\n\
         RUN rm -r /again /gone && mkdir /again && echo new >/again/new\n",
    )
    .unwrap();
    let context = context.to_str().unwrap();
    host.plimsoll(["build", "-t", "deleted", context]).ok();
    for way in [
        &["--backend", "container"][..],
        &["--backend", "toolbox", "--accel", accel],
    ] {
        let mut words = vec!["run", "--rm"];
        words.extend(way);
        words.extend(["deleted", "sh", "-c", "ls /again; ls -d /go*"]);
        let said = host.plimsoll(words);
        assert_eq!(said.stdout, "new\n", "{way:?}: {said:?}");
    }
}

#[test]
fn n8_what_runs_in_it_is_a_container_of_the_machines_kernel() {
    let Some(accel) = accelerators().first().copied() else {
        skip!("a toolbox, because no VM starts quickly here");
    };
    let host = Host::new();
    let shared = host.scratch().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("told"), "by the host").unwrap();
    let volume = format!("{}:/shared", shared.display());
    let script = "uname -r; hostname; cat /shared/told; echo; cat /kept 2>/dev/null; echo written >>/kept; touch /shared/back; read word; echo heard $word; exit 7";
    let said = host.plimsoll_with_input(
        b"hello\n",
        &[
            "run",
            "-i",
            "--backend",
            "toolbox",
            "--accel",
            accel,
            "-m",
            "512m",
            "--name",
            "box",
            "-h",
            "deck",
            "-e",
            "COLOR=red",
            "-v",
            &volume,
            "plimsoll/base",
            "sh",
            "-c",
            script,
        ],
    );
    assert_eq!(said.code, Some(7), "{said:?}");
    let own = host.plimsoll([
        "run",
        "--rm",
        "--network",
        "none",
        "plimsoll/base",
        "uname",
        "-r",
    ]);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_ne!(lines[0], own.ok());
    assert_eq!(lines[1..], ["deck", "by the host", "heard hello"]);
    assert!(shared.join("back").exists());
    // Its writes outlive its end.
    let again = host.plimsoll_with_input(b"again\n", &["start", "-ai", "box"]);
    assert_eq!(again.code, Some(7), "{again:?}");
    assert!(again.stdout.contains("written\nheard again"), "{again:?}");
    host.plimsoll(["diff", "box"])
        .fails(1, &["refused for a toolbox"]);
    host.plimsoll(["rm", "box"]).ok();
}

#[test]
fn n8_exec_stop_and_logs_mean_the_container_in_it() {
    let Some(accel) = accelerators().first().copied() else {
        skip!("a toolbox, because no VM starts quickly here");
    };
    let host = Host::new();
    let way = ["--backend", "toolbox", "--accel", accel, "-m", "512m"];
    host.detached(
        &way,
        &["--name", "box"],
        &[
            "sh",
            "-c",
            "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.1; done",
        ],
    );
    eventually("it is up", || {
        host.plimsoll(["logs", "box"]).stdout == "up\n"
    });
    let said = host.plimsoll([
        "exec",
        "-e",
        "A=b",
        "-w",
        "/etc",
        "box",
        "sh",
        "-c",
        "echo $A $PWD; exit 4",
    ]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (Some(4), "b /etc\n"),
        "{said:?}"
    );
    host.plimsoll(["stop", "box"]).ok();
    assert_eq!(host.inspect("box", "{{.State.ExitCode}}"), "3");
    assert_eq!(host.plimsoll(["logs", "box"]).stdout, "up\ntold\n");
    host.plimsoll(["rm", "box"]).ok();
}

#[test]
fn n8_what_a_toolbox_cannot_mean_is_refused_by_name() {
    let host = Host::new();
    for (flags, word) in [
        (["--network", "host"], "--network host is refused"),
        (["--memory-swap", "1g"], "--memory-swap is refused"),
        (["--cpuset-cpus", "0"], "--cpuset-cpus is refused"),
        (["--memory", "16m"], "64 MiB"),
    ] {
        let mut words = vec!["run", "--rm", "--backend", "toolbox"];
        words.extend(flags);
        words.extend(["plimsoll/base", "true"]);
        host.plimsoll(words).fails(125, &[word]);
    }
}
