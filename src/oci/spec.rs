//! `spec`: a config.json to begin with.

use std::fs::File;
use std::io::{ErrorKind, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::arguments::SpecArguments;
use super::{Runtime, SPEC_VERSION};

/// What `runc spec` gives the shell: little enough to be safe, enough to look around.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

impl Runtime {
    pub(super) fn spec(&self, arguments: &SpecArguments) -> Result<u8> {
        let path = arguments.bundle.join("config.json");
        let mut file = match File::create_new(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{} exists: remove it first", path.display())
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        };
        let mut spec = template()?;
        if arguments.rootless {
            make_rootless(&mut spec);
        }
        let mut text = serde_json::to_string_pretty(&spec)?;
        text.push('\n');
        file.write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(0)
    }
}

fn template() -> Result<Value> {
    // Mounts, masked and read-only paths are those that every container of this program's gets.
    let default = serde_json::to_value(container_core::default_spec(vec!["sh".to_owned()]))?;
    let of = |pointer: &str| default.pointer(pointer).cloned().unwrap_or_default();
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    Ok(json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [container_core::DEFAULT_PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "plimsoll",
        "mounts": of("/mounts"),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces.map(|kind| json!({ "type": kind })),
            "maskedPaths": of("/linux/maskedPaths"),
            "readonlyPaths": of("/linux/readonlyPaths"),
        },
    }))
}

/// The invoking user becomes root of a user namespace, and what that cannot do is left out.
fn make_rootless(spec: &mut Value) {
    // SAFETY: both take nothing and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let Some(linux) = spec.pointer_mut("/linux").and_then(Value::as_object_mut) else {
        return;
    };
    let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    linux.insert("uidMappings".to_owned(), map(uid));
    linux.insert("gidMappings".to_owned(), map(gid));
    linux.remove("resources");
    if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
        namespaces.retain(|namespace| namespace.get("type") != Some(&json!("network")));
        namespaces.push(json!({ "type": "user" }));
    }
    let Some(mounts) = spec.pointer_mut("/mounts").and_then(Value::as_array_mut) else {
        return;
    };
    let is = |mount: &Value, path: &str| mount.get("destination") == Some(&json!(path));
    mounts.retain(|mount| !is(mount, "/sys/fs/cgroup"));
    for mount in mounts {
        if is(mount, "/sys") {
            // A sysfs of its own takes a network namespace of its own.
            *mount = json!({
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        } else if is(mount, "/dev/pts")
            && let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut)
        {
            // The group is not mapped.
            options.retain(|option| option != &json!("gid=5"));
        }
    }
}
