//! The kernel's modules that lie in the initial RAM disk.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::failure::{Context, Failure};
use crate::rootfs::c_string;
use crate::sys::{Errno, file};

/// Loads every file in /modules in the order of their names, and gives their memory back. Most kernels have no such directory.
pub(crate) fn load() -> Result<(), Failure> {
    let directory = match file::open(c"/modules", libc::O_RDONLY | libc::O_DIRECTORY) {
        Err(Errno(libc::ENOENT)) => return Ok(()),
        other => other.or_fail(|| "open /modules")?,
    };
    let mut names: Vec<Vec<u8>> = Vec::new();
    file::names(&directory, |name| {
        if !name.starts_with(b".") {
            names.push(name.to_vec());
        }
    })
    .or_fail(|| "list /modules")?;
    names.sort_unstable();
    for name in &names {
        load_one(name)?;
    }
    Ok(())
}

fn load_one(name: &[u8]) -> Result<(), Failure> {
    let shown = String::from_utf8_lossy(name);
    let path = c_string(&format!("/modules/{shown}"))?;
    let module = file::open(&path, libc::O_RDONLY).or_fail(|| format!("open /modules/{shown}"))?;
    match file::load_module(&module) {
        // It is there already; or it drives what this processor has not, and something else does the same.
        Ok(()) | Err(Errno(libc::EEXIST | libc::ENODEV)) => {}
        Err(errno) => {
            let plain = shown.split_once('-').map_or(&*shown, |(_, plain)| plain);
            return Err(Failure::system(
                format!("load the kernel's module {plain}"),
                errno,
            ));
        }
    }
    // The kernel has a copy; what cannot be removed only takes memory.
    let _ = file::remove(&path);
    Ok(())
}
