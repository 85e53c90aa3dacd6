//! Who the container's process is, what it may do, and what it is shut off from.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Fixture, command, shell, skip, without};
use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxIOPriorityBuilder, LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPersonalityBuilder, LinuxPersonalityDomain, LinuxSchedulerPolicy, PosixRlimitBuilder,
    PosixRlimitType, Process, Scheduler, Spec, UserBuilder,
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
fn the_first_process_sees_itself_alone() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture
        .shell("echo $$; ls -d /proc/[0-9]* | wc -l; hostname; ls /sys/class/net")
        .ok();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "1");
    assert!(
        lines[1].parse::<u32>().unwrap() <= 3,
        "the shell, ls and wc: {output}"
    );
    assert_eq!(lines[3..], ["lo"]);
}

#[test]
fn every_namespace_is_the_containers_own() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture
        .shell("for n in mnt net uts pid ipc cgroup user; do readlink /proc/self/ns/$n; done")
        .ok();
    let own = |name: &str| {
        fs::read_link(format!("/proc/self/ns/{name}"))
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let lines: Vec<_> = output.lines().collect();
    for (name, line) in ["mnt", "net", "uts", "pid", "ipc", "cgroup"]
        .iter()
        .zip(&lines)
    {
        assert_ne!(own(name), *line);
    }
    assert_eq!(own("user"), lines[6], "the user namespace is the host's");
}

#[test]
fn the_loopback_interface_is_up() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture
        .shell("ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up; ip route | wc -l")
        .ok();
    assert_eq!(output, "up\n0\n");
    assert!(fs::read_dir("/proc/self/ns").is_ok());
}

#[test]
fn host_and_domain_names_are_set_inside_only() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut spec = shell("hostname; cat /proc/sys/kernel/domainname");
    spec.set_hostname(Some("inner".to_owned()))
        .set_domainname(Some("example.org".to_owned()));
    assert_eq!(fixture.run(&spec).ok(), "inner\nexample.org\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        before
    );
    let error = fixture
        .run_in(&without(spec, LinuxNamespaceType::Uts), fixture.overlay())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("hostname: needs a UTS namespace"),
        "{error}"
    );
}

#[test]
fn sysctls_stay_in_their_namespace() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let host = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    let mut spec = shell("cat /proc/sys/net/ipv4/ip_default_ttl");
    let sysctl = |name: &str, value: &str| Some([(name.to_owned(), value.to_owned())].into());
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_sysctl(sysctl("net.ipv4.ip_default_ttl", "77"));
    assert_eq!(fixture.run(&spec).ok(), "77\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(),
        host
    );
    for name in ["vm.swappiness", "kernel.panic", "net..x"] {
        spec.linux_mut()
            .as_mut()
            .unwrap()
            .set_sysctl(sysctl(name, "1"));
        let error = fixture.run_in(&spec, fixture.overlay()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_sysctl(sysctl("net.ipv4.no_such_thing", "1"));
    let error = fixture.run_in(&spec, fixture.overlay()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "set the sysctl net.ipv4.no_such_thing: no such file or directory"
    );
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
fn a_network_namespace_can_be_joined() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut first = fixture.quietly(&command(&["sleep", "60"]));
    let path = format!("/proc/{}/ns/net", first.pid());
    let inode = fs::metadata(&path).unwrap().ino();
    let other = Fixture::new();
    let mut spec = without(
        shell("readlink /proc/self/ns/net; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up"),
        LinuxNamespaceType::Network,
    );
    let join = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::Network)
        .path(path)
        .build()
        .unwrap();
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .namespaces_mut()
        .as_mut()
        .unwrap()
        .push(join);
    assert_eq!(other.run(&spec).ok(), format!("net:[{inode}]\nup\n"));
    first.signal(libc::SIGKILL).unwrap();
    first.wait().unwrap();
}

#[test]
fn a_pid_namespace_can_be_joined() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let first = fixture.quietly(&command(&["sleep", "60"]));
    let other = Fixture::new();
    let mut spec = without(
        shell("cat /proc/1/cmdline | tr '\\0' ' '"),
        LinuxNamespaceType::Pid,
    );
    let join = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::Pid)
        .path(format!("/proc/{}/ns/pid", first.pid()))
        .build()
        .unwrap();
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .namespaces_mut()
        .as_mut()
        .unwrap()
        .push(join);
    assert_eq!(other.run(&spec).ok(), "sleep 60 ");
    // The launcher is back in its own.
    assert_eq!(fixture_free_child_sees_host(), std::process::id());
}

/// A child made now is in the PID namespace of the launcher: it sees the launcher as its parent.
fn fixture_free_child_sees_host() -> u32 {
    let output = std::process::Command::new("/bin/busybox")
        .args(["sh", "-c", "echo $PPID"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn a_user_namespace_maps_root_to_somebody() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // The files of the image belong to the somebody.
    for path in [fixture.root(), &fixture.upper, &fixture.work] {
        std::process::Command::new("chown")
            .args(["-R", "100000:100000"])
            .arg(path)
            .status()
            .unwrap();
    }
    // Everybody may pass through the temporary directory.
    fs::set_permissions(
        fixture.directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mut spec = shell(
        "id -u; cat /proc/self/uid_map; touch /etc/made; stat -c %u /etc/made; echo x > /dev/null && echo null; ping -c 1 -W 2 127.0.0.1 > /dev/null && echo up; mount | grep -c cgroup",
    );
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(100_000_u32)
        .size(65_536_u32)
        .build()
        .unwrap();
    let linux = spec.linux_mut().as_mut().unwrap();
    linux
        .set_uid_mappings(Some(vec![mapping]))
        .set_gid_mappings(Some(vec![mapping]));
    let user = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::User)
        .build()
        .unwrap();
    linux.namespaces_mut().as_mut().unwrap().push(user);
    let output = fixture.run(&spec);
    let stdout = output.ok();
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some("0"));
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    assert_eq!(
        lines.by_ref().take(3).collect::<Vec<_>>(),
        ["0", "null", "up"]
    );
    assert_eq!(
        fs::metadata(fixture.upper.join("etc/made")).unwrap().uid(),
        100_000
    );
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
