//! Limits are kept, ends for want of memory are told, and nothing is left.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Fixture, command, shell, skip, with_resources, without};
use container_core::cgroup::{self, Cgroup, Controller, Mode};
use container_core::{Error, ExitStatus, Teardown, remove_cgroups};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Spec,
};

const MIB: i64 = 1 << 20;

/// Whether the host can keep a limit; says so when not.
fn lacks(controller: Controller) -> bool {
    let lacks = !cgroup::detect().unwrap().has(controller);
    if lacks {
        eprintln!("skipped: this host has no {} controller", controller.name());
    }
    lacks
}

fn with_memory(spec: Spec, limit: i64) -> Spec {
    // Without swap, so that the limit is what it says.
    let memory = LinuxMemoryBuilder::default()
        .limit(limit)
        .swap(limit)
        .build()
        .unwrap();
    with_resources(spec, |resources| {
        resources.set_memory(Some(memory));
    })
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "waited in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_process_that_takes_too_much_memory_is_killed_and_reported_so() {
    if skip() || lacks(Controller::Memory) {
        return;
    }
    let fixture = Fixture::new();
    // tail keeps the whole line it reads.
    let output = fixture.run(&with_memory(command(&["tail", "/dev/zero"]), 32 * MIB));
    assert_eq!(output.exit.status, ExitStatus::Signaled(libc::SIGKILL));
    assert!(output.exit.oom_killed);
}

#[test]
fn a_child_killed_for_want_of_memory_is_reported_too() {
    if skip() || lacks(Controller::Memory) {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture.run(&with_memory(
        shell("tail /dev/zero; echo $?; exit 5"),
        32 * MIB,
    ));
    assert_eq!((output.code(), output.stdout.as_str()), (5, "137\n"));
    assert!(output.exit.oom_killed);
}

#[test]
fn a_process_within_its_limit_is_left_alone() {
    if skip() || lacks(Controller::Memory) {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture.run(&with_memory(
        shell("head -c 8000000 /dev/zero | wc -c"),
        64 * MIB,
    ));
    assert_eq!(output.stdout, "8000000\n");
    assert!(!output.exit.oom_killed);
}

#[test]
fn a_limit_too_small_to_start_with_is_told() {
    if skip() || lacks(Controller::Memory) {
        return;
    }
    let fixture = Fixture::new();
    // Less than a page table: not even the set-up gets through. It may also end as the command itself begins.
    match fixture.run_in(&with_memory(shell("true"), 4096), fixture.overlay()) {
        Err(error @ Error::Died { .. }) => {
            assert!(error.to_string().contains("memory limit"), "{error}")
        }
        Err(Error::Setup { .. } | Error::Cgroup(_)) => {}
        Ok(output) => assert!(output.exit.oom_killed, "{output:?}"),
        Err(error) => panic!("{error}"),
    }
    assert!(fixture.cgroups().is_empty());
}

#[test]
fn the_number_of_processes_is_limited() {
    if skip() || lacks(Controller::Pids) {
        return;
    }
    let fixture = Fixture::new();
    let spec = with_resources(
        shell("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3 & done; ls -d /proc/[0-9]* | wc -l"),
        |resources| {
            resources.set_pids(Some(LinuxPidsBuilder::default().limit(8).build().unwrap()));
        },
    );
    let output = fixture.run(&spec);
    assert!(output.stderr.contains("can't fork"), "{output:?}");
}

#[test]
fn a_quota_of_processor_time_throttles() {
    if skip() || lacks(Controller::Cpu) {
        return;
    }
    let fixture = Fixture::new();
    let cpu = LinuxCpuBuilder::default()
        .quota(10_000_i64)
        .period(100_000_u64)
        .build()
        .unwrap();
    let spec = with_resources(shell("while :; do :; done"), |resources| {
        resources.set_cpu(Some(cpu));
    });
    let container = fixture.quietly(&spec);
    let cgroup = container.cgroup().unwrap();
    until("throttled periods", || {
        cgroup.stats().unwrap().throttled_periods.unwrap() >= 2
    });
    assert!(cgroup.stats().unwrap().cpu.unwrap() > 0);
    container.release(Teardown::Wait).unwrap();
}

#[test]
fn processors_can_be_chosen() {
    if skip() || lacks(Controller::Cpuset) {
        return;
    }
    let fixture = Fixture::new();
    let cpu = LinuxCpuBuilder::default().cpus("0").build().unwrap();
    let spec = with_resources(
        shell("grep Cpus_allowed_list /proc/self/status"),
        |resources| {
            resources.set_cpu(Some(cpu));
        },
    );
    assert_eq!(fixture.run(&spec).ok(), "Cpus_allowed_list:\t0\n");
}

#[test]
fn a_device_that_is_not_granted_cannot_be_opened() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // Docker grants mknod of anything and the use of the default devices only. 1:1 is /dev/mem, 7:0 a loop device.
    let script = "mknod /m c 1 1 && echo made; head -c 1 /m 2>&1; mknod /l b 7 0; head -c 1 /l 2>&1; \
                  mknod /n c 1 3 && echo x > /n && echo used";
    let output = fixture.shell(script).ok();
    assert_eq!(
        output.matches("Operation not permitted").count(),
        2,
        "{output}"
    );
    assert!(
        output.starts_with("made\n") && output.ends_with("used\n"),
        "{output}"
    );
}

#[test]
fn a_device_can_be_granted_and_making_nodes_be_denied() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let rule = |allow, access: &str| {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(LinuxDeviceType::C)
            .major(1)
            .minor(11)
            .access(access)
            .build()
            .unwrap()
    };
    // 1:11 is /dev/kmsg: writing is granted, reading is not.
    let spec = with_resources(
        shell("mknod /k c 1 11; : > /k && echo written; cat /k 2>&1"),
        |resources| {
            resources
                .devices_mut()
                .as_mut()
                .unwrap()
                .push(rule(true, "w"));
        },
    );
    let output = fixture.run(&spec);
    assert_eq!(
        output.stdout, "written\ncat: can't open '/k': Operation not permitted\n",
        "{output:?}"
    );
}

#[test]
fn a_container_without_device_rules_may_use_everything() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = with_resources(
        shell("mknod /k c 1 11 && : > /k && echo used"),
        |resources| {
            resources.set_devices(None);
        },
    );
    assert_eq!(fixture.run(&spec).ok(), "used\n");
}

#[test]
fn the_container_sees_its_own_cgroups_only_and_cannot_change_them() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let script = "cut -d: -f3 /proc/self/cgroup | sort -u; find /sys/fs/cgroup -name 'cgroup.procs' | while read f; do cat $f; done | sort -u; \
                  find /sys/fs/cgroup -name plimsoll; for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo 0 > $f && echo changed; done";
    let output = fixture.run(&shell(script));
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines[0], "/", "{output:?}");
    assert!(
        lines[1..]
            .iter()
            .all(|line| line.parse::<u32>().is_ok_and(|pid| pid != 0)),
        "{output:?}"
    );
}

#[test]
fn without_a_cgroup_namespace_the_view_is_bound_from_the_host() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let script = "find /sys/fs/cgroup -name cgroup.procs | while read f; do cat $f; done | sort -u | grep -c '^1$'; grep -c plimsoll /proc/self/cgroup";
    let output = fixture
        .run(&without(shell(script), LinuxNamespaceType::Cgroup))
        .ok();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "1", "{output}");
    assert_ne!(lines[1], "0", "{output}");
}

#[test]
fn statistics_tell_what_is_used() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let container = fixture.quietly(&with_memory(shell("sleep 60 & sleep 60 & wait"), 64 * MIB));
    let cgroup = container.cgroup().unwrap();
    until("three processes", || {
        cgroup.stats().unwrap().pids == Some(3)
    });
    let stats = cgroup.stats().unwrap();
    assert!(stats.cpu.unwrap() > 0);
    if !lacks(Controller::Memory) {
        let (used, peak) = (stats.memory.unwrap(), stats.memory_peak.unwrap_or(u64::MAX));
        assert!(
            used > 0 && used <= 64 * MIB as u64 && peak >= used,
            "{stats:?}"
        );
        assert_eq!(stats.memory_limit, Some(64 * MIB as u64));
        assert!(stats.kernel_memory.is_some());
    }
    assert_eq!(cgroup.processes().unwrap().len(), 3);
    container.release(Teardown::Wait).unwrap();
}

#[test]
fn a_limit_can_be_changed_while_the_container_runs() {
    if skip() || lacks(Controller::Memory) {
        return;
    }
    let fixture = Fixture::new();
    let container = fixture.quietly(&with_memory(shell("sleep 60"), 64 * MIB));
    let cgroup = container.cgroup().unwrap();
    for limit in [128 * MIB, 48 * MIB] {
        let memory = LinuxMemoryBuilder::default()
            .limit(limit)
            .swap(limit)
            .build()
            .unwrap();
        cgroup
            .update(
                &LinuxResourcesBuilder::default()
                    .memory(memory)
                    .build()
                    .unwrap(),
            )
            .unwrap();
        assert_eq!(cgroup.stats().unwrap().memory_limit, Some(limit as u64));
    }
    container.release(Teardown::Wait).unwrap();
}

#[test]
fn a_frozen_container_stands_still_and_can_still_be_killed() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut container = fixture.quietly(&shell("while :; do :; done"));
    let cgroup = container.cgroup().unwrap();
    let cpu = || cgroup.stats().unwrap().cpu.unwrap();
    until("some work", || cpu() > 5_000_000);
    cgroup.freeze().unwrap();
    let frozen = cpu();
    std::thread::sleep(Duration::from_millis(100));
    assert!(cpu() - frozen < 5_000_000, "5 ms of the 100 at most");
    cgroup.thaw().unwrap();
    until("work again", || cpu() > frozen + 5_000_000);
    cgroup.freeze().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(
        container.wait().unwrap().status,
        ExitStatus::Signaled(libc::SIGKILL)
    );
}

#[test]
fn nothing_is_left_after_the_end() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let container = fixture.quietly(&with_memory(command(&["sleep", "60"]), 64 * MIB));
    assert!(!fixture.cgroups().is_empty());
    assert!(cgroup::list().unwrap().contains(&fixture.id));
    container.release(Teardown::Leave).unwrap();
    assert_eq!(fixture.cgroups(), [] as [PathBuf; 0]);
    assert!(!cgroup::list().unwrap().contains(&fixture.id));
}

#[test]
fn processes_that_outlive_the_first_are_killed() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // Without a PID namespace nobody ends them.
    let spec = without(
        shell("sleep 987654 >/dev/null 2>&1 & exit 0"),
        LinuxNamespaceType::Pid,
    );
    let mut container = fixture.quietly(&spec);
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(0));
    let left = container.cgroup().unwrap().processes().unwrap();
    assert_eq!(left.len(), 1);
    container.release(Teardown::Wait).unwrap();
    until("its end", || {
        !Path::new(&format!("/proc/{}", left[0])).exists() || {
            let status =
                fs::read_to_string(format!("/proc/{}/status", left[0])).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        }
    });
}

#[test]
fn what_a_killed_launcher_left_is_removed_by_its_id() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let path = cgroup::path_of_id(&fixture.id).unwrap();
    let mut child = std::process::Command::new("/bin/busybox")
        .args(["sleep", "60"])
        .spawn()
        .unwrap();
    let made = Cgroup::create(&path, &LinuxResources::default(), Some(child.id())).unwrap();
    assert_eq!(made.processes().unwrap(), [child.id()]);
    // Forgotten, as by a process that has been killed.
    std::mem::forget(made);
    // Reaped at once, as init would do with an orphan: a zombie keeps its cgroup busy.
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    remove_cgroups(&fixture.id).unwrap();
    assert!(!reaper.join().unwrap().success());
    assert_eq!(fixture.cgroups(), [] as [PathBuf; 0]);
    remove_cgroups(&fixture.id).expect("removing again is fine");
    remove_cgroups("never-existed").expect("so is what never was");
}

#[test]
fn an_id_in_use_is_refused_and_an_empty_leftover_is_not() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let first = fixture.quietly(&command(&["sleep", "60"]));
    let other = Fixture::new();
    let error = fixture.run_in(&shell("true"), other.overlay()).unwrap_err();
    assert!(
        matches!(error, Error::Cgroup(cgroup::Error::InUse { .. })),
        "{error}"
    );
    assert!(
        !first.cgroup().unwrap().processes().unwrap().is_empty(),
        "the first is unharmed"
    );
    first.release(Teardown::Wait).unwrap();
    std::mem::forget(
        Cgroup::create(
            &cgroup::path_of_id(&fixture.id).unwrap(),
            &LinuxResources::default(),
            None,
        )
        .unwrap(),
    );
    assert!(!fixture.cgroups().is_empty());
    assert_eq!(fixture.shell("echo ok").ok(), "ok\n");
}

#[test]
fn the_specifications_own_path_is_honoured() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = command(&["sleep", "60"]);
    let path = PathBuf::from(format!("/plimsoll/{}-elsewhere/deep", fixture.id));
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_cgroups_path(Some(path.clone()));
    let container = fixture.quietly(&spec);
    assert_eq!(
        container.cgroup().unwrap().path(),
        path.strip_prefix("/").unwrap()
    );
    let own = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    assert!(own.contains(path.to_str().unwrap()), "{own}");
    container.release(Teardown::Wait).unwrap();
    remove_cgroups(&format!("{}-elsewhere", fixture.id)).unwrap();
}

#[test]
fn a_process_with_one_thread_enters_by_itself() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let cgroup = Cgroup::create(
        &cgroup::path_of_id(&fixture.id).unwrap(),
        &LinuxResources::default(),
        None,
    )
    .unwrap();
    let cgroup = std::sync::Arc::new(cgroup);
    let inside = cgroup.clone();
    let mut command = std::process::Command::new("/bin/busybox");
    command.args(["sleep", "60"]);
    // SAFETY: `enter` allocates a little in the child of a program with threads; glibc keeps its allocator usable
    // after fork.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            inside
                .enter()
                .map_err(|error| std::io::Error::other(error.to_string()))
        });
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    let own = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    assert!(own.contains(&fixture.id), "{own}");
    let hierarchies = cgroup::detect().unwrap();
    if hierarchies.mode() == Mode::Hybrid {
        assert!(
            own.lines()
                .filter(|line| line.contains(&fixture.id))
                .count()
                >= 2,
            "{own}"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
    std::sync::Arc::into_inner(cgroup)
        .unwrap()
        .remove()
        .unwrap();
}

#[test]
fn a_limit_that_cannot_be_meant_is_refused() {
    if skip() || lacks(Controller::Memory) {
        return;
    }
    let fixture = Fixture::new();
    let memory = LinuxMemoryBuilder::default()
        .limit(64 * MIB)
        .swap(32 * MIB)
        .build()
        .unwrap();
    let spec = with_resources(shell("true"), |resources| {
        resources.set_memory(Some(memory));
    });
    let error = fixture.run_in(&spec, fixture.overlay()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("linux.resources.memory.swap: "),
        "{error}"
    );
    assert!(fixture.cgroups().is_empty());
}
