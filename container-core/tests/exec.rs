//! Other processes in a running container.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use common::{Fixture, command, pipe, shell, silent, skip, with_resources};
use container_core::cgroup::Cgroup;
use container_core::{
    Container, Error, Exec, ExitStatus, Result, Rootfs, Stdio, Teardown, exec, seccomp,
};
use oci_spec::runtime::{Process, ProcessBuilder, Spec, UserBuilder};

/// A container that waits to be ended, in which things are executed.
struct Running {
    container: Container,
    spec: Spec,
    _fixture: Fixture,
}

/// What an executed process said and how it ended.
struct Said {
    text: String,
    status: ExitStatus,
}

impl Running {
    fn new() -> Self {
        Self::of(shell("while :; do sleep 100; done"))
    }

    fn of(spec: Spec) -> Self {
        let fixture = Fixture::new();
        let container = fixture.start(&spec, fixture.overlay(), silent()).unwrap();
        Self {
            container,
            spec,
            _fixture: fixture,
        }
    }

    /// The container's own process, with another command.
    fn process(&self, args: &[&str]) -> Process {
        let mut process = self.spec.process().clone().unwrap();
        process.set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()));
        process
    }

    fn exec(&self, process: &Process) -> Result<Said> {
        let (mut read, write) = pipe();
        let init = self.container.init().unwrap().unwrap();
        let null = File::open("/dev/null").unwrap();
        let error = write.try_clone().unwrap();
        let mut process = exec(Exec {
            init: &init,
            process,
            seccomp: self.spec.linux().as_ref().unwrap().seccomp().as_ref(),
            cgroup: self.container.cgroup(),
            stdio: Stdio::Descriptors([null.into(), write, error]),
            tied: true,
            preserve_fds: 0,
        })?;
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        Ok(Said {
            text,
            status: process.wait().unwrap(),
        })
    }

    #[track_caller]
    fn shell(&self, script: &str) -> String {
        let said = self.exec(&self.process(&["sh", "-c", script])).unwrap();
        assert_eq!(said.status, ExitStatus::Exited(0), "{}", said.text);
        said.text
    }
}

#[test]
fn it_is_where_the_container_is() {
    if skip() {
        return;
    }
    let mut spec = shell("hostname inside; echo here > /tmp/file; while :; do sleep 100; done");
    spec.set_hostname(Some("inside".to_owned()));
    let running = Running::of(spec);
    let pid = running.container.pid();
    let own = running
        .shell("for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; hostname");
    let mut expected = String::new();
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        expected.push_str(&format!("{}\n", link.display()));
    }
    assert!(own.starts_with(&expected), "{own} is not {expected}");
    assert!(own.contains("inside\n"), "{own}");
    while running.shell("ls /tmp").is_empty() {}
    assert_eq!(running.shell("cat /tmp/file"), "here\n");
}

#[test]
fn it_is_in_the_containers_cgroups() {
    if skip() {
        return;
    }
    let running = Running::of(with_resources(
        shell("while :; do sleep 100; done"),
        |resources| {
            let mut pids = oci_spec::runtime::LinuxPids::default();
            pids.set_limit(7);
            resources.set_pids(Some(pids));
        },
    ));
    // In its own cgroup namespace the container's cgroup is the root.
    let text = running.shell("cut -d: -f2- /proc/self/cgroup; cat /proc/1/cgroup | cut -d: -f2-");
    let lines: Vec<_> = text.lines().collect();
    let (own, inits) = lines.split_at(lines.len() / 2);
    assert_eq!(own, inits);
    let cgroup = Cgroup::open(running.container.cgroup().unwrap().path())
        .unwrap()
        .unwrap();
    assert!(
        cgroup
            .processes()
            .unwrap()
            .contains(&(running.container.pid() as u32))
    );
    assert_eq!(
        running
            .shell("cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"),
        "7\n"
    );
}

#[test]
fn it_has_the_rights_of_its_own_specification() {
    if skip() {
        return;
    }
    let running = Running::new();
    let status =
        "grep -E '^(Uid|Gid|Groups|Cap(Prm|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status";
    let own = running.shell(status);
    let first = running.shell(&status.replace("self", "1"));
    assert_eq!(own, first, "the same as the container's first process");
    let user = UserBuilder::default()
        .uid(1000_u32)
        .gid(1001_u32)
        .additional_gids(vec![7_u32, 8])
        .build()
        .unwrap();
    let mut process = running.process(&["sh", "-c", &format!("{status}; pwd; echo $X")]);
    process
        .set_user(user)
        .set_cwd("/tmp".into())
        .set_no_new_privileges(Some(true))
        .set_env(Some(vec!["X=y".to_owned(), "PATH=/bin".to_owned()]));
    let text = running.exec(&process).unwrap().text;
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1001\t1001\t1001\t1001",
        "Groups:\t7 8",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "/tmp",
        "y",
    ] {
        assert!(
            text.lines().any(|found| found.trim() == line),
            "{line}: {text}"
        );
    }
}

#[test]
fn a_command_that_is_not_there_is_told_from_one_that_cannot_be_run() {
    if skip() {
        return;
    }
    let running = Running::new();
    let error = |args: &[&str]| running.exec(&running.process(args)).err().unwrap();
    assert!(matches!(error(&["absent"]), Error::CommandNotFound { .. }));
    assert!(matches!(error(&["/absent"]), Error::CommandNotFound { .. }));
    assert!(matches!(error(&["/etc"]), Error::NotExecutable { .. }));
    assert!(matches!(
        error(&["/etc/passwd"]),
        Error::NotExecutable { .. }
    ));
    let missing = running.process(&["true"]).set_cwd("/absent".into()).clone();
    let text = running.exec(&missing).err().unwrap().to_string();
    assert!(text.contains("/absent"), "{text}");
}

#[test]
fn an_exit_code_and_a_signal_come_back() {
    if skip() {
        return;
    }
    let running = Running::new();
    let ended = |script: &str| {
        running
            .exec(&running.process(&["sh", "-c", script]))
            .unwrap()
            .status
    };
    assert_eq!(ended("exit 7"), ExitStatus::Exited(7));
    assert_eq!(ended("kill -9 $$"), ExitStatus::Signaled(9));
}

#[test]
fn a_terminal_is_one_of_the_containers() {
    if skip() {
        return;
    }
    let running = Running::new();
    let init = running.container.init().unwrap().unwrap();
    let mut process = exec(Exec {
        init: &init,
        process: &running.process(&["sh", "-c", "tty; stty size; read x; echo got $x"]),
        seccomp: None,
        cgroup: running.container.cgroup(),
        stdio: Stdio::Terminal {
            rows: 11,
            columns: 22,
        },
        tied: true,
        preserve_fds: 0,
    })
    .unwrap();
    let mut master = File::from(process.take_terminal().unwrap());
    master.write_all(b"typed\n").unwrap();
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = master.read(&mut part) {
        text.extend_from_slice(&part[..length]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("/dev/pts/0"), "{text}");
    assert!(
        text.contains("11 22") && text.contains("got typed"),
        "{text}"
    );
    assert_eq!(process.wait().unwrap(), ExitStatus::Exited(0));
}

#[test]
fn nothing_of_the_callers_is_open_in_it_but_what_is_passed_on() {
    if skip() {
        return;
    }
    let running = Running::new();
    let _held: Vec<_> = (0..20)
        .map(|_| File::open("/etc/passwd").unwrap())
        .collect();
    let text = running.shell(
        "for fd in /proc/$$/fd/*; do readlink $fd; done | grep -v -e pipe -e null; echo done",
    );
    assert_eq!(text, "done\n");
}

#[test]
fn it_cannot_be_this_program_itself() {
    if skip() {
        return;
    }
    let running = Running::new();
    let error = running
        .exec(&running.process(&["/proc/self/exe"]))
        .err()
        .unwrap();
    assert!(error.to_string().contains("own program"), "{error}");
}

#[test]
fn a_paused_container_runs_nothing_more() {
    if skip() {
        return;
    }
    let running = Running::new();
    let cgroup = running.container.cgroup().unwrap();
    assert!(!cgroup.frozen().unwrap());
    cgroup.freeze().unwrap();
    assert!(cgroup.frozen().unwrap());
    let error = running.exec(&running.process(&["true"])).err().unwrap();
    assert!(error.to_string().contains("paused"), "{error}");
    cgroup.thaw().unwrap();
    assert_eq!(running.shell("echo on"), "on\n");
}

#[test]
fn a_container_that_has_ended_is_not_taken_for_another() {
    if skip() {
        return;
    }
    let mut running = Running::of(command(&["true"]));
    let init = running.container.init().unwrap();
    running.container.wait().unwrap();
    let Some(init) = init else {
        // It had ended before it could be looked at: that is the answer, too.
        return;
    };
    let process = running.process(&["true"]);
    let failed = exec(Exec {
        init: &init,
        process: &process,
        seccomp: None,
        cgroup: None,
        stdio: silent(),
        tied: true,
        preserve_fds: 0,
    });
    assert!(failed.is_err());
    assert!(
        container_core::Init::open(init.pid(), init.start_time())
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_user_namespace_is_entered_as_its_user() {
    if skip() {
        return;
    }
    let mut spec = shell("while :; do sleep 100; done");
    let linux = spec.linux_mut().as_mut().unwrap();
    let mapping = oci_spec::runtime::LinuxIdMappingBuilder::default()
        .host_id(100_000_u32)
        .container_id(0_u32)
        .size(65_536_u32)
        .build()
        .unwrap();
    linux
        .set_uid_mappings(Some(vec![mapping]))
        .set_gid_mappings(Some(vec![mapping]));
    linux.namespaces_mut().as_mut().unwrap().push(
        oci_spec::runtime::LinuxNamespaceBuilder::default()
            .typ(oci_spec::runtime::LinuxNamespaceType::User)
            .build()
            .unwrap(),
    );
    let fixture = Fixture::new();
    for path in [
        fixture.root(),
        &fixture.upper,
        &fixture.work,
        fixture.directory.path(),
    ] {
        std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
    }
    let container = match fixture.start(&spec, fixture.overlay(), silent()) {
        Ok(container) => container,
        Err(error) => {
            eprintln!("skipped: no container in a user namespace here: {error}");
            return;
        }
    };
    let running = Running {
        container,
        spec,
        _fixture: fixture,
    };
    assert_eq!(
        running.shell("id -u; cat /proc/self/uid_map | tr -s ' '"),
        "0\n 0 100000 65536\n"
    );
}

#[test]
fn what_is_executed_may_outlive_the_one_who_did() {
    if skip() {
        return;
    }
    let running = Running::new();
    let init = running.container.init().unwrap().unwrap();
    let process = running.process(&["sleep", "1000"]);
    let started = |tied: bool| {
        let (init, process, cgroup) = (&init, &process, running.container.cgroup());
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    exec(Exec {
                        init,
                        process,
                        seccomp: None,
                        cgroup,
                        stdio: silent(),
                        tied,
                        preserve_fds: 0,
                    })
                    .unwrap()
                })
                .join()
                .unwrap()
        })
    };
    let mut tied = started(true);
    assert_eq!(tied.wait().unwrap(), ExitStatus::Signaled(libc::SIGKILL));
    let mut free = started(false);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(free.try_wait().unwrap(), None);
    free.signal(libc::SIGKILL).unwrap();
    assert_eq!(free.wait().unwrap(), ExitStatus::Signaled(libc::SIGKILL));
}

#[test]
fn everything_executed_ends_with_the_container() {
    if skip() {
        return;
    }
    let running = Running::new();
    let init = running.container.init().unwrap().unwrap();
    let mut process = exec(Exec {
        init: &init,
        process: &running.process(&["sleep", "1000"]),
        seccomp: Some(&seccomp::docker_default(&Default::default())),
        cgroup: running.container.cgroup(),
        stdio: silent(),
        tied: false,
        preserve_fds: 0,
    })
    .unwrap();
    running.container.signal(libc::SIGKILL).unwrap();
    assert_eq!(process.wait().unwrap(), ExitStatus::Signaled(libc::SIGKILL));
    running.container.release(Teardown::Wait).unwrap();
}

#[test]
fn a_container_without_a_mount_namespace_is_entered_at_its_root() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("while :; do sleep 100; done");
    spec.set_mounts(None);
    let linux = spec.linux_mut().as_mut().unwrap();
    linux
        .set_masked_paths(None)
        .set_readonly_paths(None)
        .set_namespaces(None);
    let root = fixture.root().to_owned();
    let container = fixture
        .start(&spec, Rootfs::Directory(&root), silent())
        .unwrap();
    let running = Running {
        container,
        spec,
        _fixture: fixture,
    };
    assert!(running.shell("ls /").contains("bin"));
    assert!(!running.shell("ls /").contains("boot"));
}

#[test]
fn a_descriptor_can_be_passed_on() {
    if skip() {
        return;
    }
    // Only a program with nothing else open has the numbers free: the child's own table is arranged by a shell.
    let running = Running::new();
    let init = running.container.init().unwrap().unwrap();
    let (mut read, write) = pipe();
    let highest = write.as_raw_fd();
    let process = ProcessBuilder::default()
        .args(vec![
            "sh".to_owned(),
            "-c".to_owned(),
            format!("echo passed >&{highest}"),
        ])
        .env(vec!["PATH=/bin".to_owned()])
        .cwd("/")
        .build()
        .unwrap()
        .set_rlimits(None)
        .clone();
    let mut executed = exec(Exec {
        init: &init,
        process: &process,
        seccomp: None,
        cgroup: None,
        stdio: silent(),
        tied: true,
        preserve_fds: highest as u32 - 2,
    })
    .unwrap();
    drop::<OwnedFd>(write);
    executed.wait().unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "passed\n");
}
