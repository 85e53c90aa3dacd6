//! openat2(2) as it is meant to be called.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// How often the kernel is asked again. Each time something must have been renamed while it resolved; a hostile instance may do
/// so all the time, and is not to hold us for ever.
const TRIES: usize = 1000;

/// Opens a path that is resolved as `resolve` says, below `directory`. The kernel answers EAGAIN when something anywhere on the machine
/// was renamed or mounted while it resolved a `..` (openat2(2)): that is the advice to ask again, and is followed here.
///
/// # Errors
/// The kernel's; EAGAIN after very many tries.
pub fn openat2(
    directory: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    path.into_with_c_str(|path| {
        for _ in 0..TRIES {
            match rustix::fs::openat2(&directory, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_path_that_goes_up_is_found_while_others_rename() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("real/dir")).unwrap();
        std::os::unix::fs::symlink("/real/dir/../dir/../../real", directory.path().join("link"))
            .unwrap();
        let root = fs::File::open(directory.path()).unwrap();
        let busy = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let names = ["one", "two"].map(|name| directory.path().join(name));
                fs::write(&names[0], "").unwrap();
                while busy.load(Ordering::Relaxed) {
                    fs::rename(&names[0], &names[1]).unwrap();
                    fs::rename(&names[1], &names[0]).unwrap();
                }
            });
            let opened: Vec<_> = (0..2000)
                .map(|_| {
                    openat2(
                        &root,
                        "link",
                        OFlags::PATH | OFlags::CLOEXEC,
                        Mode::empty(),
                        ResolveFlags::IN_ROOT,
                    )
                    .map(drop)
                })
                .collect();
            busy.store(false, Ordering::Relaxed);
            assert!(opened.iter().all(Result::is_ok), "{opened:?}");
        });
    }
}
