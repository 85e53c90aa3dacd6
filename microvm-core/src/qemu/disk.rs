//! The disks, as QEMU takes them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use serde_json::{Value, json};

use crate::{Error, Result, VmConfig};

use super::arguments::Passed;

/// Bytes in a disk's sector, as virtio and VMDK count them.
const SECTOR: u64 = 512;

/// The disks in the order in which the guest names them: QEMU's description of each, for `-blockdev`.
pub(super) fn open(config: &VmConfig, passed: &mut Passed) -> Result<Vec<Value>> {
    let mut disks = Vec::new();
    match config.image_disk.as_slice() {
        [] => {}
        [one] => {
            let (file, _) = open_disk(one, false)?;
            disks.push(
                json!({"driver": "raw", "read-only": true, "file": passed.shared(file, true)}),
            );
        }
        several => disks.push(concatenated(several, passed)?),
    }
    if let Some(path) = &config.writable_disk {
        let (file, _) = open_disk(path, true)?;
        // Space that the guest gives back becomes a hole in the file again.
        disks
            .push(json!({"driver": "raw", "discard": "unmap", "file": passed.shared(file, false)}));
    }
    Ok(disks)
}

/// Several files as one disk. QEMU has no driver that joins files but VMDK's, whose descriptor is a list of flat extents.
fn concatenated(paths: &[std::path::PathBuf], passed: &mut Passed) -> Result<Value> {
    let mut extents = Vec::new();
    for path in paths {
        let (file, sectors) = open_disk(path, false)?;
        extents.push((sectors, passed.name_shared(file)));
    }
    let descriptor = in_memory(&descriptor(&extents))?;
    Ok(json!({
        "driver": "vmdk",
        "read-only": true,
        "file": passed.shared(descriptor, true),
    }))
}

/// A VMDK descriptor. The extents are called writable, since QEMU passes over those that are not; neither the disk nor the
/// descriptors behind the names are. No line is empty: QEMU would read the extent after it twice.
fn descriptor(extents: &[(u64, String)]) -> String {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n",
    );
    for (sectors, name) in extents {
        text.push_str(&format!("RW {sectors} FLAT \"{name}\" 0\n"));
    }
    // The geometry is for an operating system that asks for it; none does.
    text.push_str("ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"1\"\nddb.geometry.heads = \"16\"\n");
    text.push_str("ddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n");
    text
}

/// A file of these contents that is nowhere, open for reading.
fn in_memory(contents: &str) -> Result<File> {
    let failed = || Error::system("make a file in memory");
    // SAFETY: the name ends in a zero byte.
    let fd = unsafe { libc::memfd_create(c"plimsoll-vmdk".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(failed()(std::io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(contents.as_bytes()).map_err(failed())?;
    // QEMU takes a passed descriptor only for exactly the access it was opened for.
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed())
}

/// Opens a disk's file, and gives its size in sectors.
fn open_disk(path: &Path, write: bool) -> Result<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .map_err(|source| Error::File {
            path: path.to_owned(),
            what: "cannot open the disk",
            source,
        })?;
    let about = file.metadata().map_err(|source| Error::File {
        path: path.to_owned(),
        what: "cannot read the disk",
        source,
    })?;
    let refuse = |why: String| Error::Disk {
        path: path.to_owned(),
        why,
    };
    if !about.is_file() {
        return Err(refuse("is no regular file, so it is no disk".to_owned()));
    }
    let bytes = about.len();
    if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
        return Err(refuse(format!(
            "has {bytes} bytes, which is no whole number of {SECTOR}-byte sectors"
        )));
    }
    Ok((file, bytes / SECTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_stand_in_the_descriptor_in_their_order() {
        let text = descriptor(&[(8, "/dev/fdset/3".into()), (16, "/dev/fdset/4".into())]);
        assert!(text.lines().all(|line| !line.is_empty()));
        let extents: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("RW "))
            .collect();
        assert_eq!(
            extents,
            [
                "RW 8 FLAT \"/dev/fdset/3\" 0",
                "RW 16 FLAT \"/dev/fdset/4\" 0"
            ]
        );
    }

    #[test]
    fn what_is_no_disk_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("odd");
        std::fs::write(&odd, [0; 513]).unwrap();
        let error = open_disk(&odd, false).unwrap_err().to_string();
        assert!(error.contains("odd") && error.contains("513"), "{error}");
        let error = open_disk(folder.path(), false).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
        assert!(open_disk(&folder.path().join("none"), true).is_err());
    }
}
