//! What `docker run --privileged` means.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    Capabilities, LinuxCapabilitiesBuilder, LinuxDevice, LinuxDeviceBuilder,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, Spec,
};

use crate::capability;
use crate::error::{Error, Result};
use crate::sys::credentials;

/// Directories of /dev that a container has of its own, or that hold no devices; and files of the same kind.
const NOT_PASSED_ON: [&str; 7] = [
    "/dev/pts",
    "/dev/shm",
    "/dev/fd",
    "/dev/mqueue",
    "/dev/console",
    "/dev/hugepages",
    "/dev/ptmx",
];

/// How deep below /dev devices are looked for.
const DEPTH: usize = 8;

/// Takes every restriction out of a specification: the capabilities that this host's root has itself, all devices of the
/// host, nothing masked or read-only, no filter of system calls. Namespaces and limits stay as they are.
pub fn make_privileged(spec: &mut Spec) -> Result<()> {
    let held = held_capabilities()?;
    if let Some(process) = spec.process_mut() {
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding(held.clone())
            .effective(held.clone())
            .permitted(held)
            .inheritable(Capabilities::new())
            .ambient(Capabilities::new())
            .build()
            .map_err(|error| Error::invalid("process.capabilities", error.to_string()))?;
        process
            .set_capabilities(Some(sets))
            .set_no_new_privileges(Some(false))
            .set_apparmor_profile(None);
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if matches!(mount.typ().as_deref(), Some("sysfs" | "cgroup" | "cgroup2"))
            && let Some(options) = mount.options_mut()
        {
            options.retain(|option| option != "ro");
        }
    }
    let devices = host_devices()?;
    if let Some(linux) = spec.linux_mut() {
        linux
            .set_masked_paths(None)
            .set_readonly_paths(None)
            .set_seccomp(None)
            .set_devices(Some(devices));
        let mut resources = linux.resources().clone().unwrap_or_default();
        let all = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .access("rwm")
            .build()
            .map_err(|error| Error::invalid("linux.resources.devices", error.to_string()))?;
        resources.set_devices(Some(vec![all]));
        linux.set_resources(Some(resources));
    }
    Ok(())
}

/// The capabilities in this process's bounding set.
pub fn held_capabilities() -> Result<Capabilities> {
    let held = credentials::capabilities()
        .map_err(|errno| Error::setup("read this process's capabilities", errno))?;
    Ok(capability::ALL
        .into_iter()
        .filter(|capability| {
            let number = capability::number(*capability);
            held.permitted & capability::bit(number) != 0
                && credentials::is_bounding(number) == Ok(true)
        })
        .collect())
}

/// The device nodes of the host's /dev, for `linux.devices`.
pub fn host_devices() -> Result<Vec<LinuxDevice>> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), DEPTH, &mut found)?;
    found.sort_by(|one, other| one.path().cmp(other.path()));
    Ok(found)
}

fn collect(directory: &Path, depth: usize, found: &mut Vec<LinuxDevice>) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::setup(format!("list {}", directory.display()), error));
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if NOT_PASSED_ON.iter().any(|name| Path::new(name) == path) {
            continue;
        }
        // Of the entry itself: a link is no device. One that has gone meanwhile is none either.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let kind = metadata.file_type();
        let typ = if kind.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
            continue;
        } else if kind.is_char_device() {
            LinuxDeviceType::C
        } else if kind.is_block_device() {
            LinuxDeviceType::B
        } else {
            continue;
        };
        let device = LinuxDeviceBuilder::default()
            .path(path)
            .typ(typ)
            .major(i64::from(libc::major(metadata.rdev())))
            .minor(i64::from(libc::minor(metadata.rdev())))
            .file_mode(metadata.mode() & 0o7777)
            .uid(metadata.uid())
            .gid(metadata.gid())
            .build()
            .map_err(|error| Error::invalid("linux.devices", error.to_string()))?;
        found.push(device);
    }
    Ok(())
}
