//! Containers that wait for their start, inits, hooks, and what a front needs besides.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Fixture, command, pipe, shell, silent, skip};
use container_core::cgroup::Cgroup;
use container_core::{
    Created, Error, ExitStatus, Init, Result, Stdio, Teardown, create, make_privileged,
    mount_overlay, open_gate, remove_cgroups,
};
use oci_spec::runtime::{Hook, HookBuilder, HooksBuilder, Spec};

/// Creates a container whose output can be read.
fn created(fixture: &Fixture, spec: &Spec) -> Result<(Created, File)> {
    let (read, write) = pipe();
    let null = File::open("/dev/null").unwrap();
    let error = write.try_clone().unwrap();
    let stdio = Stdio::Descriptors([null.into(), write, error]);
    Ok((
        create(fixture.launch(spec, fixture.overlay(), stdio))?,
        read,
    ))
}

fn read(mut from: File) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_created_container_runs_its_command_only_when_it_is_started() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = shell("echo started > /data/mark; echo said");
    let (created, output) = created(&fixture, &spec).unwrap();
    assert!(created.init().unwrap().pid() > 0);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!fixture.upper.join("data/mark").exists());
    assert!(!fixture.cgroups().is_empty());
    let mut container = created.start().unwrap();
    assert_eq!(read(output), "said\n");
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(0));
    container.release(Teardown::Wait).unwrap();
    assert!(fixture.upper.join("data/mark").exists());
    assert!(fixture.cgroups().is_empty());
}

#[test]
fn a_created_container_that_is_dropped_leaves_nothing() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = command(&["true"]);
    let (created, _output) = created(&fixture, &spec).unwrap();
    let init = created.init().unwrap();
    drop(created);
    assert!(init.has_ended().unwrap());
    assert!(fixture.cgroups().is_empty());
}

#[test]
fn a_command_that_is_missing_is_told_at_create() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let error = created(&fixture, &command(&["absent"])).err().unwrap();
    assert!(matches!(error, Error::CommandNotFound { .. }), "{error}");
    let error = created(&fixture, &command(&["/etc/passwd"])).err().unwrap();
    assert!(matches!(error, Error::NotExecutable { .. }), "{error}");
    assert!(fixture.cgroups().is_empty());
}

#[test]
fn a_container_without_a_process_can_be_created_and_not_started() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = command(&["true"]);
    spec.set_process(None);
    let (created, _output) = created(&fixture, &spec).unwrap();
    let error = created.start().err().unwrap();
    assert!(error.to_string().starts_with("process"), "{error}");
}

#[test]
fn a_signal_ends_a_container_that_waits() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = command(&["true"]);
    let (created, _output) = created(&fixture, &spec).unwrap();
    let init = created.init().unwrap();
    assert!(init.signal(libc::SIGTERM).unwrap());
    let started = created.start();
    assert!(started.is_err());
    assert!(init.has_ended().unwrap());
}

#[test]
fn another_process_starts_it_through_its_gate() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let gate = fixture
        .directory
        .path()
        .join("a-long-name/".repeat(12))
        .join("gate");
    fs::create_dir_all(gate.parent().unwrap()).unwrap();
    let spec = shell("echo through");
    let (read_end, write) = pipe();
    let null = File::open("/dev/null").unwrap();
    let error = write.try_clone().unwrap();
    let mut launch = fixture.launch(
        &spec,
        fixture.overlay(),
        Stdio::Descriptors([null.into(), write, error]),
    );
    launch.gate = Some(&gate);
    launch.tied = false;
    // As a program that creates and ends: in a thread, which would end a container that is tied to it.
    let (pid, start_time) = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let created = create(launch).unwrap();
                let init = created.init().unwrap();
                created.leave();
                (init.pid(), init.start_time())
            })
            .join()
            .unwrap()
    });
    let init = Init::open(pid, start_time).unwrap().unwrap();
    open_gate(&gate, "sh", None).unwrap();
    assert_eq!(read(read_end), "through\n");
    while !init.has_ended().unwrap() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(
        open_gate(&gate, "sh", None).is_err(),
        "nobody is there any more"
    );
    assert!(Cgroup::open_by_id(&fixture.id).unwrap().is_some());
    remove_cgroups(&fixture.id).unwrap();
    // The test program is its parent.
    // SAFETY: a null pointer asks for no status.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = shell(
        "trap 'echo got; exit 3' TERM; cat /proc/1/comm; (sleep 0.05 & ) ; sleep 0.3; \
         grep -l zombie /proc/[0-9]*/status; echo ready $$; while :; do sleep 0.05; done",
    );
    let (read_end, write) = pipe();
    let null = File::open("/dev/null").unwrap();
    let error = write.try_clone().unwrap();
    let mut launch = fixture.launch(
        &spec,
        fixture.overlay(),
        Stdio::Descriptors([null.into(), write, error]),
    );
    launch.init = true;
    let mut container = container_core::start(launch).unwrap();
    let mut output = read_end;
    let mut text = String::new();
    let mut part = [0; 256];
    while !text.contains("ready") {
        let length = output.read(&mut part).unwrap();
        assert!(length > 0, "{text}");
        text.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    assert_eq!(text, "plimsoll-init\nready 2\n");
    container.signal(libc::SIGTERM).unwrap();
    assert_eq!(read(output), "got\n");
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(3));
}

#[test]
fn an_init_ends_as_its_command_did() {
    if skip() {
        return;
    }
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137)] {
        let fixture = Fixture::new();
        let spec = shell(script);
        let mut launch = fixture.launch(&spec, fixture.overlay(), silent());
        launch.init = true;
        let mut container = container_core::start(launch).unwrap();
        assert_eq!(container.wait().unwrap().status.code(), code);
    }
    let fixture = Fixture::new();
    let spec = command(&["absent"]);
    let mut launch = fixture.launch(&spec, fixture.overlay(), silent());
    launch.init = true;
    let error = container_core::start(launch).err().unwrap();
    assert!(matches!(error, Error::CommandNotFound { .. }), "{error}");
}

#[test]
fn a_privileged_container_has_what_root_has() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell(
        "grep -E '^(CapEff|Seccomp):' /proc/self/status; test -c /dev/kmsg && echo kmsg; \
         mount -t tmpfs none /data && echo mounted; test -w /proc/sys && echo writable",
    );
    make_privileged(&mut spec).unwrap();
    let text = fixture.run(&spec).ok();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert!(text.contains(own) && text.contains("Seccomp:\t0"), "{text}");
    for word in ["mounted", "writable"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(text.contains("kmsg"), Path::new("/dev/kmsg").exists());
}

#[test]
fn a_stopped_containers_files_are_reached_by_a_mount_that_is_nowhere() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    fixture
        .shell("echo changed > /data/file; rm /etc/passwd")
        .ok();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let root = mount_overlay(&fixture.lower, &fixture.upper, &fixture.work, false).unwrap();
    assert_eq!(mounts(), before);
    let at = |name: &str| format!("/proc/self/fd/{}/{name}", root.as_raw_fd());
    assert_eq!(fs::read_to_string(at("data/file")).unwrap(), "changed\n");
    assert!(fs::metadata(at("etc/passwd")).is_err());
    assert!(fs::metadata(at("bin/busybox")).is_ok());
    fs::write(at("data/copied"), "in").unwrap();
    drop(root);
    assert_eq!(fs::read(fixture.upper.join("data/copied")).unwrap(), b"in");
    let root = mount_overlay(&fixture.lower, &fixture.upper, &fixture.work, true).unwrap();
    let at = |name: &str| format!("/proc/self/fd/{}/{name}", root.as_raw_fd());
    assert!(fs::write(at("data/copied"), "no").is_err());
    assert_eq!(fixture.shell("cat /data/copied").ok(), "in");
}

/// A hook that notes its kind and the status it is told, and what `more` says.
fn hook(log: &Path, kind: &str, more: &str) -> Hook {
    let script = format!(
        "s=$(cat | /bin/busybox tr ',' '\\n' | /bin/busybox grep status); echo {kind} $s $({more}) >> {}",
        log.display()
    );
    HookBuilder::default()
        .path("/bin/busybox")
        .args(vec!["sh".to_owned(), "-c".to_owned(), script])
        .env(vec!["PATH=/bin".to_owned()])
        .build()
        .unwrap()
}

#[test]
fn hooks_run_in_their_order_and_places() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let log = fixture.directory.path().join("log");
    let inside_log = Path::new("/data/log");
    let mut spec = shell("true");
    spec.set_hostname(Some("inside".to_owned()));
    let net = "readlink /proc/self/ns/net";
    let hooks = HooksBuilder::default()
        .prestart(vec![hook(&log, "prestart", net)])
        .create_runtime(vec![hook(&log, "createRuntime", net)])
        .create_container(vec![hook(&log, "createContainer", net)])
        .start_container(vec![hook(inside_log, "startContainer", "hostname")])
        .poststart(vec![hook(&log, "poststart", net)])
        .build()
        .unwrap();
    spec.set_hooks(Some(hooks));
    let (created, _output) = created(&fixture, &spec).unwrap();
    let inner = fs::read_link(format!("/proc/{}/ns/net", created.pid())).unwrap();
    let mut container = created.start().unwrap();
    container.wait().unwrap();
    container.release(Teardown::Wait).unwrap();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let (own, inner) = (own.display(), inner.display());
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        format!(
            "prestart \"status\":\"creating\" {own}\ncreateRuntime \"status\":\"creating\" {own}\n\
             createContainer \"status\":\"creating\" {inner}\npoststart \"status\":\"running\" {own}\n"
        )
    );
    assert_eq!(
        fs::read_to_string(fixture.upper.join("data/log")).unwrap(),
        "startContainer \"status\":\"created\" inside\n"
    );
}

#[test]
fn a_hook_that_fails_or_takes_too_long_undoes_the_start() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let failing = |script: &str| {
        let mut hook = hook(Path::new("/dev/null"), "x", "true");
        hook.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
        hook.set_timeout(Some(1));
        hook
    };
    for (script, expected) in [
        ("echo because >&2; exit 3", "because"),
        ("sleep 100", "within 1 s"),
    ] {
        let mut spec = command(&["true"]);
        let hooks = HooksBuilder::default()
            .create_runtime(vec![failing(script)])
            .build()
            .unwrap();
        spec.set_hooks(Some(hooks));
        let error = created(&fixture, &spec).err().unwrap().to_string();
        assert!(
            error.starts_with("hooks.createRuntime[0]: /bin/busybox"),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
        assert!(fixture.cgroups().is_empty());
    }
    let mut spec = command(&["true"]);
    let hooks = HooksBuilder::default()
        .start_container(vec![failing("exit 4")])
        .build()
        .unwrap();
    spec.set_hooks(Some(hooks));
    let (created, _output) = created(&fixture, &spec).unwrap();
    let error = created.start().err().unwrap().to_string();
    assert!(
        error.contains("startContainer") && error.contains("4"),
        "{error}"
    );
    assert!(fixture.cgroups().is_empty());
}

#[test]
fn a_bound_file_lands_below_the_root_whatever_the_images_links_say() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let root = fixture.root();
    let host = fixture.directory.path().join("host-file");
    fs::write(&host, "from the host").unwrap();
    // Links that lead out of the root, to nowhere, and through others.
    let outside = fixture.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("etc/absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../data", root.join("etc/climbs")).unwrap();
    std::os::unix::fs::symlink("/var/run", root.join("etc/nowhere")).unwrap();
    std::os::unix::fs::symlink("/data/final", root.join("etc/link-to-file")).unwrap();
    let targets = [
        "/new/deep/file",
        "/etc/passwd",
        "/etc/absolute/file",
        "/etc/climbs/file",
        "/etc/nowhere/sub/file",
        "/etc/link-to-file",
    ];
    let script: Vec<_> = targets
        .iter()
        .map(|target| format!("cat {target} && echo"))
        .collect();
    let mut spec = shell(&script.join("; "));
    for target in targets {
        let mount = oci_spec::runtime::MountBuilder::default()
            .destination(target)
            .typ("bind")
            .source(&host)
            .options(vec!["bind".to_owned(), "ro".to_owned()])
            .build()
            .unwrap();
        spec.mounts_mut().as_mut().unwrap().push(mount);
    }
    let text = fixture.run(&spec).ok();
    assert_eq!(text, "from the host\n".repeat(targets.len()));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(fixture.upper.join("data/file").exists());
    assert!(fixture.upper.join("var/run/sub/file").exists());
    let mode = fs::metadata(fixture.upper.join("var/run"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o755);
}

#[test]
fn a_tmpfs_has_its_options() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec =
        shell("stat -c %a /scratch; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2");
    let mount = oci_spec::runtime::MountBuilder::default()
        .destination("/scratch")
        .typ("tmpfs")
        .source("tmpfs")
        .options(vec![
            "size=64k".to_owned(),
            "mode=1770".to_owned(),
            "nosuid".to_owned(),
        ])
        .build()
        .unwrap();
    spec.mounts_mut().as_mut().unwrap().push(mount);
    assert_eq!(fixture.run(&spec).ok(), "1770\n64\n");
}
