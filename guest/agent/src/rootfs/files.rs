//! Files of the host's making that lie over the image's, whatever the image has in their places.

use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use guest_protocol::{File, GuestConfig};

use super::{absolute, c_bytes, c_string, make_empty_file, parent};
use crate::failure::{Context, Failure};
use crate::sys::mount::Tree;
use crate::sys::{Errno, Fd, file};

/// Makes the files that will lie over the image's, in the initial RAM disk, which is out of the process's sight.
pub(super) fn make_files(files: &[File]) -> Result<Vec<Fd>, Failure> {
    let make = |(number, wanted): (usize, &File)| {
        let path = c_string(&format!("/file-{number}"))?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let file = file::create(&path, flags, wanted.mode & 0o7777)
            .and_then(|made| file::write_all(&made, wanted.contents.as_bytes()).map(|()| made));
        file.or_fail(|| format!("make the file for {}", wanted.path))
    };
    files.iter().enumerate().map(make).collect()
}

/// Mounts the files in their places, but for those whose place a share has. An image may have something there that no file can
/// lie over, such as a directory: then the image's stays, and the console says so.
pub(super) fn lay_files(config: &GuestConfig, made: &[Fd]) -> Result<(), Failure> {
    for (wanted, made) in config.files.iter().zip(made) {
        let mut shares = config.shares.iter();
        if shares.any(|share| share.target == wanted.path) {
            continue;
        }
        let path = absolute(&wanted.path)?;
        let tree = Tree::of_file(made).or_fail(|| format!("take the file for {}", wanted.path))?;
        if let Err(errno) = lay(&tree, &path) {
            crate::complain(&format!("cannot lay a file over {}: {errno}", wanted.path));
        }
    }
    Ok(())
}

/// Puts a file in its place: over a symbolic link, if one is there, and not over what that leads to.
fn lay(tree: &Tree, path: &CStr) -> Result<(), Errno> {
    match tree.attach(path, false) {
        Err(Errno(libc::ENOENT)) => {}
        other => return other,
    }
    match make_empty_file(path) {
        // A link on the way leads to where nothing is.
        Err(Errno(libc::ENOENT)) => {
            if let Some(parent) = parent(path) {
                make_through_links(&parent, &mut { LINKS_MAX })?;
            }
            make_empty_file(path)?;
        }
        other => other?,
    }
    tree.attach(path, false)
}

/// How many symbolic links to nowhere are followed for one file; Linux follows 40.
const LINKS_MAX: u32 = 8;

/// Makes a directory and those above it, and for each symbolic link on the way what it leads to. All of it is below the root
/// directory of the process, which is the image's by now: `..` leads no further up.
fn make_through_links(path: &CStr, links: &mut u32) -> Result<(), Errno> {
    let bytes = path.to_bytes();
    let ends = (1..=bytes.len()).filter(|end| bytes.get(*end).is_none_or(|byte| *byte == b'/'));
    for end in ends {
        let part = c_bytes(bytes.get(..end).unwrap_or_default())?;
        if file::exists(&part) {
            continue;
        }
        let mut buffer = [0; libc::PATH_MAX as usize];
        match file::read_symlink(&part, &mut buffer) {
            Ok(_) if *links == 0 => return Err(Errno(libc::ELOOP)),
            Ok(target) => {
                let mut leads = Vec::new();
                if !target.starts_with(b"/") {
                    let here = part.to_bytes();
                    let slash = here.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    leads.extend_from_slice(here.get(..=slash).unwrap_or_default());
                }
                leads.extend_from_slice(target);
                *links -= 1;
                make_through_links(&c_bytes(&leads)?, links)?;
            }
            Err(_) => match file::make_directory(&part, 0o755) {
                Ok(()) | Err(Errno(libc::EEXIST)) => {}
                Err(errno) => return Err(errno),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn make(path: &Path, links: u32) -> Result<(), Errno> {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        make_through_links(&path, &mut { links })
    }

    #[test]
    fn what_links_to_nowhere_lead_to_is_made() {
        let base = std::env::temp_dir().join(format!("plimsoll-links-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        symlink("first/../second/deep", base.join("relative")).unwrap();
        symlink(base.join("relative/on"), base.join("absolute")).unwrap();
        make(&base.join("absolute/end"), 2).unwrap();
        assert!(base.join("second/deep/on/end").is_dir());
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn links_in_a_circle_and_a_file_on_the_way_are_errors() {
        let base = std::env::temp_dir().join(format!("plimsoll-circle-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        symlink("b/b/b", base.join("a")).unwrap();
        symlink("a/a/a", base.join("b")).unwrap();
        assert_eq!(make(&base.join("a/x"), LINKS_MAX), Err(Errno(libc::ELOOP)));
        std::fs::write(base.join("file"), "").unwrap();
        assert_eq!(
            make(&base.join("file/x"), LINKS_MAX),
            Err(Errno(libc::ENOTDIR))
        );
        std::fs::remove_dir_all(&base).unwrap();
    }
}
