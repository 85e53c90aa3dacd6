//! What is packed comes out the same, and nothing comes out elsewhere.

use super::*;
use crate::output::Output;
use crate::pack::pack;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Packs one directory and unpacks that into another.
fn carry(from: &Path, into: &Path, owner: Option<(Uid, Gid)>) -> Result<(), Failure> {
    let (reader, writer) = std::io::pipe().unwrap();
    let from = std::format!("{}/.", from.display());
    let packing = std::thread::spawn(move || {
        let mut output = Output::new(writer.as_fd());
        pack(from.as_bytes(), None, &mut output).and_then(|()| output.flush())
    });
    let path = into.to_str().unwrap().as_bytes();
    let unpacked = unpack(reader.as_fd(), path, owner);
    drop(reader);
    let packed = packing.join().unwrap();
    unpacked.and(packed)
}

#[test]
fn what_was_packed_comes_out_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::create_dir(&into).unwrap();
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n >> 3) as u8).collect();
    fs::write(from.join("a/b/large"), &bytes).unwrap();
    fs::write(from.join("a/empty"), "").unwrap();
    fs::hard_link(from.join("a/empty"), from.join("zz")).unwrap();
    std::os::unix::fs::symlink("/etc", from.join("a/link")).unwrap();
    let long = "n".repeat(250);
    fs::create_dir(from.join(&long)).unwrap();
    fs::write(from.join(&long).join(&long), "deep").unwrap();
    fs::set_permissions(from.join("a/b/large"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for path in ["a/b/large", "a"] {
        let file = fs::File::open(from.join(path)).unwrap();
        file.set_modified(old).unwrap();
    }
    let root = std::os::unix::fs::chown(from.join("a/empty"), Some(1234), Some(5678)).is_ok();
    if !root {
        return std::eprintln!("skipped: no right to change owners");
    }
    carry(&from, &into, None).unwrap();
    assert_eq!(fs::read(into.join("a/b/large")).unwrap(), bytes);
    let about = |path: &str| fs::symlink_metadata(into.join(path)).unwrap();
    assert_eq!(about("a/b/large").mode() & 0o7777, 0o4751);
    assert_eq!(about("a").mode() & 0o7777, 0o700);
    assert_eq!(about("a").mtime(), 1_000_000_000);
    assert_eq!(about("a/b/large").mtime(), 1_000_000_000);
    assert_eq!((about("zz").uid(), about("zz").gid()), (1234, 5678));
    assert_eq!(about("zz").ino(), about("a/empty").ino());
    assert_eq!(
        fs::read_link(into.join("a/link")).unwrap(),
        Path::new("/etc")
    );
    assert_eq!(fs::read(into.join(&long).join(&long)).unwrap(), b"deep");
    // Once more, over what is there now, and for somebody else.
    carry(&from, &into, crate::owner(7, 8)).unwrap();
    assert_eq!((about("a/b").uid(), about("a/link").gid()), (7, 8));
}

#[test]
fn a_directory_and_something_else_do_not_replace_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    fs::create_dir_all(from.join("x")).unwrap();
    fs::create_dir(&into).unwrap();
    fs::write(into.join("x"), "").unwrap();
    let failure = carry(&from, &into, None).unwrap_err();
    assert_eq!(
        failure.message,
        "cannot overwrite non-directory \"x\" with directory"
    );
    fs::remove_file(into.join("x")).unwrap();
    fs::create_dir(into.join("x")).unwrap();
    fs::remove_dir(from.join("x")).unwrap();
    fs::write(from.join("x"), "").unwrap();
    let failure = carry(&from, &into, None).unwrap_err();
    assert_eq!(
        failure.message,
        "cannot overwrite directory \"x\" with non-directory"
    );
}

/// Unpacks an archive of these entries, each without contents.
fn unpack_entries(entries: &[Entry], into: &Path) -> Result<(), Failure> {
    let mut archive = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut archive));
    archive.resize(archive.len() + 2 * BLOCK, 0);
    let path = into.join("../archive");
    fs::write(&path, archive).unwrap();
    let file = fs::File::open(&path).unwrap();
    unpack(file.as_fd(), into.to_str().unwrap().as_bytes(), None)
}

fn named(kind: u8, name: &str, link: &str) -> Entry {
    Entry {
        name: name.into(),
        kind,
        link: link.into(),
        mode: 0o755,
        ..Entry::default()
    }
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "").unwrap();
    let into = folder.path().join("into");
    fs::create_dir(&into).unwrap();
    let target = outside.to_str().unwrap();
    for entries in [
        [
            named(kind::SYMLINK, "l", target),
            named(kind::FILE, "l/new", ""),
        ],
        [
            named(kind::SYMLINK, "r", "../outside"),
            named(kind::DIRECTORY, "r/new", ""),
        ],
        [
            named(kind::DIRECTORY, "d", ""),
            named(kind::FILE, "d/../../outside/new", ""),
        ],
        [
            named(kind::SYMLINK, "h", target),
            named(kind::HARD_LINK, "own", "h/secret"),
        ],
    ] {
        assert!(unpack_entries(&entries, &into).is_err(), "{entries:?}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(unpack_entries(&[named(kind::FILE, "/a/b/c", "")], &into).is_ok());
    assert!(into.join("a/b/c").is_file());
}

#[test]
fn an_archive_that_is_cut_or_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archive");
    let mut whole = Vec::new();
    Entry {
        size: 100,
        ..named(kind::FILE, "f", "")
    }
    .encode(&mut whole);
    whole.extend_from_slice(&[7; 10]);
    for bytes in [whole.as_slice(), &whole[..100], &[1; 1024]] {
        fs::write(&path, bytes).unwrap();
        let file = fs::File::open(&path).unwrap();
        let into = folder.path().to_str().unwrap().as_bytes();
        assert!(unpack(file.as_fd(), into, None).is_err());
    }
}
