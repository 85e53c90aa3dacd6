//! The root file system: the image's layers, the writable layer, and what every Linux program expects to find mounted.

mod files;

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt::Display;

use guest_protocol::{GuestConfig, ImageDisk, Mount, SHARES_TAG, SharedMount};

use crate::failure::{Context, Failure};
use crate::network;
use crate::sys::mount::Tree;
use crate::sys::{Errno, Fd, file, mount, process, time};

const NOSUID: u64 = libc::MS_NOSUID;
const NODEV: u64 = libc::MS_NODEV;
const NOEXEC: u64 = libc::MS_NOEXEC;

/// The instance's writes, to be brought to rest when it has ended.
#[derive(Default)]
pub(crate) struct Root {
    /// The root directory of the writable disk's file system, if there is one.
    writable: Option<Fd>,
}

impl Root {
    /// The directory that holds the instance's writes as overlay keeps them. The process's own root hides it.
    pub(crate) fn upper(&self) -> Result<Fd, Failure> {
        let Some(writable) = &self.writable else {
            return Err(Failure::config("the instance has no writable disk"));
        };
        file::open_directory_in(writable, c"upper").or_fail(|| "open the overlay's upper directory")
    }

    /// Makes the writes durable. Freezing writes everything back, commits and closes the journal, flushes the disk, and leaves
    /// a clean file system, as an unmount would, and needs no unmount of what is still in use.
    pub(crate) fn settle(&self) {
        if let Some(writable) = &self.writable
            && file::freeze(writable).is_err()
        {
            process::sync();
        }
    }
}

/// Builds the root file system and makes it the agent's own.
pub(crate) fn prepare(config: &GuestConfig) -> Result<Root, Failure> {
    if config.realtime_ns != 0 {
        time::set_realtime(config.realtime_ns).or_fail(|| "set the clock")?;
    }
    if !config.entropy.is_empty() {
        let random = file::open(c"/dev/random", libc::O_RDONLY).or_fail(|| "open /dev/random")?;
        file::add_entropy(&random, &config.entropy).or_fail(|| "add entropy")?;
        file::reseed(&random).or_fail(|| "have the random numbers begin anew")?;
    }
    find_late_devices(&config.late_devices)?;
    let writable = mount_writable(config.writable.as_deref())?;
    let lower = mount_layers(&config.image)?;
    mount_overlay(&lower)?;
    let trees = open_shares(&config.shares)?;
    let made = files::make_files(&config.files)?;
    switch_root()?;
    mount_defaults(config.shm_bytes)?;
    mount_all(config, &trees)?;
    files::lay_files(config, &made)?;
    process::set_hostname(&config.hostname)
        .or_fail(|| format!("set the host name {:?}", config.hostname))?;
    network::set_up(&config.networks)?;
    Ok(Root { writable })
}

/// Makes the root file system read-only, once everything that is made in it has been.
pub(crate) fn make_read_only() -> Result<(), Failure> {
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
    mount::mount(c"", c"/", c"", flags, c"").or_fail(|| "make the root file system read-only")
}

/// Has the kernel look again where there was no device when it booted; drivers have bound to what is there when this returns.
fn find_late_devices(places: &[String]) -> Result<(), Failure> {
    if places.is_empty() {
        return Ok(());
    }
    match mount_making(c"sysfs", c"/sys", c"sysfs", 0, c"") {
        Ok(()) | Err(Errno(libc::EBUSY)) => {}
        Err(errno) => return Err(Failure::system("mount sysfs on /sys", errno)),
    }
    let probe = file::open(c"/sys/bus/platform/drivers_probe", libc::O_WRONLY)
        .or_fail(|| "have the kernel look for devices")?;
    for place in places {
        // EINVAL is what the kernel says when no driver takes what it finds there.
        file::write(&probe, place.as_bytes())
            .or_fail(|| format!("have the kernel find the device in the place {place}"))?;
    }
    Ok(())
}

/// Mounts what takes the writes on /write.
fn mount_writable(device: Option<&str>) -> Result<Option<Fd>, Failure> {
    let Some(device) = device else {
        mount::mount(c"tmpfs", c"/write", c"tmpfs", 0, c"mode=755").or_fail(|| "mount tmpfs")?;
        make_upper()?;
        return Ok(None);
    };
    let mounted = mount::mount(&c_string(device)?, c"/write", c"ext4", 0, c"");
    driven(mounted, "EXT4_FS", || {
        format!("mount the writable disk {device} as ext4")
    })?;
    let directory = file::open(c"/write", libc::O_RDONLY | libc::O_DIRECTORY)
        .or_fail(|| "open the writable disk's root directory")?;
    Ok(Some(directory))
}

fn make_upper() -> Result<(), Failure> {
    for path in [c"/write/upper", c"/write/work"] {
        match file::make_directory(path, 0o755) {
            Ok(()) | Err(Errno(libc::EEXIST)) => {}
            Err(errno) => return Err(Failure::system("make the overlay's upper directory", errno)),
        }
    }
    Ok(())
}

/// Mounts the layers, and gives overlay's list of them.
///
/// A single layer is the whole disk. Several are parts of it, made into partitions by BLKPG: so any number of layers is one
/// virtio device, and 127 of them need neither a partition table nor more than the eight devices that QEMU's microvm has.
fn mount_layers(image: &ImageDisk) -> Result<String, Failure> {
    let device_path = c_string(&image.device)?;
    if let [_] = image.layers.as_slice() {
        mount_layer(&device_path, c"/image", 0, &image.device)?;
        return Ok(String::from("/image"));
    }
    if image.layers.is_empty() {
        return Err(Failure::config("the image has no layers"));
    }
    let device =
        file::open(&device_path, libc::O_RDONLY).or_fail(|| format!("open {}", image.device))?;
    let mut lower = String::new();
    for (number, layer) in (1i32..).zip(&image.layers) {
        let (Ok(offset), Ok(length)) = (i64::try_from(layer.offset), i64::try_from(layer.length))
        else {
            return Err(Failure::config("a layer lies beyond any disk"));
        };
        file::add_partition(&device, number, offset, length).or_fail(|| {
            format!(
                "make bytes {offset}+{length} of {} a partition",
                image.device
            )
        })?;
        let target = format!("/image/{number}");
        let target_path = c_string(&target)?;
        file::make_directory(&target_path, 0o755).or_fail(|| format!("make {target}"))?;
        let part = format!("{}{number}", image.device);
        mount_layer(&c_string(&part)?, &target_path, offset, &image.device)?;
        if !lower.is_empty() {
            lower.push(':');
        }
        lower.push_str(&target);
    }
    Ok(lower)
}

fn mount_layer(device: &CStr, target: &CStr, offset: i64, disk: &str) -> Result<(), Failure> {
    let mounted = mount::mount(device, target, c"erofs", libc::MS_RDONLY, c"");
    driven(mounted, "EROFS_FS", || {
        format!("mount the layer at byte {offset} of {disk} as EROFS")
    })
}

/// The same options as the container backend's overlay: what is on the writable disk can be read by either.
fn mount_overlay(lower: &str) -> Result<(), Failure> {
    let options = format!(
        "lowerdir={lower},upperdir=/write/upper,workdir=/write/work,index=off,metacopy=off"
    );
    let options = c_string(&options)?;
    let overlay = || mount::mount(c"overlay", c"/root", c"overlay", 0, &options);
    let mounted = match overlay() {
        // A disk that has never been used lacks the two directories.
        Err(Errno(libc::ENOENT)) => {
            make_upper()?;
            overlay()
        }
        other => other,
    };
    driven(
        mounted,
        "OVERLAY_FS",
        || "mount the overlay of the image's layers",
    )
}

/// Says what a kernel lacks that does not know a kind of file system. The host has refused it already if it could be known.
fn driven<D: Display>(
    mounted: Result<(), Errno>,
    option: &str,
    what: impl FnOnce() -> D,
) -> Result<(), Failure> {
    match mounted {
        Err(Errno(libc::ENODEV)) => Err(Failure::config(format!(
            "the guest's kernel has no CONFIG_{option}"
        ))),
        other => other.or_fail(what),
    }
}

/// Makes /root the root directory. An initial RAM disk cannot be pivoted away from, only mounted over.
fn switch_root() -> Result<(), Failure> {
    mount::change_directory(c"/root")
        .and_then(|()| mount::mount(c".", c"/", c"", libc::MS_MOVE, c""))
        .and_then(|()| mount::change_root(c"."))
        .or_fail(|| "make the image the root directory")
}

/// What docker mounts for a container, with the same options; /proc is the process's own to mount, since it shows the PID
/// namespace of whoever mounts it. Nothing is masked or read-only: the kernel below is the instance's alone.
fn mount_defaults(shm_bytes: u64) -> Result<(), Failure> {
    let closed = NOSUID | NODEV | NOEXEC;
    make_devices()?;
    must(
        c"devpts",
        c"/dev/pts",
        NOSUID | NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    let size = c_string(&format!("mode=1777,size={shm_bytes}"))?;
    must(c"tmpfs", c"/dev/shm", closed, &size)?;
    may(c"mqueue", c"/dev/mqueue", closed)?;
    must(c"sysfs", c"/sys", closed, c"")?;
    may(c"cgroup2", c"/sys/fs/cgroup", closed)
}

/// Mounts what a kernel must have.
fn must(filesystem: &CStr, target: &CStr, flags: u64, data: &CStr) -> Result<(), Failure> {
    mount_making(filesystem, target, filesystem, flags, data).or_fail(|| {
        format!(
            "mount {} on {}",
            filesystem.to_string_lossy(),
            target.to_string_lossy()
        )
    })
}

/// Mounts what a kernel may be built without.
fn may(filesystem: &CStr, target: &CStr, flags: u64) -> Result<(), Failure> {
    match mount_making(filesystem, target, filesystem, flags, c"") {
        Ok(()) | Err(Errno(libc::ENODEV | libc::ENOENT)) => Ok(()),
        Err(errno) => Err(Failure::system(
            format!(
                "mount {} on {}",
                filesystem.to_string_lossy(),
                target.to_string_lossy()
            ),
            errno,
        )),
    }
}

/// Mounts, and makes the directory to mount on when it is missing.
pub(crate) fn mount_making(
    source: &CStr,
    target: &CStr,
    filesystem: &CStr,
    flags: u64,
    data: &CStr,
) -> Result<(), Errno> {
    match mount::mount(source, target, filesystem, flags, data) {
        Err(Errno(libc::ENOENT)) => {
            make_directories(target)?;
            mount::mount(source, target, filesystem, flags, data)
        }
        other => other,
    }
}

/// The devices and links that docker's /dev has.
fn make_devices() -> Result<(), Failure> {
    /// Name, major and minor number: Linux's Documentation/admin-guide/devices.txt.
    const DEVICES: [(&CStr, u32, u32); 6] = [
        (c"/dev/null", 1, 3),
        (c"/dev/zero", 1, 5),
        (c"/dev/full", 1, 7),
        (c"/dev/random", 1, 8),
        (c"/dev/urandom", 1, 9),
        (c"/dev/tty", 5, 0),
    ];
    const LINKS: [(&CStr, &CStr); 6] = [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
        (c"/proc/kcore", c"/dev/core"),
        (c"pts/ptmx", c"/dev/ptmx"),
    ];
    must(
        c"tmpfs",
        c"/dev",
        NOSUID | libc::MS_STRICTATIME,
        c"mode=755,size=65536k",
    )?;
    let make = || {
        for (path, major, minor) in DEVICES {
            file::make_device(path, 0o666, major, minor)?;
        }
        for (target, path) in LINKS {
            file::make_symlink(target, path)?;
        }
        for path in [c"/dev/pts", c"/dev/shm", c"/dev/mqueue"] {
            file::make_directory(path, 0o755)?;
        }
        Ok(())
    };
    make().or_fail(|| "fill /dev")
}

fn mount_one(wanted: &Mount) -> Result<(), Failure> {
    let target = absolute(&wanted.target)?;
    mount_making(
        &c_string(&wanted.source)?,
        &target,
        &c_string(&wanted.filesystem)?,
        wanted.flags,
        &c_string(&wanted.data)?,
    )
    .or_fail(|| format!("mount {} on {}", wanted.filesystem, wanted.target))
}

/// Takes hold of what the host shares: one file system, of which each share is a mount of its own.
fn open_shares(shares: &[SharedMount]) -> Result<Vec<Tree>, Failure> {
    if shares.is_empty() {
        return Ok(Vec::new());
    }
    file::make_directory(c"/shares", 0o755).or_fail(|| "make /shares")?;
    let mounted = mount::mount(&c_string(SHARES_TAG)?, c"/shares", c"virtiofs", 0, c"");
    driven(mounted, "VIRTIO_FS", || "mount what the host shares")?;
    let open = |share: &SharedMount| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if share.name.is_empty() || !share.name.bytes().all(plain) {
            return Err(Failure::config(format!(
                "{:?} is no name of a share",
                share.name
            )));
        }
        let path = c_string(&format!("/shares/{}", share.name))?;
        let tree = Tree::of_path(&path).and_then(|tree| {
            if share.read_only {
                tree.make_read_only()?;
            }
            Ok(tree)
        });
        tree.or_fail(|| format!("take the share {}", share.name))
    };
    shares.iter().map(open).collect()
}

/// Something to mount.
enum Mounted<'a> {
    Other(&'a Mount),
    Share(&'a SharedMount, &'a Tree),
}

impl Mounted<'_> {
    /// How many components its target has.
    fn depth(&self) -> usize {
        let target = match self {
            Self::Other(mount) => &mount.target,
            Self::Share(share, _) => &share.target,
        };
        target.split('/').filter(|part| !part.is_empty()).count()
    }
}

/// Mounts what is to be mounted, what is nearer to the root first.
fn mount_all(config: &GuestConfig, trees: &[Tree]) -> Result<(), Failure> {
    let others = config.mounts.iter().map(Mounted::Other);
    let shares = config.shares.iter().zip(trees);
    let mut all: Vec<Mounted<'_>> = others
        .chain(shares.map(|(share, tree)| Mounted::Share(share, tree)))
        .collect();
    all.sort_by_key(Mounted::depth);
    all.iter().try_for_each(|mounted| match mounted {
        Mounted::Other(mount) => mount_one(mount),
        Mounted::Share(share, tree) => attach(share, tree),
    })
}

/// Puts a share in its place.
fn attach(share: &SharedMount, tree: &Tree) -> Result<(), Failure> {
    let target = absolute(&share.target)?;
    let attach = || match tree.attach(&target, true) {
        Err(Errno(libc::ENOENT)) => {
            if tree.is_directory()? {
                make_directories(&target)?;
            } else {
                make_empty_file(&target)?;
            }
            tree.attach(&target, true)
        }
        other => other,
    };
    attach().or_fail(|| format!("mount the share {} on {}", share.name, share.target))
}

/// Makes a file to mount on, and the directories above it.
fn make_empty_file(path: &CStr) -> Result<(), Errno> {
    if let Some(parent) = parent(path) {
        make_directories(&parent)?;
    }
    file::create(path, libc::O_WRONLY | libc::O_CREAT, 0o644).map(drop)
}

/// Makes a directory and those above it; what exists is no error.
pub(crate) fn make_directories(path: &CStr) -> Result<(), Errno> {
    let bytes = path.to_bytes();
    let mut outcome = Ok(());
    for end in 1..=bytes.len() {
        if bytes.get(end).is_none_or(|byte| *byte == b'/') {
            let part = c_bytes(bytes.get(..end).unwrap_or_default())?;
            outcome = file::make_directory(&part, 0o755);
        }
    }
    match outcome {
        Err(Errno(libc::EEXIST)) => Ok(()),
        other => other,
    }
}

pub(crate) fn c_bytes(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno(libc::EINVAL))
}

fn parent(path: &CStr) -> Option<CString> {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/')?;
    CString::new(bytes.get(..end)?)
        .ok()
        .filter(|parent| !parent.is_empty())
}

/// An absolute path for a system call.
pub(crate) fn absolute(path: &str) -> Result<CString, Failure> {
    if !path.starts_with('/') {
        return Err(Failure::config(format!(
            "the path {path:?} is not absolute"
        )));
    }
    c_string(path)
}

pub(crate) fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(Vec::from(text))
        .map_err(|_| Failure::config(format!("{text:?} holds a zero byte")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn every_missing_directory_of_a_path_is_made() {
        let base = std::env::temp_dir().join(format!("plimsoll-agent-{}", std::process::id()));
        let deep = base.join("a//b/c/");
        let path = CString::new(deep.as_os_str().as_bytes()).unwrap();
        make_directories(&path).unwrap();
        make_directories(&path).unwrap();
        assert!(base.join("a/b/c").is_dir());
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_file_in_the_way_of_a_directory_is_an_error() {
        assert_eq!(
            make_directories(c"/proc/version/x"),
            Err(Errno(libc::ENOTDIR))
        );
    }

    #[test]
    fn a_relative_path_and_a_zero_byte_are_refused() {
        assert!(absolute("etc").is_err());
        assert!(absolute("/etc\0").is_err());
        assert_eq!(absolute("/etc").unwrap().as_c_str(), c"/etc");
    }

    #[test]
    fn the_parent_of_a_file_in_the_root_is_nothing_to_make() {
        assert_eq!(parent(c"/hosts"), None);
        assert_eq!(parent(c"/etc/hosts").as_deref(), Some(c"/etc"));
    }
}
