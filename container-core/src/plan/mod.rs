//! What the container's process will do, worked out before it exists.
//!
//! The process between `clone3` and `execve` may not allocate (see [`crate::sys`]), so that everything it needs as a
//! string, a list or an open file is made here, and everything in the specification that cannot be honoured is
//! refused here, with the name of the member.

pub(crate) mod devices;
pub(crate) mod mounts;
pub(crate) mod namespaces;
mod placement;
mod prepared;
pub(crate) mod process;
pub(crate) mod rootfs;
mod users;

use std::ffi::{CStr, CString};
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxSeccomp, Mount, Process, Spec};

use self::devices::DevicePlan;
use self::mounts::{Inside, MountPlan};
use self::namespaces::Namespaces;
use self::process::ProcessPlan;
use self::rootfs::RootPlan;
use crate::error::{Error, Result};
use crate::launch::Rootfs;

/// A sysctl: its file below /proc/sys, and its value.
#[derive(Debug)]
pub(crate) struct Sysctl {
    pub(crate) name: String,
    pub(crate) file: CString,
    pub(crate) value: Vec<u8>,
}

/// A path to hide or to make read-only.
#[derive(Debug)]
pub(crate) struct Restricted {
    pub(crate) path: Inside,
    /// It lies on one of the early mounts, and no later one touches it.
    pub(crate) early: bool,
}

/// Everything the container's process does.
pub(crate) struct Plan {
    pub(crate) namespaces: Namespaces,
    pub(crate) root: RootPlan,
    pub(crate) readonly_root: bool,
    /// Propagation of the container's root mount, and whether of everything below.
    pub(crate) propagation: (u64, bool),
    /// Move the root over the old one in place of pivot_root(2).
    pub(crate) no_pivot: bool,
    pub(crate) mounts: Vec<MountPlan>,
    /// The container has a /dev of its own, which gets the default devices and links.
    pub(crate) own_dev: bool,
    pub(crate) devices: Vec<DevicePlan>,
    pub(crate) masked: Vec<Restricted>,
    pub(crate) readonly: Vec<Restricted>,
    /// How many of the mounts, from the first, need nothing of the launcher. 0 when nothing can be done early.
    pub(crate) early_mounts: usize,
    pub(crate) sysctls: Vec<Sysctl>,
    /// Lines for /proc/self/timens_offsets.
    pub(crate) time_offsets: Vec<u8>,
    pub(crate) hostname: Option<Vec<u8>>,
    pub(crate) domainname: Option<Vec<u8>>,
    pub(crate) process: ProcessPlan,
}

/// A string for the kernel; one with a NUL byte inside cannot be passed.
pub(crate) fn c_string(field: &str, text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(field, "must not contain a NUL byte"))
}

impl Plan {
    /// Takes a specification apart.
    pub(crate) fn new(spec: &Spec, rootfs: &Rootfs<'_>) -> Result<Self> {
        // `Linux::default()` carries samples of oci-spec's own: an absent section means none of it.
        let empty = {
            let mut linux = Linux::default();
            linux
                .set_namespaces(None)
                .set_resources(None)
                .set_masked_paths(None)
                .set_readonly_paths(None)
                .set_seccomp(None);
            linux
        };
        let linux = spec.linux().as_ref().unwrap_or(&empty);
        refuse_what_is_not_done(linux)?;
        if let Some(process) = spec.process() {
            refuse_labels(process)?;
        }

        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::invalid("process", "is needed to run a container"))?;
        let namespaces = Namespaces::new(linux)?;
        let in_user_namespace = namespaces.has_user();
        let own_mounts = namespaces.has_mount();

        let no_mounts = Vec::new();
        let mounts = spec.mounts().as_ref().unwrap_or(&no_mounts);
        let dev = mounts
            .iter()
            .rposition(|mount| mount.destination() == Path::new("/dev"));
        let own_dev = dev.is_some_and(|index| !is_bind(&mounts[index]));
        let has_sysctls = linux
            .sysctl()
            .as_ref()
            .is_some_and(|sysctls| !sysctls.is_empty());
        let planned = mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| mounts::plan(index, mount, &namespaces))
            .collect::<Result<Vec<_>>>()?;
        // Sysctls are written before /proc/sys becomes read-only, and may be those of a namespace yet to come.
        let early_mounts = match planned.iter().position(|mount| mount.needs_launcher) {
            Some(first) if !has_sysctls && dev.is_none_or(|dev| dev < first) => first,
            _ => 0,
        };
        let paths = |paths: &Option<Vec<String>>, field: &str| -> Result<Vec<Restricted>> {
            paths
                .iter()
                .flatten()
                .map(|path| {
                    if !path.starts_with('/') {
                        return Err(Error::invalid(
                            field,
                            format!("{path} must be an absolute path"),
                        ));
                    }
                    let path = Inside::new(field, Path::new(path))?;
                    let (early, late) = planned.split_at(early_mounts);
                    let early = early.iter().any(|mount| path.is_below(&mount.target))
                        && !late.iter().any(|mount| {
                            path.is_below(&mount.target) || mount.target.is_below(&path)
                        });
                    Ok(Restricted { path, early })
                })
                .collect()
        };
        let masked = paths(linux.masked_paths(), "linux.maskedPaths")?;
        let readonly = paths(linux.readonly_paths(), "linux.readonlyPaths")?;
        let readonly_root = spec
            .root()
            .as_ref()
            .is_some_and(|root| root.readonly() == Some(true));
        if !own_mounts {
            let needs = [
                ("mounts", !mounts.is_empty()),
                ("linux.maskedPaths", !masked.is_empty()),
                ("linux.readonlyPaths", !readonly.is_empty()),
                ("root.readonly", readonly_root),
            ];
            if let Some((field, _)) = needs.iter().find(|(_, asked)| *asked) {
                return Err(Error::invalid(
                    *field,
                    "needs a mount namespace: without one the mount would appear on the host",
                ));
            }
        }

        let propagation = match linux.rootfs_propagation().as_deref() {
            None | Some("") => (libc::MS_PRIVATE, true),
            Some(name) => mounts::propagation(name).ok_or_else(|| {
                Error::invalid(
                    "linux.rootfsPropagation",
                    format!("{name:?} is none of private, slave, shared, unbindable"),
                )
            })?,
        };

        let name =
            |field: &'static str, name: &Option<String>, of: bool| -> Result<Option<Vec<u8>>> {
                match name.as_deref() {
                    None | Some("") => Ok(None),
                    Some(_) if !of => Err(Error::invalid(
                        field,
                        "needs a UTS namespace: without one it would name the host",
                    )),
                    // __NEW_UTS_LEN of uapi/linux/utsname.h.
                    Some(name) if name.len() > 64 => Err(Error::invalid(
                        field,
                        "is longer than the kernel's 64 bytes",
                    )),
                    Some(name) => Ok(Some(name.as_bytes().to_vec())),
                }
            };
        Ok(Self {
            hostname: name("hostname", spec.hostname(), namespaces.has_uts())?,
            domainname: name("domainname", spec.domainname(), namespaces.has_uts())?,
            sysctls: sysctls(linux, &namespaces)?,
            time_offsets: time_offsets(linux, &namespaces)?,
            devices: devices::plan(linux.devices().iter().flatten(), in_user_namespace)?,
            root: RootPlan::new(rootfs, spec, in_user_namespace, own_mounts)?,
            mounts: planned,
            early_mounts,
            process: ProcessPlan::new(process, linux.seccomp().as_ref(), Some(linux))?,
            namespaces,
            readonly_root,
            propagation,
            no_pivot: false,
            own_dev,
            masked,
            readonly,
        })
    }

    /// A plan for a process that enters a running container: who it is and what it runs, and nothing to be made.
    pub(crate) fn joining(process: &Process, seccomp: Option<&LinuxSeccomp>) -> Result<Self> {
        refuse_labels(process)?;
        let process = ProcessPlan::new(process, seccomp, None)?;
        Ok(Self {
            namespaces: Namespaces::none(),
            root: RootPlan::Unchanged,
            readonly_root: false,
            propagation: (libc::MS_PRIVATE, true),
            no_pivot: false,
            mounts: Vec::new(),
            own_dev: false,
            devices: Vec::new(),
            masked: Vec::new(),
            readonly: Vec::new(),
            early_mounts: 0,
            sysctls: Vec::new(),
            time_offsets: Vec::new(),
            hostname: None,
            domainname: None,
            process,
        })
    }

    /// The command, for messages.
    pub(crate) fn command(&self) -> &str {
        &self.process.command
    }
}

fn is_bind(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("bind" | "rbind"))
        || mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "bind" || option == "rbind")
}

/// Members that would be ignored otherwise. A silent omission would be a container that is less than its specification.
fn refuse_what_is_not_done(linux: &Linux) -> Result<()> {
    let refused = [
        (
            linux.intel_rdt().is_some(),
            "linux.intelRdt",
            "cache and bandwidth allocation is not supported",
        ),
        (
            linux
                .mount_label()
                .as_deref()
                .is_some_and(|label| !label.is_empty()),
            "linux.mountLabel",
            "SELinux is not supported",
        ),
        (
            linux
                .net_devices()
                .as_ref()
                .is_some_and(|devices| !devices.is_empty()),
            "linux.netDevices",
            "is not supported yet",
        ),
    ];
    if let Some((_, field, reason)) = refused.into_iter().find(|(asked, ..)| *asked) {
        return Err(Error::unsupported(field, reason));
    }
    Ok(())
}

/// The same of a process.
fn refuse_labels(process: &Process) -> Result<()> {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if set(process.apparmor_profile())
        && process.apparmor_profile().as_deref() != Some("unconfined")
    {
        return Err(Error::unsupported(
            "process.apparmorProfile",
            "AppArmor is not supported",
        ));
    }
    if set(process.selinux_label()) {
        return Err(Error::unsupported(
            "process.selinuxLabel",
            "SELinux is not supported",
        ));
    }
    Ok(())
}

/// How far the clocks of a new time namespace are from the host's (time_namespaces(7)).
fn time_offsets(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<u8>> {
    let mut text = String::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = format!("linux.timeOffsets.{clock}");
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(
                field,
                "only the clocks monotonic and boottime have offsets",
            ));
        }
        if !namespaces.makes_time() {
            return Err(Error::invalid(field, "needs a new time namespace"));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds > 999_999_999 {
            return Err(Error::invalid(
                field,
                format!("{nanoseconds} nanoseconds are more than a second"),
            ));
        }
        text.push_str(&format!(
            "{clock} {} {nanoseconds}\n",
            offset.secs().unwrap_or(0)
        ));
    }
    Ok(text.into_bytes())
}

/// Sysctls, each of which must belong to a namespace that the container does not share with the host.
fn sysctls(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<Sysctl>> {
    // ipc_namespaces(7) and the ipc and mqueue tables of the kernel.
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
    ];
    let mut result = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        // Both "net.ipv4.ip_forward" and "net/ipv4/ip_forward" are in use; a name with a slash first is of the
        // second kind, where a dot belongs to an interface's name (sysctl(8)).
        let slash_form = name
            .find(['.', '/'])
            .is_some_and(|at| name.as_bytes().get(at) == Some(&b'/'));
        let file = if slash_form {
            name.clone()
        } else {
            name.chars()
                .map(|c| match c {
                    '.' => '/',
                    '/' => '.',
                    c => c,
                })
                .collect()
        };
        let field = format!("linux.sysctl.{name}");
        if file.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::invalid(field, "is not the name of a sysctl"));
        }
        let dotted = file.replace('/', ".");
        let (known, own) = if dotted.starts_with("net.") {
            (true, namespaces.has_network())
        } else if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
            (true, namespaces.has_ipc())
        } else if dotted == "kernel.hostname" || dotted == "kernel.domainname" {
            (true, namespaces.has_uts())
        } else {
            (false, false)
        };
        if !known {
            return Err(Error::invalid(
                field,
                "belongs to no namespace: setting it would change the host",
            ));
        }
        if !own {
            return Err(Error::invalid(
                field,
                "needs a namespace of the container's own: setting it would change the host",
            ));
        }
        result.push(Sysctl {
            file: c_string(&field, file)?,
            name: name.clone(),
            value: value.clone().into_bytes(),
        });
    }
    result.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(result)
}

/// A C string for a message.
pub(crate) fn show(text: &CStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}
