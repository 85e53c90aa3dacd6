//! Root file systems, mounts, devices and restricted paths, as seen from inside.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{Fixture, command, shell, skip, without};
use container_core::Rootfs;
use oci_spec::runtime::{LinuxNamespaceType, Mount, MountBuilder, Spec};

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(PathBuf::from(destination))
        .typ("bind")
        .source(source.to_owned())
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .unwrap()
}

fn with_mount(mut spec: Spec, mount: Mount) -> Spec {
    spec.mounts_mut().as_mut().unwrap().push(mount);
    spec
}

#[test]
fn changes_go_to_the_upper_layer_alone() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    fixture.shell("echo new > /etc/new; rm /etc/passwd").ok();
    assert_eq!(
        fs::read_to_string(fixture.upper.join("etc/new")).unwrap(),
        "new\n"
    );
    assert!(fixture.root().join("etc/passwd").exists());
    assert!(!fixture.root().join("etc/new").exists());
    // A second start finds what the first one left.
    assert_eq!(
        fixture
            .shell("cat /etc/new; test -e /etc/passwd || echo gone")
            .ok(),
        "new\ngone\n"
    );
}

#[test]
fn nothing_is_mounted_on_the_host() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut container = fixture.quietly(&command(&["sleep", "60"]));
    let ours = |path: &str| {
        let mounts = fs::read_to_string(path).unwrap();
        mounts
            .lines()
            .filter(|line| line.contains(fixture.directory.path().to_str().unwrap()))
            .count()
    };
    assert_eq!(ours("/proc/self/mountinfo"), 0, "while it runs");
    assert_eq!(
        ours(&format!("/proc/{}/mountinfo", container.pid())),
        1,
        "the overlay itself"
    );
    container.signal(libc::SIGKILL).unwrap();
    container.wait().unwrap();
    drop(container);
    assert_eq!(ours("/proc/self/mountinfo"), 0);
    fs::remove_dir_all(&fixture.upper).expect("nothing keeps the layer busy");
}

#[test]
fn a_volatile_overlay_works_like_any_other() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let rootfs = Rootfs::Overlay {
        lower: &fixture.lower,
        upper: &fixture.upper,
        work: &fixture.work,
        volatile: true,
    };
    fixture
        .run_in(&shell("echo x > /etc/x"), rootfs)
        .unwrap()
        .ok();
    assert!(fixture.upper.join("etc/x").exists());
}

#[test]
fn a_container_of_127_layers_starts() {
    if skip() {
        return;
    }
    let mut fixture = Fixture::new();
    let base = fixture.lower[0].clone();
    fixture.lower = (0..126)
        .map(|index| {
            let layer = fixture.directory.path().join(format!("{index:0>64}"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(format!("layer{index}")), "").unwrap();
            fs::write(layer.join("top"), index.to_string()).unwrap();
            layer
        })
        .chain([base])
        .collect();
    assert_eq!(
        fixture.shell("ls / | grep -c ^layer; cat /top").ok(),
        "126\n0"
    );
}

#[test]
fn a_directory_is_a_root_too() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture
        .run_in(
            &shell("echo x > /written; ls /"),
            Rootfs::Directory(fixture.root()),
        )
        .unwrap()
        .ok();
    assert!(output.contains("proc\n"));
    assert!(fixture.root().join("written").exists());
}

#[test]
fn a_bundle_names_its_root_itself() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("echo $((6*7))");
    spec.root_mut()
        .as_mut()
        .unwrap()
        .set_path(PathBuf::from("lower"));
    assert_eq!(
        fixture
            .run_in(&spec, Rootfs::Bundle(fixture.directory.path()))
            .unwrap()
            .ok(),
        "42\n"
    );
}

/// The same root and limits without isolation: what `compare` measures against.
#[test]
fn a_chroot_without_a_mount_namespace_works() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("pwd; ls -d /proc/1 2>/dev/null; ls /bin/busybox; echo $$");
    spec.set_mounts(None);
    let linux = spec.linux_mut().as_mut().unwrap();
    linux
        .set_namespaces(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    let output = fixture
        .run_in(&spec, Rootfs::Directory(fixture.root()))
        .unwrap()
        .ok();
    assert!(output.starts_with("/\n/bin/busybox\n"), "{output:?}");
}

#[test]
fn mounts_without_a_mount_namespace_are_refused() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = without(shell("true"), LinuxNamespaceType::Mount);
    let error = fixture
        .run_in(&spec, Rootfs::Directory(fixture.root()))
        .unwrap_err();
    assert!(error.to_string().contains("mount namespace"), "{error}");
}

#[test]
fn every_default_mount_is_there_with_its_options() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mounts = fixture.shell("cat /proc/self/mountinfo").ok();
    let options = |path: &str| {
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(path));
        line.unwrap_or_else(|| panic!("{path} is missing:\n{mounts}"))
            .to_owned()
    };
    for (path, kind, wanted) in [
        ("/", "overlay", "rw"),
        ("/proc", "proc", "nosuid,nodev,noexec"),
        ("/dev", "tmpfs", "nosuid"),
        ("/dev/pts", "devpts", "nosuid,noexec"),
        ("/dev/shm", "tmpfs", "nosuid,nodev,noexec"),
        ("/dev/mqueue", "mqueue", "nosuid,nodev,noexec"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec"),
        ("/proc/sys", "proc", "ro,"),
    ] {
        let line = options(path);
        assert!(line.contains(&format!(" - {kind} ")), "{line}");
        assert!(line.contains(wanted), "{line}");
    }
    let cgroup = options("/sys/fs/cgroup");
    assert!(cgroup.contains(" ro,nosuid,nodev,noexec"), "{cgroup}");
    assert!(
        !mounts.contains("shared:") && !mounts.contains("master:"),
        "everything is private:\n{mounts}"
    );
}

#[test]
fn devices_and_links_are_the_default_ones() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture
        .shell("for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done; for l in fd stdin stdout stderr ptmx core; do readlink /dev/$l; done; echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c")
        .ok();
    // As runc does, where the kernel has it.
    let core = if std::path::Path::new("/proc/kcore").exists() {
        "/proc/kcore\n"
    } else {
        ""
    };
    let expected = "/dev/null character special file 1:3 666\n\
                    /dev/zero character special file 1:5 666\n\
                    /dev/full character special file 1:7 666\n\
                    /dev/random character special file 1:8 666\n\
                    /dev/urandom character special file 1:9 666\n\
                    /dev/tty character special file 5:0 666\n\
                    /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n";
    assert_eq!(output, format!("{expected}{core}4\n4\n"));
}

#[test]
fn masked_paths_show_nothing_and_read_only_paths_do_not_change() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let output = fixture
        .shell(
            "cat /proc/timer_list /proc/keys 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
             echo 1 > /proc/sys/kernel/randomize_va_space || echo denied; \
             echo h > /proc/sysrq-trigger || echo denied; mkdir /sys/x || echo denied; mkdir /sys/firmware/x || echo denied",
        )
        .ok();
    assert_eq!(output, "0\n0\ndenied\ndenied\ndenied\ndenied\n");
}

#[test]
fn masking_works_where_nothing_can_be_done_early() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // A sysctl needs the namespaces first, so that every path waits; sysfs before proc changes the order.
    let mut spec = shell(
        "cat /proc/timer_list | wc -c; cat /proc/sys/kernel/shmmni; echo 1 > /proc/sys/kernel/shmmni || echo denied",
    );
    spec.linux_mut().as_mut().unwrap().set_sysctl(Some(
        [("kernel.shmmni".to_owned(), "777".to_owned())].into(),
    ));
    spec.mounts_mut().as_mut().unwrap().rotate_right(2);
    assert_eq!(fixture.run(&spec).ok(), "0\n777\ndenied\n");
}

#[test]
fn a_read_only_root_stays_as_it_is() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("touch /x || echo denied; touch /dev/shm/x && echo mounted");
    spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
    assert_eq!(fixture.run(&spec).ok(), "denied\nmounted\n");
}

#[test]
fn a_directory_and_a_file_are_bound_where_the_specification_says() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let host = fixture.directory.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "from the host").unwrap();
    let spec = shell(
        "cat /data/file /a/new/place /etc/passwd; echo changed > /data/out; echo x > /etc/passwd || echo denied",
    );
    let spec = with_mount(spec, bind(&host, "/data", &["rbind", "rw"]));
    let spec = with_mount(spec, bind(&host.join("file"), "/a/new/place", &["bind"]));
    let spec = with_mount(
        spec,
        bind(&host.join("file"), "/etc/passwd", &["bind", "ro"]),
    );
    let output = fixture.run(&spec).ok();
    assert_eq!(output, "from the hostfrom the hostfrom the hostdenied\n");
    assert_eq!(fs::read_to_string(host.join("out")).unwrap(), "changed\n");
    assert_eq!(
        fs::read_to_string(host.join("file")).unwrap(),
        "from the host"
    );
}

#[test]
fn read_only_reaches_below_only_when_it_is_recursive() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let host = fixture.directory.path().join("host");
    fs::create_dir_all(host.join("below")).unwrap();
    let tmpfs = MountBuilder::default()
        .destination("/data/below")
        .typ("tmpfs")
        .source("tmpfs")
        .build()
        .unwrap();
    let spec = shell("touch /data/x || echo denied; touch /data/below/x && echo written");
    let spec = with_mount(spec, bind(&host, "/data", &["bind", "ro"]));
    let spec = with_mount(spec, tmpfs);
    assert_eq!(fixture.run(&spec).ok(), "denied\nwritten\n");
    // /sys has mounts below it on every host: recursively bound, all of them must refuse.
    let spec = shell(
        "touch /data/fs/cgroup/x 2>/dev/null || echo denied; mkdir /data/fs/cgroup/x 2>/dev/null || echo denied",
    );
    let spec = with_mount(spec, bind(Path::new("/sys"), "/data", &["rbind", "rro"]));
    assert_eq!(fixture.run(&spec).ok(), "denied\ndenied\n");
}

#[test]
fn a_link_in_the_image_cannot_lead_a_mount_out_of_the_root() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let (host, victim) = (
        fixture.directory.path().join("host"),
        fixture.directory.path().join("victim"),
    );
    for directory in [&host, &victim] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(host.join("file"), "bound").unwrap();
    // Read from inside, both links lead to /victim in the image's own root, which is made there.
    fs::create_dir_all(fixture.root().join("victim")).unwrap();
    symlink("/victim", fixture.root().join("absolute")).unwrap();
    symlink("../../../../../../victim", fixture.root().join("climbing")).unwrap();
    for link in ["/absolute", "/climbing"] {
        let spec = with_mount(
            shell(&format!("cat {link}/file /victim/file")),
            bind(&host, link, &["bind"]),
        );
        assert_eq!(fixture.run(&spec).ok(), "boundbound");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
}

#[test]
fn a_missing_bind_source_is_named() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = with_mount(
        shell("true"),
        bind(Path::new("/no/such/place"), "/data", &["bind"]),
    );
    let error = fixture.run_in(&spec, fixture.overlay()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bind /no/such/place to /data: no such file or directory"
    );
}

#[test]
fn a_failure_is_told_whoever_is_faster() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // Without namespaces and cgroups to make, the launcher has said its word long before the process fails, and the
    // process ends without having read it.
    let mut spec = without(shell("true"), LinuxNamespaceType::Network);
    spec.mounts_mut()
        .as_mut()
        .unwrap()
        .retain(|mount| !mount.destination().starts_with("/sys"));
    for _ in 0..40 {
        spec = with_mount(
            spec,
            MountBuilder::default()
                .destination("/data")
                .typ("tmpfs")
                .build()
                .unwrap(),
        );
    }
    let spec = with_mount(spec, bind(Path::new("/no/such/place"), "/data", &["bind"]));
    // What follows needs the launcher, so that everything before does not wait for it.
    let mut spec = with_mount(
        spec,
        MountBuilder::default()
            .destination("/sys")
            .typ("sysfs")
            .build()
            .unwrap(),
    );
    spec.linux_mut().as_mut().unwrap().set_resources(None);
    for _ in 0..20 {
        let error = fixture.run_in(&spec, fixture.overlay()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bind /no/such/place to /data: no such file or directory"
        );
    }
}

#[test]
fn a_wrong_option_is_named_with_its_mount() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let wrong = MountBuilder::default()
        .destination("/data")
        .typ("tmpfs")
        .options(vec!["sizee=1".to_owned()])
        .build();
    let error = fixture
        .run_in(
            &with_mount(shell("true"), wrong.unwrap()),
            fixture.overlay(),
        )
        .unwrap_err();
    assert_eq!(error.to_string(), "mount /data: invalid argument");
}

#[test]
fn a_missing_working_directory_is_made() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("pwd; stat -c '%u:%g %a' .");
    spec.process_mut()
        .as_mut()
        .unwrap()
        .set_cwd(PathBuf::from("/srv/../srv/app/"));
    assert_eq!(fixture.run(&spec).ok(), "/srv/app\n0:0 755\n");
}

#[test]
fn the_working_directory_cannot_be_a_descriptor_of_the_host() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    for number in 3..12 {
        let mut spec = shell("cat ../../../../etc/hostname; pwd");
        spec.process_mut()
            .as_mut()
            .unwrap()
            .set_cwd(PathBuf::from(format!("/proc/self/fd/{number}")));
        let result = fixture.run_in(&spec, fixture.overlay());
        assert!(result.is_err(), "{number}: {result:?}");
    }
}

#[test]
fn devices_of_the_specification_are_made() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let device = oci_spec::runtime::LinuxDeviceBuilder::default()
        .path("/dev/sub/fuse")
        .typ(oci_spec::runtime::LinuxDeviceType::C)
        .major(10)
        .minor(229)
        .file_mode(0o600_u32)
        .uid(5_u32)
        .gid(6_u32)
        .build()
        .unwrap();
    let mut spec = shell("stat -c '%F %t:%T %a %u:%g' /dev/sub/fuse");
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_devices(Some(vec![device]));
    assert_eq!(
        fixture.run(&spec).ok(),
        "character special file a:e5 600 5:6\n"
    );
}
