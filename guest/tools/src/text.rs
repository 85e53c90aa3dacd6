//! A small file that is there, read and written in place: /etc/hosts, which is a mount of its own and cannot be replaced.

use alloc::vec::Vec;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, ftruncate, openat};
use rustix::io::{Errno, read, write as write_some};

use crate::failure::Failure;
use crate::output::Output;

/// The largest such file, bytes.
const MOST: usize = 1 << 20;

fn open(path: &[u8], access: OFlags) -> Result<OwnedFd, Failure> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())
        .map_err(|error| Failure::at_named("open", path, error))?;
    let about = fstat(&file).map_err(|error| Failure::at("stat", path, error))?;
    if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
        return Err(Failure::at("open", path, Errno::INVAL));
    }
    Ok(file)
}

fn all(from: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match read(from, &mut piece[..]) {
            Ok(0) => return Ok(text),
            Ok(count) => text.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::at("read", name, error)),
        }
        if text.len() > MOST {
            return Err(Failure::at("read", name, Errno::FBIG));
        }
    }
}

/// What is in the file.
pub(crate) fn show(path: &[u8], output: &mut Output<'_>) -> Result<(), Failure> {
    let file = open(path, OFlags::RDONLY)?;
    output.push(&all(rustix::fd::AsFd::as_fd(&file), path)?)
}

/// Puts what comes on stdin in place of what is in the file.
pub(crate) fn replace(stdin: BorrowedFd<'_>, path: &[u8]) -> Result<(), Failure> {
    // All of it first: a host that goes away in the middle changes nothing.
    let text = all(stdin, b"stdin")?;
    let file = open(path, OFlags::WRONLY)?;
    ftruncate(&file, 0).map_err(|error| Failure::at("write", path, error))?;
    let mut left = text.as_slice();
    while !left.is_empty() {
        match write_some(&file, left) {
            Ok(count) => left = left.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::at("write", path, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;

    use rustix::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_is_replaced_in_place_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        std::fs::write(&path, "a longer text than the new one").unwrap();
        let number = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let before = number();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"new\n").unwrap();
        drop(writer);
        replace(reader.as_fd(), path.as_os_str().as_bytes()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new\n");
        assert_eq!(number(), before);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let nothing = File::open("/dev/null").unwrap();
        for wrong in [
            link.as_path(),
            directory.path(),
            &directory.path().join("none"),
        ] {
            assert!(replace(nothing.as_fd(), wrong.as_os_str().as_bytes()).is_err());
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"new\n");
    }
}
