//! Docker's defaults as an OCI specification.

use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceCgroupBuilder,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};

use crate::seccomp;

/// The capabilities of a container that asks for none (docker 28, "Runtime privilege and Linux capabilities").
pub const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The PATH of a container whose image sets none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container must not see, as of docker 28.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What a container must not change.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Namespaces of a container of its own; the network is among them.
const NAMESPACES: [LinuxNamespaceType; 6] = [
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Cgroup,
];

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(PathBuf::from(destination))
        .typ(kind)
        .source(PathBuf::from(source))
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("the destination, all that is required, is given")
}

/// Mounts that show a namespace come last: until then, the launcher has it ready.
fn mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        // Group 5 is tty wherever there is one.
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["ro", "nosuid", "noexec", "nodev"],
        ),
    ]
}

/// What `docker run` without options would run: these arguments as root, with docker's namespaces, mounts, masked and
/// read-only paths, capabilities, device rules and seccomp profile.
///
/// There are no resource limits: the container inherits the launcher's. An engine that wants docker's own lowers them
/// with [`crate::grantable_rlimit`] to what the host can grant. `root.path` is `rootfs`, as in a bundle.
pub fn default_spec(args: Vec<String>) -> Spec {
    let capabilities: Capabilities = DEFAULT_CAPABILITIES.into_iter().collect();
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.clone())
        .effective(capabilities.clone())
        .permitted(capabilities.clone())
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .expect("nothing is required");
    let process = ProcessBuilder::default()
        .terminal(false)
        .args(args)
        .env(vec![DEFAULT_PATH.to_owned()])
        .cwd(PathBuf::from("/"))
        .capabilities(sets)
        .no_new_privileges(false)
        .build();
    let mut process = process.expect("the working directory, all that is required, is given");
    // The builder's own sample of a limit on open files is not docker's.
    process.set_rlimits(None);
    let namespaces: Vec<_> = NAMESPACES
        .iter()
        .map(|kind| {
            LinuxNamespaceBuilder::default()
                .typ(*kind)
                .build()
                .expect("the type, all that is required, is given")
        })
        .collect();
    let deny = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm")
        .build()
        .expect("nothing is required");
    let resources = LinuxResourcesBuilder::default()
        .devices(vec![deny])
        .build()
        .expect("nothing is required");
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .resources(resources)
        .masked_paths(MASKED_PATHS.map(str::to_owned))
        .readonly_paths(READONLY_PATHS.map(str::to_owned))
        .seccomp(seccomp::docker_default(&capabilities))
        .build()
        .expect("nothing is required");
    let mut spec = SpecBuilder::default()
        .version("1.2.1")
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(false)
                .build()
                .expect("the path, all that is required, is given"),
        )
        .mounts(mounts())
        .process(process)
        .linux(linux)
        .build()
        .expect("the version, all that is required, is given");
    // Where nothing is said the builder puts samples of its own.
    spec.set_hostname(None);
    spec.set_annotations(None);
    spec
}
