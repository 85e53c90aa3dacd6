//! What an overlay's upper directory holds: what has been added, changed and removed over the layers below.

use alloc::vec::Vec;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, fgetxattr, major, minor, openat, statat,
};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::output::Output;

/// The attribute of a directory that hides what is below it (Linux's Documentation/filesystems/overlayfs.rst).
const OPAQUE: &str = "trusted.overlay.opaque";

/// Lists everything in the directory, parents before what is in them: a letter, a space, the path from the root on, a zero byte.
/// The letters: `d` directory, `o` directory that hides the one below it, `w` something that was removed, `f` file, `l`
/// symbolic link, `c` and `b` devices, `p` FIFO, `s` socket.
pub(crate) fn list(upper: BorrowedFd<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
    // The descriptor may have been listed by somebody already: a second one begins at the start.
    let directory =
        open(upper, b".").map_err(|error| Failure::at("open", b"the upper directory", error))?;
    walk(directory.as_fd(), &mut Vec::new(), output)
}

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<rustix::fd::OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn walk(
    directory: BorrowedFd<'_>,
    path: &mut Vec<u8>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    for name in names(directory).map_err(|error| Failure::at("list", path, error))? {
        let length = path.len();
        path.push(b'/');
        path.extend_from_slice(&name);
        let about = match statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => about,
            // Removed meanwhile.
            Err(Errno::NOENT) => {
                path.truncate(length);
                continue;
            }
            Err(error) => return Err(Failure::at("stat", path, error)),
        };
        let kind = FileType::from_raw_mode(about.st_mode);
        let below = if kind == FileType::Directory {
            match open(directory, &name) {
                Ok(below) => Some(below),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(Failure::at("open", path, error)),
            }
        } else {
            None
        };
        let letter = match kind {
            FileType::Directory if below.as_ref().is_some_and(is_opaque) => b'o',
            FileType::Directory => b'd',
            _ if is_removed(&about) => b'w',
            FileType::CharacterDevice => b'c',
            FileType::BlockDevice => b'b',
            FileType::Symlink => b'l',
            FileType::Fifo => b'p',
            FileType::Socket => b's',
            _ => b'f',
        };
        output.push(&[letter, b' '])?;
        output.push(path)?;
        output.push(&[0])?;
        if let Some(below) = below {
            walk(below.as_fd(), path, output)?;
        }
        path.truncate(length);
    }
    Ok(())
}

/// Whether this marks something that was removed.
pub(crate) fn is_removed(about: &Stat) -> bool {
    FileType::from_raw_mode(about.st_mode) == FileType::CharacterDevice
        && (major(about.st_rdev), minor(about.st_rdev)) == (0, 0)
}

/// Whether a directory hides the one below it.
pub(crate) fn is_opaque(directory: &rustix::fd::OwnedFd) -> bool {
    let mut value = [0u8; 1];
    fgetxattr(directory, OPAQUE, &mut value[..]) == Ok(1) && value == *b"y"
}

/// The names in a directory in their order, without the two that every directory has.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;
    use std::string::String;

    #[test]
    fn everything_in_the_upper_directory_is_listed_with_what_it_means() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("etc/sub")).unwrap();
        std::fs::write(root.join("etc/sub/file"), "").unwrap();
        std::os::unix::fs::symlink("x", root.join("link")).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program)
                .args(arguments)
                .current_dir(root)
                .status()
                .is_ok_and(|status| status.success())
        };
        if !run("mknod", &["gone", "c", "0", "0"]) {
            return std::eprintln!("skipped: no right to make devices");
        }
        // Without setfattr the opaque directory is not tried.
        std::fs::create_dir(root.join("opaque")).unwrap();
        let opaque = run("setfattr", &["-n", OPAQUE, "-v", "y", "opaque"]);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let directory = std::fs::File::open(root).unwrap();
        for _ in 0..2 {
            let mut output = Output::new(writer.as_fd());
            list(directory.as_fd(), &mut output).unwrap();
            output.flush().unwrap();
        }
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let letter = if opaque { 'o' } else { 'd' };
        let once = std::format!(
            "d /etc\0d /etc/sub\0f /etc/sub/file\0w /gone\0l /link\0{letter} /opaque\0"
        );
        assert_eq!(text, once.repeat(2));
    }
}
