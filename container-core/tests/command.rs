//! The command: how it is found, and how its end comes back.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Fixture, command, shell, silent, skip, without};
use container_core::{Error, ExitStatus, Stdio};
use oci_spec::runtime::LinuxNamespaceType;

#[test]
fn the_exit_code_comes_back_exactly() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    for code in [0, 1, 7, 255] {
        assert_eq!(fixture.shell(&format!("exit {code}")).code(), code);
    }
}

#[test]
fn the_killing_signal_comes_back_exactly() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // The first process of a PID namespace ignores what it does not handle: here it is an ordinary one.
    for signal in [libc::SIGTERM, libc::SIGSEGV, libc::SIGUSR1, libc::SIGKILL] {
        let spec = without(
            shell(&format!("kill -{signal} $$; sleep 10")),
            LinuxNamespaceType::Pid,
        );
        let exit = fixture.run(&spec).exit;
        assert_eq!(exit.status, ExitStatus::Signaled(signal));
        assert_eq!(exit.status.code(), 128 + signal);
        assert!(!exit.oom_killed);
    }
}

#[test]
fn a_signal_reaches_the_command() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let (mut ready, end) = common::pipe();
    let null = || fs::File::open("/dev/null").unwrap().into();
    let spec = shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    let mut container = fixture
        .start(
            &spec,
            fixture.overlay(),
            Stdio::Descriptors([null(), end, null()]),
        )
        .unwrap();
    std::io::Read::read_exact(&mut ready, &mut [0; 6]).unwrap();
    assert_eq!(container.try_wait().unwrap(), None);
    container.signal(libc::SIGTERM).unwrap();
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(3));
    assert_eq!(
        container.wait().unwrap().status,
        ExitStatus::Exited(3),
        "waiting again tells the same"
    );
    container.signal(libc::SIGTERM).unwrap();
}

#[test]
fn a_killed_container_reports_sigkill() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut container = fixture.quietly(&command(&["sleep", "60"]));
    container.signal(libc::SIGKILL).unwrap();
    assert_eq!(
        container.wait().unwrap().status,
        ExitStatus::Signaled(libc::SIGKILL)
    );
}

#[test]
fn a_command_that_is_not_there_is_not_found() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    for (args, message) in [
        ("nope", "exec nope: executable file not found in $PATH"),
        ("/nope", "exec /nope: no such file or directory"),
        ("/etc/passwd/x", "exec /etc/passwd/x: not a directory"),
    ] {
        let error = fixture
            .run_in(&command(&[args]), fixture.overlay())
            .unwrap_err();
        assert!(matches!(error, Error::CommandNotFound { .. }), "{error:?}");
        assert_eq!(error.to_string(), message);
        assert!(
            fixture.cgroups().is_empty(),
            "a failed start leaves no cgroup"
        );
    }
}

#[test]
fn a_command_without_the_right_to_run_is_not_executable() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let bin = fixture.root().join("bin");
    fs::write(bin.join("plain"), "text").unwrap();
    fs::write(bin.join("junk"), [1, 2, 3]).unwrap();
    fs::set_permissions(bin.join("junk"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(bin.join("directory")).unwrap();
    for (args, message) in [
        ("plain", "exec plain: permission denied"),
        ("/bin/plain", "exec /bin/plain: permission denied"),
        ("/bin/junk", "exec /bin/junk: exec format error"),
        ("/bin/directory", "exec /bin/directory: is a directory"),
    ] {
        let error = fixture
            .run_in(&command(&[args]), fixture.overlay())
            .unwrap_err();
        assert!(matches!(error, Error::NotExecutable { .. }), "{error:?}");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn the_search_goes_on_past_a_file_that_cannot_be_run() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let first = fixture.root().join("usr/bin");
    fs::create_dir_all(&first).unwrap();
    fs::write(first.join("true"), "text").unwrap();
    assert_eq!(fixture.run(&command(&["true"])).code(), 0);
}

#[test]
fn a_missing_interpreter_is_told_from_a_missing_file() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let script = fixture.root().join("bin/lost-script");
    fs::write(&script, "#!/no/such/shell\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let error = fixture
        .run_in(&command(&["lost-script"]), fixture.overlay())
        .unwrap_err();
    assert!(matches!(error, Error::CommandNotFound { .. }));
    assert!(error.to_string().contains("interpreter"), "{error}");
}

#[test]
fn the_runtimes_own_program_cannot_be_executed_from_inside() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let bin = fixture.root().join("bin");
    symlink("/proc/self/exe", bin.join("self-link")).unwrap();
    fs::write(bin.join("own-script"), "#!/proc/self/exe\n").unwrap();
    fs::write(bin.join("own-nested"), "#!/bin/own-script\n").unwrap();
    for script in ["own-script", "own-nested"] {
        fs::set_permissions(bin.join(script), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for args in [
        "/proc/self/exe",
        "self-link",
        "own-script",
        "/bin/own-nested",
        "/proc/1/exe",
    ] {
        let error = fixture
            .run_in(&command(&[args]), fixture.overlay())
            .unwrap_err();
        assert!(
            matches!(error, Error::NotExecutable { .. }),
            "{args}: {error:?}"
        );
        assert!(error.to_string().contains("own program"), "{args}: {error}");
    }
}

#[test]
fn arguments_and_environment_arrive_as_they_are() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = command(&[
        "sh",
        "-c",
        "printf '%s|' \"$@\"; env",
        "sh",
        "",
        "a b",
        "ä\n",
    ]);
    spec.process_mut()
        .as_mut()
        .unwrap()
        .set_env(Some(vec!["A=1 2".into(), "PATH=/bin".into()]));
    let output = fixture.run(&spec).ok();
    assert!(output.starts_with("|a b|ä\n|"), "{output:?}");
    assert!(
        output.contains("\nA=1 2\n") || output.contains("|A=1 2\n"),
        "{output:?}"
    );
    assert!(
        !output.contains("CARGO"),
        "nothing of the launcher's environment"
    );
}

#[test]
fn stages_are_in_order_and_complete() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let container = fixture
        .start(&command(&["true"]), fixture.overlay(), silent())
        .unwrap();
    let stages = container.stages();
    assert!(stages.is_sorted_by_key(|stage| stage.at));
    let mut names: Vec<_> = stages.iter().map(|stage| stage.name).collect();
    assert_eq!(names.last(), Some(&"exec"));
    names.sort_unstable();
    assert_eq!(names, ["cgroup", "clone", "exec", "network", "rootfs"]);
}
