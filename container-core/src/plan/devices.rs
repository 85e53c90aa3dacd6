//! The device nodes of a container.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::c_string;
use super::mounts::Inside;
use crate::error::{Error, Result};

/// A device node to be made.
#[derive(Debug)]
pub(crate) struct DevicePlan {
    pub(crate) target: Inside,
    /// The node's last path component and its directory, both below the root.
    pub(crate) mode: u32,
    pub(crate) device: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The host's node of the same path, bound where a node may not be made (in a user namespace).
    pub(crate) host: Option<std::ffi::CString>,
}

/// A device every container has (OCI runtime specification, config-linux.md, "Default Devices").
pub(crate) struct DefaultDevice {
    pub(crate) name: &'static std::ffi::CStr,
    pub(crate) host: &'static std::ffi::CStr,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// The default devices, named below /dev; the numbers are those of the kernel's admin-guide/devices.txt.
pub(crate) const DEFAULT_DEVICES: &[DefaultDevice] = &[
    DefaultDevice {
        name: c"null",
        host: c"/dev/null",
        major: 1,
        minor: 3,
    },
    DefaultDevice {
        name: c"zero",
        host: c"/dev/zero",
        major: 1,
        minor: 5,
    },
    DefaultDevice {
        name: c"full",
        host: c"/dev/full",
        major: 1,
        minor: 7,
    },
    DefaultDevice {
        name: c"random",
        host: c"/dev/random",
        major: 1,
        minor: 8,
    },
    DefaultDevice {
        name: c"urandom",
        host: c"/dev/urandom",
        major: 1,
        minor: 9,
    },
    DefaultDevice {
        name: c"tty",
        host: c"/dev/tty",
        major: 5,
        minor: 0,
    },
];

/// The links every container has in /dev: name, and where it leads.
pub(crate) const DEFAULT_LINKS: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"core", c"/proc/kcore"),
    (c"ptmx", c"pts/ptmx"),
];

/// Takes the devices of a specification apart.
pub(crate) fn plan<'a>(
    devices: impl Iterator<Item = &'a LinuxDevice>,
    bind: bool,
) -> Result<Vec<DevicePlan>> {
    devices
        .enumerate()
        .map(|(index, device)| {
            let field = format!("linux.devices[{index}]");
            let path: &Path = device.path();
            let kind = match device.typ() {
                LinuxDeviceType::B => libc::S_IFBLK,
                LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
                LinuxDeviceType::P => libc::S_IFIFO,
                LinuxDeviceType::A => {
                    return Err(Error::invalid(
                        format!("{field}.type"),
                        "a device is one of b, c, u and p",
                    ));
                }
            };
            let number = |name: &str, value: i64| {
                u32::try_from(value).map_err(|_| {
                    Error::invalid(
                        format!("{field}.{name}"),
                        format!("{value} is no device number"),
                    )
                })
            };
            let device_number = if kind == libc::S_IFIFO {
                0
            } else {
                libc::makedev(
                    number("major", device.major())?,
                    number("minor", device.minor())?,
                )
            };
            let target = Inside::new(&format!("{field}.path"), path)?;
            if target.path.as_bytes() == b"." {
                return Err(Error::invalid(format!("{field}.path"), "must name a file"));
            }
            Ok(DevicePlan {
                host: if bind {
                    Some(c_string(&field, path.as_os_str().as_encoded_bytes())?)
                } else {
                    None
                },
                target,
                // runc's default when none is given.
                mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
                device: device_number,
                uid: device.uid().unwrap_or(0),
                gid: device.gid().unwrap_or(0),
            })
        })
        .collect()
}
