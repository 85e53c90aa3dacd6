//! Namespaces: new, joined, and what belongs to them.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Fixture, command, shell, skip, without};
use oci_spec::runtime::{LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType};

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
    assert_eq!(parent_as_a_child_sees_it(), std::process::id());
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

/// A child made now is in the PID namespace of the launcher: it sees the launcher as its parent.
fn parent_as_a_child_sees_it() -> u32 {
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
