//! What differs from the image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

fn letters(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| format!("{} {}", change.kind.letter(), change.path))
        .collect()
}

/// Runs a script in an overlay of `lower` with a new upper layer, which stays; None where overlays cannot be mounted.
fn upper_after(scene: &Scene, lower: &[&Path], script: &str) -> Option<PathBuf> {
    let (upper, work, merged) = (
        scene.at("host/upper"),
        scene.at("host/work"),
        scene.at("host/merged"),
    );
    for path in [&upper, &work, &merged] {
        fs::create_dir_all(path).unwrap();
    }
    let lower: Vec<&str> = lower.iter().map(|path| path.to_str().unwrap()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!(
            "mount -t overlay overlay -o {options} {0} && cd {0} && {script}",
            merged.display()
        ))
        .output()
        .unwrap();
    if !done.status.success() {
        eprintln!(
            "skipped: no overlay here: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        return None;
    }
    Some(upper)
}

#[test]
fn diff_tells_what_docker_tells() {
    let scene = Scene::new();
    let (base, top) = (scene.at("root/base"), scene.at("root/top"));
    for path in ["etc/apt", "srv/data/deep", "var/log", "opt/gone", "usr/bin"] {
        fs::create_dir_all(base.join(path)).unwrap();
    }
    for path in [
        "etc/passwd",
        "etc/mtab",
        "srv/data/a",
        "srv/data/b",
        "srv/data/deep/c",
        "usr/bin/tool",
        "var/log/touched",
        "opt/gone/x",
        "was-file",
    ] {
        fs::write(base.join(path), path).unwrap();
    }
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::write(top.join("etc/hosts"), "top").unwrap();
    let script = "
        echo root >> etc/passwd            # changed
        rm etc/mtab                        # deleted
        echo new > etc/new                 # added
        rm -r srv/data; mkdir srv/data; echo b > srv/data/b   # opaque: a and deep are gone
        chmod 700 usr/bin                  # a directory's own mode
        touch var/log                      # a directory's time is no change
        touch -r var/log/touched -m var/log/touched   # copied up, nothing changed
        mkdir -p home/me/dir; echo x > home/me/file
        rm -r opt/gone; echo file > opt/gone           # a directory that became a file
        rm was-file; mkdir was-file; echo x > was-file/y
        echo x > tmp-file; rm tmp-file                 # never there
        mv etc/hosts etc/hosts2
    ";
    let script = script
        .lines()
        .filter_map(|line| line.split('#').next())
        .collect::<Vec<_>>()
        .join("\n");
    let Some(upper) = upper_after(&scene, &[&top, &base], &script) else {
        return;
    };
    let layers = [top, base];
    let upper = fs::File::open(upper).unwrap();
    let told = letters(&changes(&layers, upper.as_fd()).unwrap());
    assert_eq!(
        told,
        [
            "C /etc",
            "D /etc/hosts",
            "A /etc/hosts2",
            "D /etc/mtab",
            "A /etc/new",
            "C /etc/passwd",
            "A /home",
            "A /home/me",
            "A /home/me/dir",
            "A /home/me/file",
            "C /opt",
            "C /opt/gone",
            "D /opt/gone/x",
            "C /srv",
            "C /srv/data",
            "D /srv/data/a",
            "C /srv/data/b",
            "D /srv/data/deep",
            "C /usr",
            "C /usr/bin",
            "C /was-file",
            "A /was-file/y",
        ]
    );
    // The same from a list in any order, as an agent sends it.
    let mut entries = upper_entries(upper.as_fd()).unwrap();
    entries.reverse();
    assert_eq!(letters(&changes_of(&layers, &entries).unwrap()), told);
}

#[test]
fn a_list_of_changes_from_an_agent_is_checked() {
    let scene = Scene::new();
    let layers = [scene.at("root")];
    let entry = |path: &str| UpperEntry {
        path: path.as_bytes().to_vec(),
        mode: libc::S_IFREG | 0o644,
        ..UpperEntry::default()
    };
    for path in ["../outside/canary", "a/../../b", "a\0b", &"a/".repeat(5000)] {
        assert!(changes_of(&layers, &[entry(path)]).is_err(), "{path}");
    }
    // Parents that are left out, the root, and names twice.
    let told = changes_of(
        &layers,
        &[
            entry("etc/deep/x"),
            entry("/"),
            entry("etc/motd"),
            entry("/etc/motd"),
        ],
    )
    .unwrap();
    assert_eq!(
        letters(&told),
        ["C /etc", "C /etc/deep", "A /etc/deep/x", "C /etc/motd"]
    );
}
