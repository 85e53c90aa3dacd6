//! `features`: what this runtime can do (the specification's features.md).

use anyhow::Result;
use serde_json::json;

use super::info::print;
use super::{Runtime, SPEC_VERSION};

/// The oldest version of the specification whose configurations are understood.
const OLDEST_VERSION: &str = "1.0.0";

impl Runtime {
    pub(super) fn features(&self) -> Result<u8> {
        let features = json!({
            "ociVersionMin": OLDEST_VERSION,
            "ociVersionMax": SPEC_VERSION,
            "hooks": [
                "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
            ],
            "mountOptions": container_core::mount_options(),
            "linux": {
                "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
                "capabilities": container_core::capability_names(),
                "cgroup": {
                    "v1": true,
                    "v2": true,
                    "systemd": false,
                    "systemdUser": false,
                    "rdma": true,
                },
                "seccomp": {
                    "enabled": true,
                    "actions": container_core::seccomp::ACTIONS,
                    "operators": container_core::seccomp::OPERATORS,
                    "archs": container_core::seccomp::ARCHITECTURES,
                    "knownFlags": container_core::seccomp::FLAGS,
                    "supportedFlags": container_core::seccomp::FLAGS,
                },
                "apparmor": { "enabled": false },
                "selinux": { "enabled": false },
                "intelRdt": { "enabled": false },
                "mountExtensions": { "idmap": { "enabled": true } },
            },
            "annotations": {
                "io.github.seccomp.libseccomp.version": "none: filters are compiled by this program",
            },
        });
        print(&serde_json::to_string_pretty(&features)?)
    }
}
