//! Control groups: what a container or a VMM may use, and what it has used.
//!
//! A host has the unified hierarchy (version 2), one hierarchy for each controller (version 1), or both (hybrid, where
//! the controllers that matter sit on version 1). The folders `v1` and `v2` are twins with one file for each controller;
//! everything above them is the same for all hosts. Ours are at `/plimsoll/<id>` in each hierarchy. A cgroup is made
//! only where it is needed: each version 1 hierarchy costs about 0.15 ms of a start and its end.

pub mod devices;
mod directory;
mod error;
mod hierarchy;
mod names;
mod needs;
mod remove;
mod stats;
mod v1;
mod v2;
mod view;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use self::devices::Rule;
use self::directory::Directory;
pub use self::error::{Error, Result};
pub use self::hierarchy::{Controller, Hierarchies, Mode, detect};
pub use self::names::{list, path_of_id, path_of_spec, remove_by_id, remove_parent};
use self::needs::needed;
pub use self::stats::Stats;
pub(crate) use self::view::{View, ViewEntry};

/// The cgroup that holds all of ours, at the top of each hierarchy.
pub const PARENT: &str = "plimsoll";

/// A cgroup of ours: the same path in every hierarchy that it needs.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    hierarchies: &'static Hierarchies,
    /// Indices into the hierarchies of version 1.
    v1: Vec<usize>,
    v2: bool,
    resources: LinuxResources,
    devices: Vec<Rule>,
    /// Directories made so far.
    made: Vec<Directory>,
}

impl Cgroup {
    /// Works out which hierarchies a cgroup needs, and refuses limits that cannot be kept. Makes nothing yet.
    pub(crate) fn plan(path: &Path, resources: &LinuxResources) -> Result<Self> {
        let hierarchies = detect()?;
        let devices = devices::rules(resources)?;
        let needed = needed(resources, &devices)?;
        let mut v1 = Vec::new();
        for need in &needed {
            match hierarchies.v1_of(need.controller) {
                Some(index) if v1.contains(&index) => {}
                Some(index) => v1.push(index),
                None if hierarchies.v2_has(need.controller) => {}
                None => {
                    if let Some(field) = need.field {
                        let controller = need.controller.name();
                        return Err(Error::NoController { field, controller });
                    }
                }
            }
        }
        let v2 = hierarchies.v2().is_some();
        if !v2 {
            // Version 2 tells what a cgroup has used and kills or freezes it without a controller; without version 2
            // these two do.
            for controller in [Controller::Freezer, Controller::Cpuacct] {
                match hierarchies.v1_of(controller) {
                    Some(index) if !v1.contains(&index) => v1.push(index),
                    _ => {}
                }
            }
        }
        if resources
            .unified()
            .as_ref()
            .is_some_and(|unified| !unified.is_empty())
            && hierarchies.mode() != Mode::V2
        {
            return Err(Error::Unsupported {
                field: "linux.resources.unified".to_owned(),
                reason: "needs a host with cgroup version 2 alone",
            });
        }
        Ok(Self {
            path: path.to_owned(),
            hierarchies,
            v1,
            v2,
            resources: resources.clone(),
            devices,
            made: Vec::new(),
        })
    }

    /// Makes a cgroup with these limits, and puts a process into it.
    pub fn create(path: &Path, resources: &LinuxResources, pid: Option<u32>) -> Result<Self> {
        let mut this = Self::plan(path, resources)?;
        let made = this
            .make_unified()
            .and_then(|_| this.make_v1())
            .and_then(|()| match pid {
                Some(pid) => this.add(pid),
                None => Ok(()),
            });
        match made {
            Ok(()) => Ok(this),
            Err(error) => {
                // The first error is the one to tell; the leftovers can be found by their path.
                let _ = this.remove();
                Err(error)
            }
        }
    }

    /// The cgroup at a path, in whichever hierarchies it exists; `None` when in none.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let hierarchies = detect()?;
        let mut this = Self {
            path: path.to_owned(),
            hierarchies,
            v1: Vec::new(),
            v2: false,
            resources: LinuxResources::default(),
            devices: Vec::new(),
            made: Vec::new(),
        };
        if let Some(v2) = hierarchies.v2()
            && let Some(directory) = Directory::open(v2.join(path))?
        {
            this.v2 = true;
            this.made.push(directory);
        }
        for (index, hierarchy) in hierarchies.v1().iter().enumerate() {
            if let Some(directory) = Directory::open(hierarchy.mount.join(path))? {
                this.v1.push(index);
                this.made.push(directory);
            }
        }
        Ok(if this.made.is_empty() {
            None
        } else {
            Some(this)
        })
    }

    /// The cgroup of an instance, in whichever hierarchies it exists; `None` when in none.
    pub fn open_by_id(id: &str) -> Result<Option<Self>> {
        Self::open(&path_of_id(id)?)
    }

    /// The directory in the unified hierarchy of the cgroup that a process is in.
    pub(crate) fn unified_of(pid: i32) -> Result<Option<OwnedFd>> {
        let Some(top) = detect()?.v2() else {
            return Ok(None);
        };
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = std::fs::read_to_string(&path).map_err(|error| Error::File {
            doing: "read".to_owned(),
            path,
            errno: error.into(),
        })?;
        let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
            return Ok(None);
        };
        match Directory::open(top.join(path))? {
            Some(directory) => Ok(Some(directory.duplicate()?)),
            None => Ok(None),
        }
    }

    /// Its path below the top of each hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the part in the unified hierarchy: a descriptor to start a process in, when there is such a part.
    pub(crate) fn make_unified(&mut self) -> Result<Option<OwnedFd>> {
        let Some(root) = self.hierarchies.v2().filter(|_| self.v2) else {
            return Ok(None);
        };
        let directory = v2::make(root, &self.path, self.hierarchies, &self.resources)?;
        let start_in = directory.duplicate()?;
        // Kept before the limits are set, so that a failure finds it to remove.
        self.made.push(directory);
        if let Some(directory) = self.made.last() {
            v2::apply(directory, self.hierarchies, &self.resources)?;
            if self.hierarchies.mode() == Mode::V2 {
                v2::devices::apply(directory, &self.devices)?;
            }
        }
        Ok(Some(start_in))
    }

    /// Makes the parts in the hierarchies of version 1. The process enters them by itself (see [`Cgroup::entrances`]) or
    /// is put there.
    pub(crate) fn make_controllers(&mut self, put: Option<u32>) -> Result<()> {
        let before = self.made.len();
        self.make_v1()?;
        match put {
            Some(pid) => self
                .made
                .iter()
                .skip(before)
                .try_for_each(|directory| directory.add(pid)),
            None => Ok(()),
        }
    }

    /// The files of version 1 into which a process with one thread writes "0" to enter.
    ///
    /// Putting *another* process into a cgroup makes the kernel wait for an RCU grace period, when the last time was some
    /// milliseconds ago (`cgroup_threadgroup_rwsem`, a percpu lock): 5 to 14 ms here for the first, and as much as
    /// everything else in a start together. A thread that moves itself alone needs no such lock (since Linux 5.5) and
    /// takes 0.07 ms. Version 2 has CLONE_INTO_CGROUP for it.
    pub(crate) fn entrances(&self) -> Vec<CString> {
        self.v1
            .iter()
            .filter_map(|index| self.hierarchies.v1().get(*index))
            .filter_map(|hierarchy| {
                let file = hierarchy.mount.join(&self.path).join("tasks");
                CString::new(file.into_os_string().into_encoded_bytes()).ok()
            })
            .collect()
    }

    /// The `tasks` files of version 1, open for writing: who has one thread and writes "0" into each enters by itself.
    pub fn tasks_files(&self) -> Result<Vec<File>> {
        self.v1_directories()
            .map(|(directory, _)| directory.open_for_writing("tasks"))
            .collect()
    }

    fn make_v1(&mut self) -> Result<()> {
        for index in self.v1.clone() {
            let Some(hierarchy) = self.hierarchies.v1().get(index) else {
                continue;
            };
            self.made.push(v1::make(hierarchy, &self.path)?);
            if let Some(directory) = self.made.last() {
                v1::apply(hierarchy, directory, &self.resources, &self.devices)?;
            }
        }
        Ok(())
    }

    /// Moves the calling process into the cgroup, in every hierarchy. It must have one thread only, as after a fork: in
    /// version 1 it is the thread that moves. Much faster there than [`Cgroup::add`].
    pub fn enter(&self) -> Result<()> {
        for directory in &self.made {
            let file = if self.is_v1(directory) {
                "tasks"
            } else {
                "cgroup.procs"
            };
            directory.write(file, "0")?;
        }
        Ok(())
    }

    /// Its directory in the unified hierarchy, for `CLONE_INTO_CGROUP`.
    pub fn unified_directory(&self) -> Option<BorrowedFd<'_>> {
        self.unified().map(|directory| directory.fd().as_fd())
    }

    /// Puts a process into the cgroup, in every hierarchy. May take an RCU grace period (5 to 14 ms).
    pub fn add(&self, pid: u32) -> Result<()> {
        self.made
            .iter()
            .try_for_each(|directory| directory.add(pid))
    }

    /// Changes limits; those that are not given stay as they are. Devices cannot be changed.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        for need in needed(resources, &[])? {
            if let (Some(field), None) = (need.field, self.directory_of(need.controller)) {
                return Err(Error::NoController {
                    field,
                    controller: need.controller.name(),
                });
            }
        }
        for (directory, hierarchy) in self.v1_directories() {
            v1::apply(hierarchy, directory, resources, &[])?;
        }
        match self.unified() {
            Some(directory) => v2::apply(directory, self.hierarchies, resources),
            None => Ok(()),
        }
    }

    /// The directory in the unified hierarchy.
    fn unified(&self) -> Option<&Directory> {
        let root = self.hierarchies.v2()?;
        self.made.iter().find(|directory| {
            directory.path().starts_with(root) && self.v2 && !self.is_v1(directory)
        })
    }

    fn is_v1(&self, directory: &Directory) -> bool {
        self.v1_directories()
            .any(|(known, _)| known.path() == directory.path())
    }

    fn v1_directories(&self) -> impl Iterator<Item = (&Directory, &hierarchy::V1)> {
        self.v1.iter().filter_map(|index| {
            let hierarchy = self.hierarchies.v1().get(*index)?;
            let path = hierarchy.mount.join(&self.path);
            Some((
                self.made
                    .iter()
                    .find(|directory| directory.path() == path)?,
                hierarchy,
            ))
        })
    }

    /// The directory whose files speak of a controller, and whether it is of version 1.
    fn directory_of(&self, controller: Controller) -> Option<(&Directory, bool)> {
        let v1 = self
            .v1_directories()
            .find(|(_, hierarchy)| hierarchy.has(controller));
        match v1 {
            Some((directory, _)) => Some((directory, true)),
            None if self.hierarchies.v2_has(controller) => {
                self.unified().map(|directory| (directory, false))
            }
            None => None,
        }
    }

    /// How many of its processes the kernel has killed for want of memory; 0 where nothing counts them.
    pub fn oom_kills(&self) -> Result<u64> {
        match self.directory_of(Controller::Memory) {
            Some((directory, true)) => v1::memory::oom_kills(directory),
            Some((directory, false)) => v2::memory::oom_kills(directory),
            None => Ok(0),
        }
    }

    /// What it uses and has used.
    pub fn stats(&self) -> Result<Stats> {
        stats::read(self)
    }

    /// The process IDs in it and in the cgroups below it, as this process sees them.
    pub fn processes(&self) -> Result<Vec<u32>> {
        match self.unified().or(self.made.first()) {
            Some(directory) => directory.all_processes(),
            None => Ok(Vec::new()),
        }
    }

    /// Whether its processes are stopped.
    pub fn frozen(&self) -> Result<bool> {
        if let Some(directory) = self.unified()
            && v2::freezer::is_set(directory)?
        {
            return Ok(true);
        }
        let freezer = self
            .v1_directories()
            .find(|(_, hierarchy)| hierarchy.has(Controller::Freezer));
        match freezer {
            Some((directory, _)) => v1::freezer::is_set(directory),
            None => Ok(false),
        }
    }

    /// Stops every process in it, and returns when all have stopped.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets its processes run again.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        if let Some(directory) = self.unified() {
            return v2::freezer::set(directory, frozen);
        }
        match self
            .v1_directories()
            .find(|(_, hierarchy)| hierarchy.has(Controller::Freezer))
        {
            Some((directory, _)) => v1::freezer::set(directory, frozen),
            None => Err(Error::NoController {
                field: "pause",
                controller: Controller::Freezer.name(),
            }),
        }
    }

    /// The container's own view of it, for a mount of type cgroup.
    pub(crate) fn view(&self) -> View {
        View::new(self.hierarchies, &self.path, &self.v1, self.v2)
    }
}
