//! Runs OCI bundles and specifications on Linux: namespaces, an overlay or directory root, cgroups of either version,
//! capabilities and seccomp, with the semantics of the OCI runtime specification.
//!
//! [`start`] takes a specification apart, makes a process in new namespaces, and does the launcher's part
//! (cgroups, network namespace) while that process makes its mounts. When it returns, the command has been
//! executed; [`Container`] waits for it, and lets go of everything it had. [`create`] stops before the command, and
//! [`exec`] runs another one in a container that runs.
//!
//! Kernel: Linux 5.12 for mount_setattr(2); 5.14 for killing a cgroup at once; overlay takes its layers one by one
//! from 6.8, as descriptors in one option string before.
//!
//! **Invariants.** Nothing is ever mounted in the host's mount namespace. The container dies with the thread that started
//! it, unless it was told not to be tied ([`Launch::tied`]). What is left after a SIGKILL of that thread's process is at most an empty cgroup, found by
//! [`cgroup::list`] and removed by [`cgroup::remove_by_id`].

mod capability;
pub mod cgroup;
mod child;
mod container;
mod default_spec;
mod error;
mod exec;
mod hooks;
mod init;
mod launch;
mod listener;
mod overlay;
mod plan;
mod privileged;
pub mod seccomp;
mod stage;
mod sys;
mod teardown;

pub use capability::{capability_mask, capability_names};
pub use container::{Container, Exit, ExitStatus, Teardown};
pub use default_spec::{DEFAULT_CAPABILITIES, DEFAULT_PATH, default_spec};
pub use error::{Errno, Error, Result};
pub use exec::{Exec, ExecProcess, exec, exec_with_listener};
pub use hooks::HookState;
pub use init::Init;
pub use launch::{
    Ahead, Created, Launch, Meanwhile, NetworkSetup, Rootfs, Stdio, create, open_gate, start,
};
pub use listener::SeccompListener;
pub use overlay::mount_overlay;
pub use plan::mounts::mount_options;
pub use plan::process::{grantable_rlimit, rlimit_number};
pub use privileged::{held_capabilities, host_devices, make_privileged};
pub use stage::Stage;

/// Kills what is left of a container in its cgroups and removes them. Can be repeated; also for what a killed launcher
/// has left behind.
pub fn remove_cgroups(id: &str) -> Result<()> {
    Ok(cgroup::remove_by_id(id)?)
}
