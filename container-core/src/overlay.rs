//! The root file system of a container that does not run, for those who look into it or change it.

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::child::report::{Failure, Step};
use crate::child::root::OverlayMount;
use crate::error::{Error, Result};
use crate::launch::Rootfs;
use crate::plan::rootfs::RootPlan;
use crate::sys::mount::{self, ATTR_RDONLY};
use crate::sys::{Errno, clone};

/// Mounts an overlay that is attached nowhere: it is reached by its descriptor alone (openat2(2) with
/// `RESOLVE_IN_ROOT`), no process sees it in a table of mounts, and it goes with the descriptor.
///
/// `lower` are the read-only layers, the topmost first; all paths are absolute. With `readonly` nothing can be changed
/// through it. An overlay with these `upper` and `work` directories must not be mounted elsewhere at the same time, as in a
/// container that runs: go through /proc/PID/root there.
pub fn mount_overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    readonly: bool,
) -> Result<OwnedFd> {
    let rootfs = Rootfs::Overlay {
        lower,
        upper,
        work,
        volatile: false,
    };
    let plan = RootPlan::new(&rootfs, &Spec::default(), false, true)?;
    let Some(mut overlay) = OverlayMount::of(&plan) else {
        return Err(Error::setup("mount the overlay", Errno(libc::EINVAL)));
    };
    if readonly {
        overlay.attributes = ATTR_RDONLY;
    }
    let mounted = match overlay.mount_detached() {
        Err(failure) if failure.errno == Errno(libc::EINVAL) => in_private_mounts(&overlay),
        other => other,
    };
    match mounted {
        // SAFETY: the call has just made the descriptor.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(failure) => Err(describe(&overlay, failure)),
    }
}

/// The way of older kernels, in a thread with a mount namespace of its own, which ends with the thread.
fn in_private_mounts(overlay: &OverlayMount<'_>) -> std::result::Result<i32, Failure> {
    let failed = |errno| Failure {
        step: Step::Overlay,
        index: 0,
        errno,
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            clone::unshare(libc::CLONE_NEWNS | libc::CLONE_FS).map_err(failed)?;
            mount::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, None).map_err(failed)?;
            overlay.mount()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(failed(Errno(libc::EFAULT))))
    })
}

fn describe(overlay: &OverlayMount<'_>, failure: Failure) -> Error {
    let show = |path: &crate::plan::rootfs::HostPath| crate::plan::show(&path.path).into_owned();
    let doing = match failure.step {
        Step::OverlayLayer => format!(
            "use {} as a layer",
            overlay
                .lower
                .get(failure.index as usize)
                .map(show)
                .unwrap_or_default()
        ),
        Step::OverlayUpper => format!("use {} as the upper layer", show(overlay.upper)),
        Step::OverlayWork => format!("use {} as the overlay's work directory", show(overlay.work)),
        _ => format!("mount the overlay of {}", show(overlay.upper)),
    };
    Error::setup(doing, failure.errno)
}
