//! Makes an archive of a file or a directory.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, fgetxattr, fstat, fstatfs, major, minor, openat,
    readlinkat, statat,
};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::output::Output;
use crate::stat::last_part;
use crate::tar::{BLOCK, CAPABILITY, Entry, kind, padding};
use crate::upper::{is_opaque, is_removed, names};

/// File systems that are not the instance's data (linux/magic.h): of these, only where they are mounted is in an archive.
const NOT_DATA: [u64; 9] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x0102_1994, // tmpfs
    0x0000_1cd1, // devpts
    0x1980_0202, // mqueue
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6462_6720, // debugfs
    0x7363_6673, // securityfs
];

struct Packer<'o, 'f> {
    output: &'o mut Output<'f>,
    header: Vec<u8>,
    /// Whether what lies there is an overlay's upper directory, and marks what was removed.
    is_layer: bool,
    /// The first names of files that have several.
    links: BTreeMap<(u64, u64), Vec<u8>>,
}

/// Writes an archive of `path`, whose entries begin with `name`: by default its last part, or `.` when that is the root or ends
/// in `/.`. A symbolic link is archived as one, unless its path ends in a slash.
pub(crate) fn pack(
    path: &[u8],
    name: Option<&[u8]>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let name = name.unwrap_or_else(|| match last_part(path) {
        b"/" | b"" => b".",
        part => part,
    });
    let fail = |error| Failure::at_named("read", path, error);
    let about = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    let mut packer = Packer {
        output,
        header: Vec::new(),
        is_layer: false,
        links: BTreeMap::new(),
    };
    let mut name = name.to_vec();
    packer.add(CWD, path, &about, &mut name, about.st_dev)?;
    // Two blocks of nothing end an archive.
    packer.output.push(&[0; 2 * BLOCK])
}

/// Writes an overlay's upper directory as a layer's archive: what was removed as the OCI image specification has it (layer.md,
/// "Whiteouts").
pub(crate) fn pack_upper(upper: BorrowedFd<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
    // The descriptor may have been listed by somebody already: a second one begins at the start.
    let directory = open(upper, b".", OFlags::DIRECTORY)
        .map_err(|error| Failure::at("open", b"the upper directory", error))?;
    let mut packer = Packer {
        output,
        header: Vec::new(),
        is_layer: true,
        links: BTreeMap::new(),
    };
    packer.below(directory, &mut b".".to_vec(), false)?;
    packer.output.push(&[0; 2 * BLOCK])
}

impl Packer<'_, '_> {
    /// Adds what `path` names in `directory`, and what is below it.
    fn add(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        about: &Stat,
        name: &mut Vec<u8>,
        parents_device: u64,
    ) -> Result<(), Failure> {
        let mut entry = Entry {
            name: name.clone(),
            mode: about.st_mode & 0o7777,
            uid: about.st_uid.into(),
            gid: about.st_gid.into(),
            mtime: about.st_mtime,
            ..Entry::default()
        };
        let kind = FileType::from_raw_mode(about.st_mode);
        if kind == FileType::Directory {
            entry.kind = kind::DIRECTORY;
            entry.name.push(b'/');
            self.entry(&entry)?;
            return match open(directory, path, OFlags::DIRECTORY) {
                Ok(below) => {
                    if self.is_layer && is_opaque(&below) {
                        self.marker(name, b".wh..wh..opq")?;
                    }
                    self.below(below, name, about.st_dev != parents_device)
                }
                Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(Failure::at("open", name, error)),
            };
        }
        // Marks of removed files share an inode: they come before links.
        if self.is_layer && is_removed(about) {
            let cut = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            let last = name.get(cut + 1..).unwrap_or_default().to_vec();
            let parent = name.get(..cut).unwrap_or_default().to_vec();
            return self.marker(&parent, &[b".wh.", last.as_slice()].concat());
        }
        if about.st_nlink > 1 {
            let file = (about.st_dev, about.st_ino);
            if let Some(first) = self.links.get(&file) {
                entry.kind = kind::HARD_LINK;
                entry.link.clone_from(first);
                return self.entry(&entry);
            }
            self.links.insert(file, name.clone());
        }
        match kind {
            FileType::Symlink => {
                entry.kind = kind::SYMLINK;
                entry.link = match readlinkat(directory, path, Vec::new()) {
                    Ok(target) => target.into_bytes(),
                    Err(Errno::NOENT) => return Ok(()),
                    Err(error) => return Err(Failure::at("read the link", name, error)),
                };
                self.entry(&entry)
            }
            FileType::RegularFile => self.file(directory, path, entry),
            FileType::CharacterDevice | FileType::BlockDevice => {
                entry.kind = if kind == FileType::BlockDevice {
                    kind::BLOCK
                } else {
                    kind::CHARACTER
                };
                entry.device = (major(about.st_rdev), minor(about.st_rdev));
                self.entry(&entry)
            }
            FileType::Fifo => {
                entry.kind = kind::FIFO;
                self.entry(&entry)
            }
            // An archive cannot hold a socket.
            _ => Ok(()),
        }
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        mut entry: Entry,
    ) -> Result<(), Failure> {
        let opened = open(directory, path, OFlags::empty());
        let (file, about) = match opened.and_then(|file| fstat(&file).map(|about| (file, about))) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Failure::at("open", &entry.name, error)),
        };
        entry.kind = kind::FILE;
        entry.size = u64::try_from(about.st_size).unwrap_or(0);
        let mut value = [0u8; 64];
        if about.st_mode & 0o111 != 0
            && let Ok(length) = fgetxattr(&file, CAPABILITY, &mut value[..])
        {
            let value = value.get(..length).unwrap_or_default().to_vec();
            entry.attributes.push((CAPABILITY.into(), value));
        }
        self.entry(&entry)?;
        self.output.file(file, entry.size, &entry.name)?;
        let nothing = [0; BLOCK];
        let rest = nothing.get(..padding(entry.size)).unwrap_or_default();
        self.output.push(rest)
    }

    fn below(
        &mut self,
        directory: OwnedFd,
        name: &mut Vec<u8>,
        mounted: bool,
    ) -> Result<(), Failure> {
        if mounted
            && fstatfs(&directory).is_ok_and(|about| NOT_DATA.contains(&(about.f_type as u64)))
        {
            return Ok(());
        }
        let fail = |what: &str, name: &[u8], error| Failure::at(what, name, error);
        let own = fstat(&directory).map_err(|error| fail("stat", name, error))?;
        let names = names(directory.as_fd()).map_err(|error| fail("list", name, error))?;
        for child in names {
            let length = name.len();
            name.push(b'/');
            name.extend_from_slice(&child);
            match statat(&directory, child.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(about) => self.add(directory.as_fd(), &child, &about, name, own.st_dev)?,
                // Removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(fail("stat", name, error)),
            }
            name.truncate(length);
        }
        Ok(())
    }

    /// An empty file that says something about others.
    fn marker(&mut self, directory: &[u8], name: &[u8]) -> Result<(), Failure> {
        let entry = Entry {
            name: [directory, b"/", name].concat(),
            kind: kind::FILE,
            ..Entry::default()
        };
        self.entry(&entry)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.header.clear();
        entry.encode(&mut self.header);
        self.output.push(&self.header)
    }
}

fn open(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    openat(directory, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::string::String;

    /// What tar(1) reads out of an archive of `path`.
    fn listed(path: &str, name: Option<&[u8]>) -> String {
        let mut tar = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--file=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = tar.stdin.take().unwrap();
        let mut output = Output::new(stdin.as_fd());
        pack(path.as_bytes(), name, &mut output).unwrap();
        output.flush().unwrap();
        drop(stdin);
        let mut text = String::new();
        tar.stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(tar.wait().unwrap().success());
        text
    }

    #[test]
    fn tar_reads_what_was_packed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("it");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), alloc::vec![b'x'; 100_000]).unwrap();
        fs::hard_link(root.join("sub/file"), root.join("zz")).unwrap();
        std::os::unix::fs::symlink("sub/file", root.join("link")).unwrap();
        let long = "n".repeat(200);
        fs::write(root.join(&long), "").unwrap();
        let path = root.to_str().unwrap();
        let text = listed(path, None);
        let has = |line: &str| assert!(text.contains(line), "{line} in\n{text}");
        has(" it/\n");
        has(" it/sub/\n");
        has(" 100000 ");
        has(" it/link -> sub/file\n");
        has(" it/zz link to it/sub/file\n");
        has(&std::format!(" it/{long}\n"));
        assert!(listed(&std::format!("{path}/."), None).contains(" ./sub/file\n"));
        assert!(listed(path, Some(b"other")).contains(" other/sub/file\n"));
        let link = std::format!("{path}/link");
        assert!(listed(&link, None).contains(" link -> sub/file\n"));
        std::os::unix::fs::symlink("sub", root.join("to-sub")).unwrap();
        assert!(listed(&std::format!("{path}/to-sub/"), None).contains(" to-sub/file\n"));
    }

    #[test]
    fn what_was_removed_is_in_a_layers_archive_by_its_markers() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), "x").unwrap();
        let made = Command::new("mknod")
            .args(["gone", "c", "0", "0"])
            .current_dir(root.join("sub"))
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return std::eprintln!("skipped: no right to make devices");
        }
        let (mut reader, writer) = std::io::pipe().unwrap();
        let directory = fs::File::open(root).unwrap();
        let mut output = Output::new(writer.as_fd());
        pack_upper(directory.as_fd(), &mut output).unwrap();
        output.flush().unwrap();
        drop(writer);
        let mut archive = Vec::new();
        reader.read_to_end(&mut archive).unwrap();
        let names: Vec<&[u8]> = archive
            .chunks(BLOCK)
            .filter(|block| block.get(257..262) == Some(b"ustar"))
            .map(|block| block.split(|byte| *byte == 0).next().unwrap())
            .collect();
        assert_eq!(names, [&b"./sub/"[..], b"./sub/file", b"./sub/.wh.gone"]);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let null = fs::File::options().write(true).open("/dev/null").unwrap();
        let mut output = Output::new(null.as_fd());
        let failure = pack(b"/no/such", None, &mut output).unwrap_err();
        assert_eq!(failure.code, crate::NOT_FOUND);
        assert_eq!(
            failure.message,
            "cannot read /no/such: no such file or directory"
        );
    }
}
