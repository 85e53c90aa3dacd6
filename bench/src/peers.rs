//! What the arms of other programs have in common.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// The first line that a program says about its version, or why it cannot say one.
pub(crate) fn version(program: &str) -> Result<String, String> {
    if !Path::new(program).exists() {
        return Err(format!("{program} is not installed"));
    }
    let text = output(Command::new(program).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Runs a command to its end, with nothing to read unless told otherwise: its standard output, or the last line of what it
/// complained.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let line = complaint
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty());
    Err(line.map_or_else(|| crate::launch::describe(output.status), str::to_owned))
}

/// A mount namespace like the harness's own, but without the cgroup2 mount of the hybrid mode: crun 1.8 refuses to start
/// where the controllers are on v1 and cgroup2 is mounted as well. `None` where cgroups are not hybrid.
pub(crate) fn without_cgroup2() -> Result<Option<Arc<OwnedFd>>, String> {
    const HYBRID: &str = "/sys/fs/cgroup/unified";
    if !Path::new(HYBRID).join("cgroup.procs").exists() {
        return Ok(None);
    }
    // A thread of its own takes the namespace; the descriptor keeps it when the thread has gone.
    let made = std::thread::spawn(|| -> std::io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        umount2(HYBRID, MntFlags::MNT_DETACH)?;
        Ok(std::fs::File::open("/proc/thread-self/ns/mnt")?.into())
    })
    .join();
    match made {
        Ok(Ok(namespace)) => Ok(Some(Arc::new(namespace))),
        Ok(Err(error)) => Err(format!(
            "cannot make a mount namespace without {HYBRID}: {error}"
        )),
        Err(_) => Err("the thread that makes a mount namespace died".to_owned()),
    }
}
