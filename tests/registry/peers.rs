//! skopeo and podman, driven so that nothing of theirs is left.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::server::{PASSWORD, USER};

/// `skopeo` with words of a line; none where it is not installed, aloud.
pub(crate) fn skopeo(line: &str) -> Option<String> {
    skopeo_as_user(line, &[])
}

/// [`skopeo`] as the user that a registry with authentication knows, told by these flags.
pub(crate) fn skopeo_as_user(line: &str, flags: &[&str]) -> Option<String> {
    if !Path::new("/usr/bin/skopeo").exists() {
        eprintln!("skipped: skopeo is missing (apt-get install skopeo)");
        return None;
    }
    let mut command = Command::new("/usr/bin/skopeo");
    command.args(["--insecure-policy"]).args(line.split(' '));
    for flag in flags {
        command.arg(format!("{flag}={USER}:{PASSWORD}"));
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "skopeo {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs lines of `podman …` in a mount namespace of its own, and gives what they print; a line that fails ends them. None where podman
/// is not installed, aloud.
pub(crate) fn podman(scratch: &Path, lines: &[String]) -> Option<String> {
    if !Path::new("/usr/bin/podman").exists() {
        eprintln!("skipped: podman is missing (apt-get install podman)");
        return None;
    }
    let at = |name: &str| scratch.join(name).display().to_string();
    fs::write(
        scratch.join("containers.conf"),
        "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=4096:4096\"]\n\
         [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\n",
    )
    .unwrap();
    fs::write(
        scratch.join("policy.json"),
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .unwrap();
    let global = format!(
        "/usr/bin/podman --root {} --runroot {} --tmpdir {} --storage-driver vfs",
        at("p"),
        at("r"),
        at("t")
    );
    // On a hybrid host podman takes the presence of version 2 for its controllers'.
    let mut script = "set -eu\ngrep -q ' cgroup ' /proc/mounts && awk '$3==\"cgroup2\"{print $2}' /proc/mounts | xargs -r umount -l\n"
        .to_owned();
    for line in lines {
        let verb = line.split(' ').next().unwrap_or_default();
        let policy = if verb == "pull" || verb == "push" {
            format!(" --signature-policy {}", at("policy.json"))
        } else {
            String::new()
        };
        script += &format!("{global} {verb}{policy}{}\n", &line[verb.len()..]);
    }
    // Credentials of the test's own, of which there are none unless it logs in: this podman wants the file to be there.
    let credentials = scratch.join("auth.json");
    if !credentials.exists() {
        fs::write(&credentials, "{}").unwrap();
    }
    let mut child = Command::new("timeout")
        .args(["120", "unshare", "-m", "bash"])
        .env("CONTAINERS_CONF", scratch.join("containers.conf"))
        .env("REGISTRY_AUTH_FILE", &credentials)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
