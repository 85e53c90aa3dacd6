//! The mounts of the specification, and the paths it hides or makes read-only.

use std::ffi::CStr;

use super::report::{At, Outcome, Step};
use super::{HERE, Setup, copy_up};
use crate::plan::mounts::{Inside, Kind, MountPlan, Parameter};
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use crate::sys::mount::{
    self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, FileSystem, MountAttr,
};
use crate::sys::{self, Errno, Fd};

/// The magic number of proc (uapi/linux/magic.h).
const PROC_SUPER_MAGIC: libc::c_long = 0x9fa0;

/// What a bind shows, as a mount that is attached nowhere. A source `/proc/self/fd/N` may be such a mount already, made by the
/// launcher: it belongs to no namespace, so it cannot be cloned in this one, and is used itself.
fn bind_source(source: &CStr, recursive: bool) -> sys::Result<Fd> {
    match (
        mount::clone_tree(HERE, source, recursive),
        descriptor(source),
    ) {
        (Err(Errno(libc::EINVAL)), Some(detached)) => file::dup_above(detached, 3),
        (cloned, _) => cloned,
    }
}

/// The number in `/proc/self/fd/N`.
fn descriptor(path: &CStr) -> Option<Fd> {
    let digits = path.to_bytes().strip_prefix(b"/proc/self/fd/")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Setup<'_> {
    /// Makes mounts of the specification, in their order; the first of them is its number `from`.
    pub(super) fn mount_each(&self, mounts: &[MountPlan], from: usize) -> Outcome<()> {
        for (index, planned) in mounts.iter().enumerate() {
            self.mount_one(from + index, planned)?;
        }
        Ok(())
    }

    fn mount_one(&self, index: usize, planned: &MountPlan) -> Outcome<()> {
        let (tree, is_directory) = match &planned.kind {
            Kind::FileSystem {
                name,
                source,
                parameters,
            } => {
                let tree = make_file_system(name, source, parameters, planned.attributes.set)
                    .at_index(Step::Mount, index)?;
                (tree, true)
            }
            Kind::Bind { source, recursive } => {
                let tree = bind_source(source, *recursive).at_index(Step::MountSource, index)?;
                let stat = file::fstat(tree).at_index(Step::MountSource, index)?;
                if !planned.attributes.is_empty() {
                    mount::set_attributes(tree, &planned.attributes, false)
                        .at_index(Step::MountAttributes, index)?;
                }
                (tree, stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
            }
            Kind::Prepared { tree, .. } => {
                let tree = sys::raw(tree);
                let stat = file::fstat(tree).at_index(Step::MountSource, index)?;
                (tree, stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
            }
            Kind::Cgroup => return self.mount_cgroups(index, planned),
        };
        if planned.kind.is_of_the_kernel() {
            self.refuse_links(&planned.target)
                .at_index(Step::MountTarget, index)?;
        }
        let target = self
            .make_target(&planned.target, is_directory)
            .at_index(Step::MountTarget, index)?;
        if planned.copy_up {
            copy_up::copy(target, tree).at_index(Step::CopyUp, index)?;
        }
        self.place(index, planned, tree, target)
    }

    /// Attaches a mount and gives it what applies to attached mounts.
    fn place(&self, index: usize, planned: &MountPlan, tree: Fd, target: Fd) -> Outcome<()> {
        if !planned.recursive_attributes.is_empty() {
            mount::set_attributes(tree, &planned.recursive_attributes, true)
                .at_index(Step::MountAttributes, index)?;
        }
        mount::attach(tree, target).at_index(Step::Mount, index)?;
        if let Some((propagation, recursive)) = planned.propagation {
            let attributes = MountAttr {
                propagation,
                ..MountAttr::default()
            };
            mount::set_attributes(tree, &attributes, recursive)
                .at_index(Step::MountAttributes, index)?;
        }
        file::close(target);
        file::close(tree);
        Ok(())
    }

    /// The container's view of its cgroups: the unified hierarchy, or a directory with one mount for each hierarchy in
    /// which it has a cgroup of its own.
    fn mount_cgroups(&self, index: usize, planned: &MountPlan) -> Outcome<()> {
        let attributes = planned.attributes.set;
        let target = self
            .make_target(&planned.target, true)
            .at_index(Step::MountTarget, index)?;
        if let Some(unified) = &self.cgroups.unified {
            let tree = self
                .mount_hierarchy(unified, attributes)
                .at_index(Step::CgroupMount, index)?;
            return self.place(index, planned, tree, target);
        }
        let tree = FileSystem::open(c"tmpfs")
            .and_then(|tmpfs| {
                tmpfs.string(c"source", c"tmpfs")?;
                tmpfs.string(c"mode", c"755")?;
                tmpfs.mount(attributes & !ATTR_RDONLY)
            })
            .at_index(Step::CgroupMount, index)?;
        // Nothing can be mounted on a mount that is itself attached nowhere (before Linux 6.15).
        mount::attach(tree, target).at_index(Step::CgroupMount, index)?;
        for hierarchy in &self.cgroups.hierarchies {
            let made = file::mkdirat(tree, &hierarchy.name, 0o755)
                .and_then(|()| {
                    file::openat(tree, &hierarchy.name, libc::O_PATH | libc::O_DIRECTORY, 0)
                })
                .and_then(|target| {
                    let mounted = self.mount_hierarchy(hierarchy, attributes)?;
                    mount::attach(mounted, target)?;
                    file::close(mounted);
                    file::close(target);
                    Ok(())
                });
            made.at_index(Step::CgroupMount, index)?;
        }
        for (name, to) in &self.cgroups.links {
            file::symlinkat(to, tree, name).at_index(Step::CgroupMount, index)?;
        }
        if attributes & ATTR_RDONLY != 0 {
            let attributes = MountAttr {
                set: ATTR_RDONLY,
                ..MountAttr::default()
            };
            mount::set_attributes(tree, &attributes, false)
                .at_index(Step::MountAttributes, index)?;
        }
        file::close(target);
        file::close(tree);
        Ok(())
    }

    fn mount_hierarchy(
        &self,
        hierarchy: &crate::cgroup::ViewEntry,
        attributes: u64,
    ) -> sys::Result<Fd> {
        if self.plan.namespaces.makes_cgroup() {
            // In a cgroup namespace of its own, the root of a new mount is the container's own cgroup.
            let cgroups = FileSystem::open(hierarchy.kind)?;
            cgroups.string(c"source", c"cgroup")?;
            for parameter in &hierarchy.parameters {
                apply(&cgroups, parameter)?;
            }
            return cgroups.mount(attributes);
        }
        let tree = mount::clone_tree(HERE, &hierarchy.host, false)?;
        mount::set_attributes(
            tree,
            &MountAttr {
                set: attributes,
                ..MountAttr::default()
            },
            false,
        )?;
        Ok(tree)
    }

    /// Makes the process's working directory where the image has none, as docker does for WORKDIR.
    pub(super) fn make_working_directory(&self) -> Outcome<()> {
        let directory = self
            .make_target(&self.plan.process.cwd, true)
            .at(Step::WorkingDirectory)?;
        file::close(directory);
        Ok(())
    }

    /// Writes the sysctls, through the container's own proc.
    pub(super) fn write_sysctls(&self) -> Outcome<()> {
        if self.plan.sysctls.is_empty() {
            return Ok(());
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let directory = file::openat2(self.root, c"proc/sys", flags, 0, RESOLVE_NO_SYMLINKS)
            .at(Step::SysctlFile)?;
        if file::filesystem(directory).at(Step::SysctlFile)? != PROC_SUPER_MAGIC {
            return self.fail(Step::SysctlFile, 0, libc::ENODEV);
        }
        for (index, sysctl) in self.plan.sysctls.iter().enumerate() {
            let file = file::openat2(
                directory,
                &sysctl.file,
                libc::O_WRONLY,
                0,
                RESOLVE_NO_SYMLINKS,
            )
            .at_index(Step::Sysctl, index)?;
            file::write(file, &sysctl.value).at_index(Step::Sysctl, index)?;
            file::close(file);
        }
        file::close(directory);
        Ok(())
    }

    /// Hides masked paths, and makes read-only paths read-only: those that can be done early, or the others.
    pub(super) fn restrict_paths(&mut self, early: bool) -> Outcome<()> {
        let plan = self.plan;
        for (index, path) in plan
            .readonly
            .iter()
            .enumerate()
            .filter(|(_, path)| path.early == early)
        {
            let opened = self
                .open_existing(&path.path)
                .at_index(Step::ReadonlyPath, index)?;
            if let Some(target) = opened {
                self.make_readonly(target)
                    .at_index(Step::ReadonlyPath, index)?;
            }
        }
        for (index, path) in plan
            .masked
            .iter()
            .enumerate()
            .filter(|(_, path)| path.early == early)
        {
            let opened = self
                .open_existing(&path.path)
                .at_index(Step::MaskedPath, index)?;
            if let Some(target) = opened {
                self.mask(target).at_index(Step::MaskedPath, index)?;
            }
        }
        Ok(())
    }

    /// Makes the root read-only where the specification says so.
    pub(super) fn restrict_root(&self) -> Outcome<()> {
        if !self.plan.readonly_root {
            return Ok(());
        }
        let attributes = MountAttr {
            set: ATTR_RDONLY,
            ..MountAttr::default()
        };
        mount::set_attributes(self.root, &attributes, false).at(Step::ReadonlyRoot)
    }

    /// A path to restrict. One that is not there needs no restriction.
    fn open_existing(&self, path: &Inside) -> sys::Result<Option<Fd>> {
        match self.open_inside(path, 0) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn make_readonly(&self, target: Fd) -> sys::Result<()> {
        let tree = mount::clone_tree(target, c"", true)?;
        mount::set_attributes(
            tree,
            &MountAttr {
                set: ATTR_RDONLY,
                ..MountAttr::default()
            },
            true,
        )?;
        mount::attach(tree, target)?;
        file::close(tree);
        file::close(target);
        Ok(())
    }

    /// Hides a directory below an empty one, a file below /dev/null. One empty file system serves all directories.
    fn mask(&mut self, target: Fd) -> sys::Result<()> {
        let is_directory = file::fstat(target)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let tree = match (is_directory, self.empty) {
            (true, Some(empty)) => mount::clone_tree(empty, c"", false)?,
            (true, None) => {
                let tmpfs = FileSystem::open(c"tmpfs")?;
                tmpfs.string(c"source", c"tmpfs")?;
                tmpfs.string(c"nr_inodes", c"1")?;
                tmpfs.string(c"mode", c"755")?;
                tmpfs.mount(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?
            }
            (false, _) => mount::clone_tree(self.null()?, c"", false)?,
        };
        mount::attach(tree, target)?;
        file::close(target);
        if is_directory && self.empty.is_none() {
            self.empty = Some(tree);
        } else {
            file::close(tree);
        }
        Ok(())
    }

    /// The container's null device: it must be what it is called, or a masked file would be readable.
    fn null(&mut self) -> sys::Result<Fd> {
        if let Some(fd) = self.null {
            return Ok(fd);
        }
        let fd = file::openat2(
            self.root,
            c"dev/null",
            libc::O_PATH | libc::O_NOFOLLOW,
            0,
            RESOLVE_IN_ROOT,
        )?;
        let stat = file::fstat(fd)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
            return Err(Errno(libc::ENODEV));
        }
        self.null = Some(fd);
        Ok(fd)
    }
}

fn apply(to: &FileSystem, parameter: &Parameter) -> sys::Result<()> {
    match parameter {
        Parameter::Flag(key) => to.flag(key),
        Parameter::Value(key, value) => to.string(key, value),
    }
}

fn make_file_system(
    name: &std::ffi::CStr,
    source: &std::ffi::CStr,
    parameters: &[Parameter],
    attributes: u64,
) -> sys::Result<Fd> {
    let made = FileSystem::open(name)?;
    made.string(c"source", source)?;
    for parameter in parameters {
        apply(&made, parameter)?;
    }
    made.mount(attributes)
}
