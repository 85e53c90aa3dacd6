//! A minimal Debian, for tests that want an image of a real size.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A minimal Debian as a tar archive, made once and kept.
pub fn archive() -> PathBuf {
    let cache = PathBuf::from("/var/cache/plimsoll/test");
    let archive = cache.join("debian-bookworm-minbase.tar");
    if !archive.is_file() {
        fs::create_dir_all(&cache).unwrap();
        let tree = tempfile::Builder::new()
            .prefix("debian-")
            .tempdir_in(&cache)
            .unwrap();
        let log = fs::File::create(cache.join("debootstrap.log")).unwrap();
        let status = Command::new("debootstrap")
            .args(["--variant=minbase", "bookworm"])
            .arg(tree.path())
            .arg("http://deb.debian.org/debian")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        assert!(
            status.success(),
            "debootstrap failed: see {}",
            cache.join("debootstrap.log").display()
        );
        let part = cache.join("debian.tar.part");
        let packed = Command::new("tar")
            .args(["--numeric-owner", "--xattrs", "-C"])
            .arg(tree.path())
            .args(["--exclude=./var/cache/apt/archives/*.deb", "-cf"])
            .arg(&part)
            .arg(".")
            .status()
            .unwrap();
        assert!(packed.success());
        fs::rename(&part, &archive).unwrap();
    }
    archive
}
