//! The writable disk of an instance: a blank ext4 file system in a sparse file.
//!
//! Making a file system takes mkfs.ext4 tens of milliseconds, so it is made once, as a template, and copied. Nearly all of
//! it is holes: the copy is some hundred kilobytes, or nothing where the host's file system shares extents.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// How large a writable disk looks to its instance unless told otherwise: docker's default for drivers that have a limit.
/// It takes what is written to it.
pub const DEFAULT_BYTES: u64 = 10 << 30;

/// The smallest disk that can be asked for: room for a journal and something to write.
pub const LEAST_BYTES: u64 = 16 << 20;

/// Part of a template's name, to be raised when [`OPTIONS`] or what a template holds changes.
const RECIPE: u32 = 1;

/// How the file system is made. Nothing is left for the guest to initialize; metadata lie together, so that few extents are
/// copied and few blocks read at a mount; nothing is reserved for root, who is the usual user; it never grows.
const OPTIONS: [&str; 9] = [
    "-q",
    "-F",
    "-b",
    "4096",
    "-m",
    "0",
    "-O",
    "^resize_inode",
    // A new file's holes are zeros already, so the journal needs none written.
    "-Elazy_itable_init=0,lazy_journal_init=1,packed_meta_blocks=1,root_owner=0:0",
];

/// Where mkfs.ext4 may be besides PATH, which lacks the sbin directories for users other than root.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Makes `path` a disk of `bytes` bytes with a blank ext4 file system, by copying a template that is kept in the directory
/// `templates` (and made there the first time). The file system holds the two directories that the overlay needs.
///
/// # Errors
/// When `path` exists, the size is out of bounds or no multiple of 4096, mkfs.ext4 is missing or fails, or a file cannot be
/// written. Then nothing is left at `path`.
pub fn blank_ext4(templates: &Path, path: &Path, bytes: u64) -> Result<()> {
    if bytes < LEAST_BYTES || !bytes.is_multiple_of(4096) {
        return Err(Error::Disk {
            path: path.to_owned(),
            why: format!(
                "cannot have {bytes} bytes: at least {LEAST_BYTES}, and a multiple of 4096"
            ),
        });
    }
    let template = templates.join(format!("blank-{bytes}-v{RECIPE}.ext4"));
    let source = match File::open(&template) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_template(templates, &template, bytes)?
        }
        Err(error) => {
            return Err(file_error(&template, "cannot open the template of a disk")(
                error,
            ));
        }
    };
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(file_error(path, "cannot make the writable disk"))?;
    copy_sparse(&source, &target).map_err(|error| {
        let _ = fs::remove_file(path);
        file_error(path, "cannot write the writable disk")(error)
    })
}

/// Makes the template under another name, and gives it its name when it is whole.
fn make_template(templates: &Path, template: &Path, bytes: u64) -> Result<File> {
    let failed = || file_error(template, "cannot make the template of a disk");
    fs::create_dir_all(templates).map_err(failed())?;
    let making = Making::begin(template).map_err(failed())?;
    File::create_new(&making.file)
        .and_then(|file| file.set_len(bytes))
        .map_err(failed())?;
    for directory in ["upper", "work"] {
        fs::create_dir(making.contents.join(directory)).map_err(failed())?;
    }
    let program = mkfs().ok_or_else(|| Error::Disk {
        path: template.to_owned(),
        why: "cannot be made without mkfs.ext4: install the package e2fsprogs".to_owned(),
    })?;
    let output = Command::new(program)
        .args(OPTIONS)
        .arg("-d")
        .args([&making.contents, &making.file])
        .stdin(Stdio::null())
        .output()
        .map_err(failed())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Disk {
            path: template.to_owned(),
            why: format!(
                "cannot be made: mkfs.ext4: {}",
                said.trim().replace('\n', "; ")
            ),
        });
    }
    let file = File::open(&making.file).map_err(failed())?;
    fs::rename(&making.file, template).map_err(failed())?;
    Ok(file)
}

/// A template in the making; what is left of it goes when this does.
struct Making {
    file: PathBuf,
    contents: PathBuf,
}

impl Making {
    fn begin(template: &Path) -> io::Result<Self> {
        let beside = |suffix: &str| {
            let mut name = OsString::from(template);
            name.push(format!(".{}{suffix}", std::process::id()));
            PathBuf::from(name)
        };
        let making = Self {
            file: beside(".tmp"),
            contents: beside(".contents"),
        };
        // A process of the same number may have died here.
        making.clear();
        fs::create_dir(&making.contents)?;
        Ok(making)
    }

    fn clear(&self) {
        let _ = fs::remove_file(&self.file);
        let _ = fs::remove_dir_all(&self.contents);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.clear();
    }
}

fn mkfs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SBIN.map(PathBuf::from))
        .map(|directory| directory.join("mkfs.ext4"))
        .find(|program| program.is_file())
}

fn file_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, what, source }
}

/// Copies a file's data and leaves its holes; where the file system can, shares the data instead.
fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    /// FICLONE, _IOW(0x94, 9, int): linux/fs.h.
    const FICLONE: libc::c_ulong = 0x4004_9409;
    // SAFETY: FICLONE takes a descriptor, a number.
    if unsafe { libc::ioctl(target.as_raw_fd(), FICLONE, source.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0i64;
    while let Some(start) = seek(source, at, libc::SEEK_DATA)? {
        let end = seek(source, start, libc::SEEK_HOLE)?
            .unwrap_or(i64::try_from(length).unwrap_or(i64::MAX));
        copy_range(source, target, start, end)?;
        at = end;
    }
    Ok(())
}

/// Where the next data or the next hole begins; `None` beyond the last.
fn seek(file: &File, at: i64, whence: i32) -> io::Result<Option<i64>> {
    // SAFETY: lseek takes numbers.
    match unsafe { libc::lseek(file.as_raw_fd(), at, whence) } {
        found if found >= 0 => Ok(Some(found)),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

fn copy_range(source: &File, target: &File, mut start: i64, end: i64) -> io::Result<()> {
    let mut to = start;
    while start < end {
        let left = usize::try_from(end - start).unwrap_or(usize::MAX);
        // SAFETY: both offsets are valid for the kernel to read and advance.
        let copied = unsafe {
            libc::copy_file_range(
                source.as_raw_fd(),
                &mut start,
                target.as_raw_fd(),
                &mut to,
                left,
                0,
            )
        };
        match copied {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if count > 0 => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_blank_disk_is_a_clean_sparse_ext4_and_comes_from_one_template() {
        if mkfs().is_none() {
            return eprintln!("skipped: mkfs.ext4 is not installed");
        }
        let folder = tempfile::tempdir().unwrap();
        let templates = folder.path().join("templates");
        for name in ["one", "two"] {
            let disk = folder.path().join(name);
            blank_ext4(&templates, &disk, DEFAULT_BYTES).unwrap();
            let about = fs::metadata(&disk).unwrap();
            assert_eq!(about.len(), DEFAULT_BYTES);
            // Blocks of 512 bytes.
            assert!(about.blocks() * 512 < 4 << 20, "{} blocks", about.blocks());
            let check = Command::new("e2fsck")
                .args(["-f", "-n"])
                .arg(&disk)
                .output()
                .unwrap();
            assert!(
                check.status.success(),
                "{}",
                String::from_utf8_lossy(&check.stdout)
            );
        }
        assert_eq!(
            fs::read_dir(&templates).unwrap().count(),
            1,
            "one template and nothing else"
        );
    }

    #[test]
    fn a_disk_that_exists_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        fs::write(&disk, "precious").unwrap();
        assert!(blank_ext4(folder.path(), &disk, LEAST_BYTES).is_err());
        assert_eq!(fs::read(&disk).unwrap(), b"precious");
    }

    #[test]
    fn a_size_that_cannot_be_is_refused() {
        for bytes in [0, LEAST_BYTES - 4096, LEAST_BYTES + 1] {
            assert!(blank_ext4(Path::new("/nowhere"), Path::new("/nowhere/disk"), bytes).is_err());
        }
    }
}
