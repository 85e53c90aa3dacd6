//! Which cgroup hierarchies this host has, and where.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{Error, Result};
use crate::sys::Errno;

/// A controller this crate uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processor time.
    Cpu,
    /// What processor time was used (version 1 only).
    Cpuacct,
    /// Which processors and memory nodes.
    Cpuset,
    /// The number of tasks.
    Pids,
    /// Devices. Version 2 has a program in its place, which needs no controller.
    Devices,
    /// Stopping all tasks. Version 2 does it without a controller.
    Freezer,
    /// Block I/O; version 2 calls it `io`.
    Blkio,
    /// Huge pages.
    Hugetlb,
    /// The class of packets (version 1 only).
    NetCls,
    /// The priority of packets (version 1 only).
    NetPrio,
    /// RDMA devices.
    Rdma,
}

impl Controller {
    const ALL: [Self; 12] = [
        Self::Memory,
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Pids,
        Self::Devices,
        Self::Freezer,
        Self::Blkio,
        Self::Hugetlb,
        Self::NetCls,
        Self::NetPrio,
        Self::Rdma,
    ];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Blkio => "blkio",
            Self::Hugetlb => "hugetlb",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
            Self::Rdma => "rdma",
        }
    }

    /// The kernel's name in version 2.
    pub fn name_in_v2(self) -> &'static str {
        match self {
            Self::Blkio => "io",
            other => other.name(),
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|controller| controller.name() == name)
    }
}

/// How a host's cgroups are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Hierarchies of version 1 only.
    V1,
    /// The unified hierarchy only.
    V2,
    /// Both: the unified hierarchy, and controllers on version 1.
    Hybrid,
}

/// A hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The controllers on it that this crate uses.
    pub controllers: Vec<Controller>,
    /// The options it is mounted with: names of controllers.
    pub options: Vec<String>,
}

impl V1 {
    /// Whether a controller is on it.
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }
}

/// The hierarchies of this host.
#[derive(Debug)]
pub struct Hierarchies {
    v1: Vec<V1>,
    v2: Option<PathBuf>,
    /// Controllers that the unified hierarchy has.
    v2_controllers: Vec<Controller>,
}

impl Hierarchies {
    /// How the host is set up.
    pub fn mode(&self) -> Mode {
        match (&self.v2, self.v1.is_empty()) {
            (Some(_), true) => Mode::V2,
            (Some(_), false) => Mode::Hybrid,
            (None, _) => Mode::V1,
        }
    }

    /// The hierarchies of version 1 that hold a controller this crate uses.
    pub fn v1(&self) -> &[V1] {
        &self.v1
    }

    /// Where the unified hierarchy is mounted.
    pub fn v2(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// The hierarchy of version 1 that a controller is on.
    pub(super) fn v1_of(&self, controller: Controller) -> Option<usize> {
        self.v1
            .iter()
            .position(|hierarchy| hierarchy.has(controller))
    }

    /// Whether the unified hierarchy serves a controller, and is the one to serve it. On a hybrid host it may have what
    /// no version 1 hierarchy has.
    pub(super) fn v2_has(&self, controller: Controller) -> bool {
        let built_in = matches!(
            controller,
            Controller::Devices | Controller::Freezer | Controller::Cpuacct
        );
        match self.mode() {
            Mode::V2 => built_in || self.v2_controllers.contains(&controller),
            Mode::Hybrid => {
                self.v1_of(controller).is_none() && self.v2_controllers.contains(&controller)
            }
            Mode::V1 => false,
        }
    }

    /// Whether limits of this kind can be kept on this host.
    pub fn has(&self, controller: Controller) -> bool {
        self.v1_of(controller).is_some() || self.v2_has(controller)
    }
}

/// The hierarchies of this host, looked up once in the life of the process.
pub fn detect() -> Result<&'static Hierarchies> {
    static FOUND: OnceLock<Hierarchies> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let path = Path::new("/proc/self/mountinfo");
    // Each read of it makes all of its text again: with room for it one is enough.
    let mut mounts = String::with_capacity(16 << 10);
    fs::File::open(path)
        .and_then(|mut file| file.read_to_string(&mut mounts))
        .map_err(|error| Error::File {
            doing: "read".to_owned(),
            path: path.to_owned(),
            errno: Errno::from(error),
        })?;
    let mut found = parse(&mounts)?;
    if let Some(v2) = &found.v2 {
        // Absent only on kernels before 4.5, which have no version 2.
        let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        found.v2_controllers = controllers
            .split_whitespace()
            .filter_map(|name| Controller::of(if name == "io" { "blkio" } else { name }))
            .collect();
    }
    Ok(FOUND.get_or_init(|| found))
}

/// Undoes the escapes of mountinfo (proc(5)): blank, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn parse(mountinfo: &str) -> Result<Hierarchies> {
    let mut v1: Vec<V1> = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        if kind != "cgroup" && kind != "cgroup2" {
            continue;
        }
        let Some(mount) = left
            .split(' ')
            .nth(4)
            .map(|mount| PathBuf::from(unescape(mount)))
        else {
            continue;
        };
        if kind == "cgroup2" {
            v2.get_or_insert(mount);
            continue;
        }
        let options: Vec<String> = right
            .nth(1)
            .unwrap_or_default()
            .split(',')
            .filter(|option| !matches!(*option, "rw" | "ro") && !option.contains('='))
            .map(str::to_owned)
            .collect();
        let controllers: Vec<_> = options
            .iter()
            .filter_map(|option| Controller::of(option))
            .collect();
        let seen = v1.iter().any(|known| {
            known
                .controllers
                .iter()
                .any(|controller| controllers.contains(controller))
        });
        if !controllers.is_empty() && !seen {
            let options = options.into_iter().filter(|option| {
                option
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_')
            });
            v1.push(V1 {
                mount,
                controllers,
                options: options.filter(|option| is_controller(option)).collect(),
            });
        }
    }
    if v1.is_empty() && v2.is_none() {
        return Err(Error::NotMounted);
    }
    Ok(Hierarchies {
        v1,
        v2,
        v2_controllers: Vec::new(),
    })
}

/// Whether an option of a hierarchy names a controller, among all that version 1 ever had.
fn is_controller(option: &str) -> bool {
    const OTHERS: [&str; 3] = ["perf_event", "misc", "debug"];
    Controller::of(option).is_some() || OTHERS.contains(&option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_its_controllers_on_version_1() {
        let found = parse(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
        )
        .unwrap();
        assert_eq!(found.mode(), Mode::Hybrid);
        assert_eq!(found.v2(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.v1().len(), 2);
        assert_eq!(found.v1()[0].options, ["cpu", "cpuacct"]);
        assert_eq!(found.v1_of(Controller::Cpuacct), Some(0));
        assert_eq!(found.v1_of(Controller::Memory), Some(1));
        assert_eq!(found.v1_of(Controller::Pids), None);
    }

    #[test]
    fn a_host_with_the_unified_hierarchy_alone_is_version_2() {
        let found =
            parse("29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
                .unwrap();
        assert_eq!(found.mode(), Mode::V2);
        assert!(found.v2_has(Controller::Devices));
        assert!(
            !found.v2_has(Controller::Memory),
            "only what cgroup.controllers lists"
        );
    }

    #[test]
    fn a_mount_point_may_hold_a_blank() {
        let found = parse("29 23 0:26 / /mnt/a\\040b rw - cgroup2 none rw\n").unwrap();
        assert_eq!(found.v2(), Some(Path::new("/mnt/a b")));
    }

    #[test]
    fn a_host_without_cgroups_is_told_how_to_mend_it() {
        let error = parse("22 1 0:20 / /proc rw - proc proc rw\n").unwrap_err();
        assert!(error.to_string().contains("mount -t cgroup2"));
    }
}
