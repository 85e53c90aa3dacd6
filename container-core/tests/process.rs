//! Who the container's process is, what it may do, and what it is shut off from.

mod common;

use std::fs;

use common::{Fixture, command, shell, skip};
use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxIOPriorityBuilder, LinuxPersonalityBuilder, LinuxPersonalityDomain, LinuxSchedulerPolicy,
    PosixRlimitBuilder, PosixRlimitType, Process, Scheduler, Spec, UserBuilder,
};

fn with_process(mut spec: Spec, change: impl FnOnce(&mut Process)) -> Spec {
    change(spec.process_mut().as_mut().unwrap());
    spec
}

fn sets(all: &[Capability], inheritable: &[Capability]) -> LinuxCapabilities {
    let set = |list: &[Capability]| list.iter().copied().collect::<Capabilities>();
    LinuxCapabilitiesBuilder::default()
        .bounding(set(all))
        .effective(set(all))
        .permitted(set(all))
        .inheritable(set(inheritable))
        .ambient(set(inheritable))
        .build()
        .unwrap()
}

/// The sets of capabilities in /proc/self/status, by their names there.
fn capability(status: &str, name: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("{status}"));
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn user_groups_and_mask_are_those_of_the_specification() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let user = UserBuilder::default()
        .uid(1000_u32)
        .gid(1001_u32)
        .umask(0o077_u32)
        .additional_gids(vec![7, 8]);
    let spec = with_process(
        shell("id -u; id -g; id -G; umask; cat /proc/self/status | grep CapEff"),
        |process| {
            process.set_user(user.build().unwrap());
        },
    );
    assert_eq!(
        fixture.run(&spec).ok(),
        "1000\n1001\n1001 7 8\n0077\nCapEff:\t0000000000000000\n"
    );
}

#[test]
fn a_user_without_a_word_about_capabilities_has_none_and_still_gets_the_filter() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = with_process(command(&["cat", "/proc/self/status"]), |process| {
        process.set_user(
            UserBuilder::default()
                .uid(1000_u32)
                .gid(1000_u32)
                .build()
                .unwrap(),
        );
        process.set_capabilities(None);
    });
    let status = fixture.run(&spec).ok();
    assert_eq!(
        (capability(&status, "CapPrm"), capability(&status, "CapEff")),
        (0, 0)
    );
    assert!(status.contains("Seccomp:\t2"), "{status}");
}

#[test]
fn a_user_can_open_its_standard_output_again() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let user = UserBuilder::default()
        .uid(1000_u32)
        .gid(1000_u32)
        .build()
        .unwrap();
    let spec = with_process(shell("echo again > /dev/stdout"), |process| {
        process.set_user(user);
    });
    assert_eq!(fixture.run(&spec).ok(), "again\n");
}

#[test]
fn capabilities_are_dockers_and_no_more() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let status = fixture.run(&command(&["cat", "/proc/self/status"])).ok();
    // 14 capabilities of docker's documentation.
    const DOCKER: u64 = 0xa804_25fb;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(capability(&status, set), DOCKER, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(capability(&status, set), 0, "{set}");
    }
    assert!(
        status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t0"),
        "{status}"
    );
}

#[test]
fn capabilities_can_be_dropped_altogether() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = with_process(
        shell("cat /proc/self/status; chown 1:1 /tmp || echo denied"),
        |process| {
            process.set_capabilities(Some(sets(&[], &[])));
        },
    );
    let output = fixture.run(&spec).ok();
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(capability(&output, set), 0, "{set}");
    }
    assert!(output.ends_with("denied\n"));
}

#[test]
fn ambient_capabilities_survive_a_change_of_user() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = with_process(command(&["cat", "/proc/self/status"]), |process| {
        process.set_capabilities(Some(sets(
            &[Capability::NetBindService],
            &[Capability::NetBindService],
        )));
        process.set_user(
            UserBuilder::default()
                .uid(1000_u32)
                .gid(1000_u32)
                .build()
                .unwrap(),
        );
    });
    let status = fixture.run(&spec).ok();
    for set in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(capability(&status, set), 1 << 10, "{set}");
    }
}

#[test]
fn asking_for_every_capability_grants_what_the_host_has() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let own = capability(&fs::read_to_string("/proc/self/status").unwrap(), "CapPrm");
    use Capability::*;
    let all = [
        Chown,
        DacOverride,
        DacReadSearch,
        Fowner,
        Fsetid,
        Kill,
        Setgid,
        Setuid,
        Setpcap,
        LinuxImmutable,
        NetBindService,
        NetBroadcast,
        NetAdmin,
        NetRaw,
        IpcLock,
        IpcOwner,
        SysModule,
        SysRawio,
        SysChroot,
        SysPtrace,
        SysPacct,
        SysAdmin,
        SysBoot,
        SysNice,
        SysResource,
        SysTime,
        SysTtyConfig,
        Mknod,
        Lease,
        AuditWrite,
        AuditControl,
        Setfcap,
        MacOverride,
        MacAdmin,
        Syslog,
        WakeAlarm,
        BlockSuspend,
        AuditRead,
        Perfmon,
        Bpf,
        CheckpointRestore,
    ];
    let mut spec = with_process(command(&["cat", "/proc/self/status"]), |process| {
        process.set_capabilities(Some(sets(&all, &[])));
    });
    spec.linux_mut().as_mut().unwrap().set_seccomp(None);
    let status = fixture.run(&spec).ok();
    assert_eq!(capability(&status, "CapEff"), own);
    assert!(status.contains("Seccomp:\t0"), "{status}");
}

#[test]
fn no_new_privileges_is_set_when_asked_for() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = with_process(shell("grep NoNewPrivs /proc/self/status"), |process| {
        process.set_no_new_privileges(Some(true));
        process.set_user(
            UserBuilder::default()
                .uid(1000_u32)
                .gid(1000_u32)
                .build()
                .unwrap(),
        );
    });
    assert_eq!(fixture.run(&spec).ok(), "NoNewPrivs:\t1\n");
}

#[test]
fn the_filter_denies_what_dockers_denies() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let script = "unshare -n true 2>/dev/null || echo denied";
    let mut spec = with_process(shell(script), |process| {
        process.set_capabilities(Some(sets(&[Capability::SysAdmin], &[])));
    });
    assert_eq!(
        fixture.run(&spec).ok(),
        "denied\n",
        "the profile is for a container without CAP_SYS_ADMIN"
    );
    spec.linux_mut().as_mut().unwrap().set_seccomp(None);
    assert_eq!(fixture.run(&spec).ok(), "", "seccomp=unconfined");
}

#[test]
fn limits_are_set_and_shown() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let limit = |kind, soft: u64, hard: u64| {
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard)
            .build()
            .unwrap()
    };
    let spec = with_process(shell("ulimit -Sn; ulimit -Hn; ulimit -Sc"), |process| {
        process.set_rlimits(Some(vec![
            limit(PosixRlimitType::RlimitNofile, 100, 200),
            limit(PosixRlimitType::RlimitCore, 0, 0),
        ]));
    });
    assert_eq!(fixture.run(&spec).ok(), "100\n200\n0\n");
}

#[test]
fn scheduling_priority_and_score_are_set() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut scheduler = Scheduler::default();
    scheduler
        .set_policy(LinuxSchedulerPolicy::SchedBatch)
        .set_nice(Some(5));
    let io = LinuxIOPriorityBuilder::default()
        .class(IOPriorityClass::IoprioClassIdle)
        .priority(0)
        .build()
        .unwrap();
    let mut spec = with_process(
        shell(
            "cat /proc/self/oom_score_adj; cut -d' ' -f19,41 /proc/self/stat; ionice -p $$; uname -m",
        ),
        |process| {
            process.set_oom_score_adj(Some(500));
            process
                .set_scheduler(Some(scheduler))
                .set_io_priority(Some(io));
        },
    );
    let personality = LinuxPersonalityBuilder::default()
        .domain(LinuxPersonalityDomain::PerLinux32)
        .build()
        .unwrap();
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_personality(Some(personality));
    let output = fixture.run(&spec).ok();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!((lines[0], lines[1]), ("500", "5 3"), "{output}");
    assert!(lines[2].starts_with("idle"), "{output}");
    assert_ne!(lines[3], "x86_64", "{output}");
    assert_eq!(
        fs::read_to_string("/proc/self/oom_score_adj")
            .unwrap()
            .trim(),
        "0",
        "ours is untouched"
    );
}

#[test]
fn no_descriptor_of_the_host_is_left_open() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // One that is not close-on-exec, as a careless library leaves it.
    let careless = fs::File::open("/etc").unwrap();
    // SAFETY: changes the flags of a descriptor that is ours.
    unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&careless), libc::F_SETFD, 0) };
    let output = fixture.shell("ls /proc/self/fd").ok();
    assert_eq!(
        output, "0\n1\n2\n3\n",
        "the three streams, and what ls reads"
    );
}

#[test]
fn the_launchers_signals_and_mask_do_not_reach_inside() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // Rust's runtime ignores SIGPIPE in every program.
    let status = fixture.run(&command(&["cat", "/proc/self/status"])).ok();
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(capability(&status, set), 0, "{set}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("true");
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_intel_rdt(Some(Default::default()));
    let error = fixture.run_in(&spec, fixture.overlay()).unwrap_err();
    assert!(error.to_string().starts_with("linux.intelRdt: "), "{error}");
    let spec = with_process(shell("true"), |process| {
        process.set_apparmor_profile(Some("docker-default".to_owned()));
    });
    let error = fixture.run_in(&spec, fixture.overlay()).unwrap_err();
    assert!(
        error.to_string().starts_with("process.apparmorProfile: "),
        "{error}"
    );
    let spec = with_process(shell("true"), |process| {
        process.set_args(Some(Vec::new()));
    });
    assert!(
        fixture
            .run_in(&spec, fixture.overlay())
            .unwrap_err()
            .to_string()
            .starts_with("process.args: ")
    );
}
