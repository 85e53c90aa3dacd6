//! The root file system: mounting it, entering it, and shutting the host out.

use super::report::{At, Outcome, Step};
use super::{HERE, Setup};
use crate::plan::rootfs::{HostPath, RootPlan};
use crate::sys::file::{self, FdPath};
use crate::sys::mount::{self, FileSystem};
use crate::sys::{self, Errno, Fd};

impl Setup<'_> {
    /// Takes this copy of the host's mounts out of the host's propagation, so that nothing mounted here shows there.
    pub(super) fn isolate_mounts(&self) -> Outcome<()> {
        if !self.plan.namespaces.makes_mount() {
            return Ok(());
        }
        // A slave still hears what the host mounts, which a bind that asks for it must go on hearing.
        let listens = self.plan.propagation.0 & (libc::MS_SLAVE | libc::MS_SHARED) != 0
            || self.plan.mounts.iter().any(|mount| {
                mount
                    .propagation
                    .is_some_and(|(flag, _)| flag & (libc::MS_SLAVE | libc::MS_SHARED) != 0)
            });
        let flag = if listens {
            libc::MS_SLAVE
        } else {
            libc::MS_PRIVATE
        };
        mount::mount(c"", c"/", c"", flag | libc::MS_REC, None).at(Step::Propagation)
    }

    /// Mounts the root file system, over a directory of the host that only this container's mount namespace sees so.
    pub(super) fn mount_root(&mut self) -> Outcome<()> {
        match &self.plan.root {
            RootPlan::Overlay { upper, .. } => {
                let target = open_directory(upper).at(Step::OverlayUpper)?;
                self.root = match (self.mounted, OverlayMount::of(&self.plan.root)) {
                    (Some(mounted), _) => mounted,
                    (None, Some(overlay)) => overlay.mount()?,
                    (None, None) => return self.fail(Step::Overlay, 0, libc::EINVAL),
                };
                mount::attach(self.root, target).at(Step::Overlay)?;
                file::close(target);
            }
            RootPlan::Directory(path, prepared) => {
                let target = match open_directory(path) {
                    // Out of reach for this root: any place will do for what the pivot puts in the place of all.
                    Err(Errno(libc::EACCES)) if prepared.is_some() => {
                        file::openat(HERE, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)
                    }
                    other => other,
                }
                .at(Step::RootDirectory)?;
                self.root = match prepared {
                    Some(tree) => sys::raw(tree),
                    None => mount::clone_tree(target, c"", true).at(Step::RootDirectory)?,
                };
                mount::attach(self.root, target).at(Step::RootDirectory)?;
                file::close(target);
            }
            RootPlan::Chroot(_) | RootPlan::Unchanged => {
                self.root = file::openat(HERE, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)
                    .at(Step::RootDirectory)?;
            }
        }
        Ok(())
    }

    /// Makes the mounted root the root of the namespace and lets go of the host's.
    pub(super) fn enter_root(&self) -> Outcome<()> {
        file::fchdir(self.root).at(Step::Pivot)?;
        if matches!(
            self.plan.root,
            RootPlan::Overlay { .. } | RootPlan::Directory(..)
        ) {
            if self.plan.no_pivot {
                self.move_root().at(Step::Pivot)?;
            } else {
                mount::pivot_to_working_directory().at(Step::Pivot)?;
            }
            file::chdir(c"/").at(Step::Pivot)?;
        }
        Ok(())
    }

    /// Moves the root over the old one, for hosts whose own root cannot be left by pivot_root(2), such as an initramfs.
    fn move_root(&self) -> sys::Result<()> {
        let old = file::openat(HERE, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        mount::attach(self.root, old)?;
        file::close(old);
        file::chroot(c".")
    }

    /// Gives the root its propagation, when nothing is left to be mounted: an unbindable one could not be copied.
    pub(super) fn propagate_root(&self) -> Outcome<()> {
        let (flag, recursive) = self.plan.propagation;
        // What was mounted below a private mount is private already.
        if flag != libc::MS_PRIVATE && self.plan.namespaces.makes_mount() {
            let flags = flag | if recursive { libc::MS_REC } else { 0 };
            mount::mount(c"", c"/", c"", flags, None).at(Step::Propagation)?;
        }
        Ok(())
    }
}

fn open_directory(path: &HostPath) -> sys::Result<Fd> {
    file::openat(HERE, &path.path, libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// An overlay to be mounted.
pub(crate) struct OverlayMount<'a> {
    pub(crate) lower: &'a [HostPath],
    pub(crate) upper: &'a HostPath,
    pub(crate) work: &'a HostPath,
    pub(crate) userxattr: bool,
    pub(crate) volatile: bool,
    /// Attributes of the mount.
    pub(crate) attributes: u64,
}

/// Features that would leave marks in the upper layer which mean something only together with these very lower
/// layers; without them the upper layer is a plain record of changes.
const PLAIN_UPPER: [&std::ffi::CStr; 3] = [c"index", c"metacopy", c"redirect_dir"];

/// The same where marks are kept in `user.*` attributes: redirects are off there, and saying so is refused.
const PLAIN_USER_UPPER: [&std::ffi::CStr; 1] = [c"index"];

impl<'a> OverlayMount<'a> {
    /// A plan's overlay, if it has one.
    pub(crate) fn of(plan: &'a RootPlan) -> Option<Self> {
        match plan {
            RootPlan::Overlay {
                lower,
                upper,
                work,
                userxattr,
                volatile,
            } => Some(Self {
                lower,
                upper,
                work,
                userxattr: *userxattr,
                volatile: *volatile,
                attributes: 0,
            }),
            _ => None,
        }
    }
}

impl OverlayMount<'_> {
    fn plain_upper(&self) -> &'static [&'static std::ffi::CStr] {
        if self.userxattr {
            &PLAIN_USER_UPPER
        } else {
            &PLAIN_UPPER
        }
    }

    /// A mount that is attached nowhere. Before Linux 6.8 this goes through an attached one, for which the caller must be
    /// in a mount namespace that nobody else sees.
    pub(crate) fn mount(&self) -> Outcome<Fd> {
        match self.mount_detached() {
            // Before Linux 6.8 there is no "lowerdir+".
            Err(failure) if failure.errno == Errno(libc::EINVAL) => self.mount_by_string(),
            other => other,
        }
    }

    /// The same without an attached one; EINVAL where the kernel cannot do that.
    pub(crate) fn mount_detached(&self) -> Outcome<Fd> {
        let overlay = FileSystem::open(c"overlay").at(Step::Overlay)?;
        self.add_layers(&overlay)?;
        overlay.string(c"source", c"overlay").at(Step::Overlay)?;
        for option in self.plain_upper() {
            overlay.string(option, c"off").at(Step::Overlay)?;
        }
        if self.userxattr {
            overlay.flag(c"userxattr").at(Step::Overlay)?;
        }
        if self.volatile {
            overlay.flag(c"volatile").at(Step::Overlay)?;
        }
        overlay.mount(self.attributes).at(Step::Overlay)
    }

    fn add_layers(&self, overlay: &FileSystem) -> Outcome<()> {
        for (index, layer) in self.lower.iter().enumerate() {
            set_path(overlay, c"lowerdir+", layer).at_index(Step::OverlayLayer, index)?;
        }
        set_path(overlay, c"upperdir", self.upper).at(Step::OverlayUpper)?;
        set_path(overlay, c"workdir", self.work).at(Step::OverlayWork)
    }

    /// mount(2) with one string of options, which must fit a page: each layer is named by a descriptor, so that 127
    /// layers take about 2 KiB whatever their paths are.
    fn mount_by_string(&self) -> Outcome<Fd> {
        let mut options = Options::new();
        options.push(b"lowerdir=");
        for (index, layer) in self.lower.iter().enumerate() {
            if index > 0 {
                options.push(b":");
            }
            options
                .push_directory(layer)
                .at_index(Step::OverlayLayer, index)?;
        }
        options.push(b",upperdir=");
        options.push_directory(self.upper).at(Step::OverlayUpper)?;
        options.push(b",workdir=");
        options.push_directory(self.work).at(Step::OverlayWork)?;
        for option in self.plain_upper() {
            options.push(b",");
            options.push(option.to_bytes());
            options.push(b"=off");
        }
        if self.userxattr {
            options.push(b",userxattr");
        }
        if self.volatile {
            options.push(b",volatile");
        }
        let options = options.finish().at(Step::Overlay)?;
        let target = open_directory(self.upper).at(Step::OverlayUpper)?;
        let target = FdPath::new(target);
        mount::mount(c"overlay", target.as_c_str(), c"overlay", 0, Some(options))
            .at(Step::Overlay)?;
        // A detached copy, which the caller attaches like one of fsmount; the first stays below it until the pivot.
        mount::clone_tree(HERE, &self.upper.path, false).at(Step::Overlay)
    }
}

/// Sets a parameter to a path, or to the path of a descriptor where the kernel would not take the path's text.
fn set_path(overlay: &FileSystem, key: &std::ffi::CStr, path: &HostPath) -> sys::Result<()> {
    if path.plain {
        return overlay.string(key, &path.path);
    }
    let fd = open_directory(path)?;
    overlay.string(key, FdPath::new(fd).as_c_str())
}

/// Options of mount(2), a page at most, put together without allocating.
struct Options {
    text: [u8; 4096],
    length: usize,
    overflow: bool,
}

impl Options {
    fn new() -> Self {
        Self {
            text: [0; 4096],
            length: 0,
            overflow: false,
        }
    }

    fn push(&mut self, part: &[u8]) {
        // One byte is kept for the terminator.
        match self.text.get_mut(self.length..self.length + part.len()) {
            Some(room) if self.length + part.len() < 4096 => {
                room.copy_from_slice(part);
                self.length += part.len();
            }
            _ => self.overflow = true,
        }
    }

    fn push_directory(&mut self, path: &HostPath) -> sys::Result<()> {
        let fd = open_directory(path)?;
        self.push(FdPath::new(fd).as_c_str().to_bytes());
        Ok(())
    }

    fn finish(&self) -> sys::Result<&std::ffi::CStr> {
        if self.overflow {
            return Err(Errno(libc::E2BIG));
        }
        std::ffi::CStr::from_bytes_until_nul(&self.text).map_err(|_| Errno(libc::E2BIG))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::launch::Rootfs;
    use crate::sys::clone;

    /// Runs in a thread with a mount namespace of its own.
    fn in_mount_namespace<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    clone::unshare(libc::CLONE_NEWNS).expect("these tests run as root");
                    mount::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, None).unwrap();
                    run()
                })
                .join()
                .unwrap()
        })
    }

    fn layers(base: &Path, count: usize) -> Vec<PathBuf> {
        (0..count)
            .map(|index| {
                let layer = base.join(format!("{index:0>64}"));
                fs::create_dir(&layer).unwrap();
                fs::write(layer.join(format!("file{index}")), index.to_string()).unwrap();
                fs::write(layer.join("all"), index.to_string()).unwrap();
                layer
            })
            .collect()
    }

    fn with_overlay(count: usize, prefix: &str, check: impl FnOnce(&OverlayMount<'_>) + Send) {
        let base = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        let lower = layers(base.path(), count);
        let (upper, work) = (base.path().join("upper"), base.path().join("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let rootfs = Rootfs::Overlay {
            lower: &lower,
            upper: &upper,
            work: &work,
            volatile: false,
        };
        let plan =
            RootPlan::new(&rootfs, &oci_spec::runtime::Spec::default(), false, true).unwrap();
        in_mount_namespace(|| {
            check(&OverlayMount::of(&plan).expect("an overlay is planned as one"))
        });
    }

    fn read(root: Fd, name: &std::ffi::CStr) -> String {
        let fd = file::openat(root, name, libc::O_RDONLY, 0).unwrap();
        let mut bytes = [0; 16];
        let length = file::read(fd, &mut bytes).unwrap();
        file::close(fd);
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn an_overlay_takes_127_layers_by_descriptors_in_one_option_string() {
        with_overlay(127, "legacy", |overlay| {
            let root = overlay.mount_by_string().unwrap();
            assert_eq!(read(root, c"file126"), "126");
            assert_eq!(
                read(root, c"all"),
                "0",
                "the first layer given is the topmost"
            );
            file::close(root);
        });
    }

    #[test]
    fn an_overlay_takes_127_layers_one_by_one() {
        with_overlay(127, "new", |overlay| {
            let root = overlay.mount().unwrap();
            assert_eq!(read(root, c"file126"), "126");
            assert_eq!(
                read(root, c"all"),
                "0",
                "the first layer given is the topmost"
            );
            file::close(root);
        });
    }

    #[test]
    fn a_layer_path_may_hold_what_overlay_treats_specially() {
        with_overlay(2, "a:b,c\\d", |overlay| {
            for root in [overlay.mount().unwrap(), overlay.mount_by_string().unwrap()] {
                assert_eq!(read(root, c"file1"), "1");
                file::close(root);
            }
        });
    }
}
