//! A VM's files: its writable disk, the initial RAM disk, and a kernel of the user's own.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microvm_core::Accelerator;
use microvm_core::stock::{self, Module, Prepared, Wants};

use crate::error::{Error, Result};
use crate::home::{Home, replace};

/// What an instance can write, bytes: docker's default for drivers that give each container a disk of its own
/// (devicemapper's `dm.basesize`). The file is sparse, so only what is written takes space.
const DISK_BYTES: u64 = 10 << 30;

/// Raised when the options below change, so that a template of another make is not taken.
const TEMPLATE_VERSION: u32 = 2;

/// The initial RAM disk with this program's agent, made when it is first needed.
pub(super) fn initramfs(home: &Home) -> Result<PathBuf> {
    let path = home.vm().join(format!(
        "initramfs-{}.cpio",
        &guest_artifacts::AGENT_SHA256[..16]
    ));
    if !path.exists() {
        replace(&path, &guest_artifacts::initramfs())?;
    }
    Ok(path)
}

/// What a VM boots from whose kernel the user has named: unpacked, and with the modules it takes.
pub(super) fn prepare_kernel(
    home: &Home,
    kernel: &Path,
    accelerator: Accelerator,
    wants: Wants,
) -> Result<Prepared> {
    let initramfs = |modules: &[Module]| {
        let modules = modules.iter();
        guest_artifacts::initramfs_with(
            modules.map(|module| (module.name.as_str(), module.contents.as_slice())),
        )
    };
    Ok(stock::prepare(&stock::Request {
        kernel,
        cache: &home.vm().join("kernels"),
        wants,
        accelerator,
        substrate: microvm_core::substrate(),
        agent: guest_artifacts::AGENT_SHA256,
        initramfs: &initramfs,
    })?)
}

/// Makes a blank ext4 disk at `path`: a sparse copy of a template that mkfs.ext4 makes once.
pub(super) fn make_writable(home: &Home, path: &Path) -> Result<()> {
    let template = home.vm().join(format!("blank-{TEMPLATE_VERSION}.ext4"));
    let source = match File::open(&template) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_template(&template)?;
            File::open(&template)
        }
        other => other,
    }
    .map_err(|e| Error::io("open", &template, e))?;
    copy_sparse(&source, path).map_err(|e| Error::io("create", path, e))
}

fn make_template(template: &Path) -> Result<()> {
    let part = template.with_extension(format!("part-{}", std::process::id()));
    // The two directories that the overlay wants, so that no guest has to make them.
    let tree = template.with_extension(format!("tree-{}", std::process::id()));
    let made = ["", "upper", "work"]
        .iter()
        .map(|name| tree.join(name))
        .try_for_each(|path| {
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))
        })
        .map_err(|e| Error::io("create", &tree, e))
        .and_then(|()| {
            let file = File::create(&part).and_then(|file| file.set_len(DISK_BYTES));
            file.map_err(|e| Error::io("create", &part, e))
        })
        .and_then(|()| mkfs(&part, &tree))
        .and_then(|()| fs::rename(&part, template).map_err(|e| Error::io("create", template, e)));
    // The first failure is the one to tell.
    let _ = fs::remove_dir_all(&tree);
    if made.is_err() {
        let _ = fs::remove_file(&part);
    }
    made
}

fn mkfs(path: &Path, tree: &Path) -> Result<()> {
    let output = Command::new("mkfs.ext4")
        // The file is all zeros, so nothing has to be cleared now, nor later by the guest's kernel behind a
        // measurement's back. No blocks are reserved: root is the only one who writes. No checksums of metadata: what lies
        // below is a file whose host takes care of it, and a guest whose kernel is emulated takes seconds for them.
        .args(["-q", "-F", "-m", "0"])
        .args(["-O", "^metadata_csum,^uninit_bg"])
        .args(["-E", "assume_storage_prezeroed=1,lazy_itable_init=0"])
        .arg("-d")
        .arg(tree)
        .arg(path)
        .stdin(Stdio::null())
        .output();
    let failed = |reason: String| Error::Disk {
        path: path.to_owned(),
        reason,
    };
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(failed(format!(
                "mkfs.ext4 failed: {}",
                words.trim().replace('\n', "; ")
            )))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(failed(
            "mkfs.ext4 is not installed: install the package e2fsprogs".into(),
        )),
        Err(e) => Err(failed(format!("cannot run mkfs.ext4: {e}"))),
    }
}

/// Copies the parts of a file that hold data, and leaves the holes as holes.
fn copy_sparse(source: &File, path: &Path) -> io::Result<()> {
    let copy = File::create_new(path)?;
    let length = source.metadata()?.len();
    copy.set_len(length)?;
    let mut position = 0;
    while let Some(data) = seek(source, position, libc::SEEK_DATA)? {
        let hole = seek(source, data, libc::SEEK_HOLE)?.unwrap_or(length);
        copy_range(source, &copy, data, hole)?;
        position = hole;
    }
    Ok(())
}

/// The next byte of that kind at or after `from`; `None` behind the last.
fn seek(file: &File, from: u64, kind: i32) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(io::Error::other)?;
    // SAFETY: lseek(2) moves the file's position, which nothing here relies on, and touches no memory.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, kind) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) {
        Ok(None)
    } else {
        Err(error)
    }
}

fn copy_range(source: &File, copy: &File, from: u64, to: u64) -> io::Result<()> {
    let (mut input, mut output) = (from as i64, from as i64);
    let mut left = usize::try_from(to - from).map_err(io::Error::other)?;
    while left > 0 {
        // SAFETY: both offsets live through the call, and the kernel writes only to them and to the copy's file.
        let count = unsafe {
            libc::copy_file_range(
                source.as_raw_fd(),
                &mut input,
                copy.as_raw_fd(),
                &mut output,
                left,
                0,
            )
        };
        match usize::try_from(count) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => left -= count,
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_sparse_copy_has_the_same_bytes_and_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let source = File::create_new(folder.path().join("a")).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(b"begin", 0).unwrap();
        source.write_all_at(b"middle", (20 << 20) + 7).unwrap();
        source.write_all_at(b"end", (64 << 20) - 3).unwrap();
        let source = File::open(folder.path().join("a")).unwrap();
        let path = folder.path().join("b");
        copy_sparse(&source, &path).unwrap();
        assert!(fs::read(folder.path().join("a")).unwrap() == fs::read(&path).unwrap());
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
        assert!(
            copy_sparse(&source, &path).is_err(),
            "an instance's disk is never overwritten"
        );
    }

    #[test]
    fn a_blank_disk_is_an_ext4_file_system_and_small() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("state")).unwrap();
        let disk = folder.path().join("disk.ext4");
        make_writable(&home, &disk).unwrap();
        let mut magic = [0; 2];
        // The superblock begins at 1024, its magic number at 0x38 (Documentation/filesystems/ext4/super.rst).
        File::open(&disk)
            .unwrap()
            .read_exact_at(&mut magic, 1024 + 0x38)
            .unwrap();
        assert_eq!(u16::from_le_bytes(magic), 0xef53);
        assert_eq!(fs::metadata(&disk).unwrap().len(), DISK_BYTES);
        assert!(fs::metadata(&disk).unwrap().blocks() * 512 < 16 << 20);
        assert_eq!(
            fs::read_dir(home.vm()).unwrap().count(),
            1,
            "only the template stays"
        );
    }

    #[test]
    fn the_initial_ram_disk_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let path = initramfs(&home).unwrap();
        let made = fs::metadata(&path).unwrap().ino();
        assert_eq!(fs::metadata(initramfs(&home).unwrap()).unwrap().ino(), made);
        assert!(fs::read(path).unwrap().starts_with(b"070701"));
    }
}
