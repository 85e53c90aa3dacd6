//! Importing, naming, removing; and what is left when something goes wrong in the middle.

mod common;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::{CHILD, Fixture, Parts, Tar, gzip, in_private_mounts, is_root, mount, names, zstd};
use image_core::{Change, Error, ImportOptions, Limits, Reference, Removed, Store, TarBuilder};

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

fn small() -> Vec<u8> {
    Tar::new().file("a", "x").done()
}

#[test]
fn an_imported_image_says_what_its_changes_said() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let changes: Vec<Change> = [
        "CMD [\"/bin/sh\"]",
        "ENV A=1 B=2",
        "WORKDIR /w",
        "LABEL x=1 y=2 z=3",
        "EXPOSE 80",
    ]
    .iter()
    .map(|change| change.parse().unwrap())
    .collect();
    let image = fixture
        .store
        .import(small().as_slice(), Some(&name("x/y")), &changes)
        .unwrap();
    let found = fixture.store.resolve("x/y").unwrap();
    assert_eq!((found.id, found.manifest), (image.id, image.manifest));
    let config = found.config.config().as_ref().unwrap();
    assert_eq!(config.cmd().as_ref().unwrap(), &["/bin/sh"]);
    assert_eq!(config.env().as_ref().unwrap(), &["A=1", "B=2"]);
    assert_eq!(config.labels().as_ref().unwrap().len(), 3);
    assert_eq!(found.config.architecture().to_string(), "amd64");
    assert_eq!(found.config.history().as_ref().unwrap().len(), 1);
    assert_eq!(found.names, ["x/y:latest"]);
    let summary = &fixture.store.list().unwrap()[0];
    assert_eq!(
        (
            summary.repository.as_deref(),
            summary.tag.as_deref(),
            summary.bytes
        ),
        (Some("x/y"), Some("latest"), 1)
    );
}

#[test]
fn the_same_input_gives_the_same_digests() {
    if !is_root() {
        return;
    }
    let changes: Vec<Change> = vec![
        "LABEL a=1 b=2 c=3 d=4 e=5 f=6".parse().unwrap(),
        "VOLUME /x /y".parse().unwrap(),
    ];
    let created = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    let import = |created: SystemTime| {
        let fixture = Fixture::new();
        let options = ImportOptions {
            changes: &changes,
            created: Some(created),
            ..ImportOptions::default()
        };
        let image = fixture
            .store
            .import_with(small().as_slice(), &options)
            .unwrap();
        (image.id, image.manifest)
    };
    let first = import(created);
    for _ in 0..5 {
        assert_eq!(import(created), first);
    }
    assert_ne!(import(created + Duration::from_secs(1)), first);
}

#[test]
fn source_date_epoch_sets_the_time() {
    if !is_root() {
        return;
    }
    // The variable belongs to the whole process: a child has it.
    if std::env::var_os(CHILD).is_some() {
        let fixture = Fixture::new();
        match fixture.store.import(small().as_slice(), None, &[]) {
            Ok(image) => println!("created {}", image.config.created().as_ref().unwrap()),
            Err(error) => println!("error {error}"),
        }
        return;
    }
    let with = |value: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "source_date_epoch_sets_the_time", "--nocapture"])
            .env(CHILD, "1")
            .env("SOURCE_DATE_EPOCH", value)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(with("1234567890").contains("created 2009-02-13T23:31:30Z"));
    assert!(with("yesterday").contains("error SOURCE_DATE_EPOCH=\"yesterday\" is not a number"));
}

#[test]
fn importing_twice_costs_no_second_copy() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let options = ImportOptions {
        created: Some(SystemTime::UNIX_EPOCH),
        ..ImportOptions::default()
    };
    for _ in 0..2 {
        fixture
            .store
            .import_with(small().as_slice(), &options)
            .unwrap();
    }
    assert_eq!(fixture.store.list().unwrap().len(), 1);
    assert_eq!(names(&fixture.store.root().join("layers")).len(), 1);
    assert_eq!(names(&fixture.store.root().join("blobs/sha256")).len(), 3);
}

#[test]
fn an_archive_from_memory_becomes_an_image() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let mut tar = TarBuilder::new(0);
    tar.directory("bin", 0o755)
        .unwrap()
        .file("bin/a", 0o755, b"program")
        .unwrap();
    tar.symlink("bin/b", "a")
        .unwrap()
        .hardlink("bin/c", "bin/a")
        .unwrap();
    let long = "x".repeat(150);
    tar.file(&format!("{long}/{long}"), 0o644, b"").unwrap();
    assert!(tar.file("../x", 0o644, b"").is_err());
    let image = fixture
        .store
        .import(tar.finish().unwrap().as_slice(), None, &[])
        .unwrap();
    for path in ["bin/a", "bin/b", "bin/c"] {
        assert_eq!(
            fixture.store.read_file(&image, path, 9).unwrap().unwrap(),
            b"program"
        );
    }
}

#[test]
fn removing_follows_docker() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = &fixture.store;
    let created = Some(SystemTime::UNIX_EPOCH);
    let import = |tag: &Reference| {
        store
            .import_with(
                small().as_slice(),
                &ImportOptions {
                    name: Some(tag),
                    created,
                    ..ImportOptions::default()
                },
            )
            .unwrap()
    };
    let image = import(&name("a:1"));
    import(&name("b:2"));
    // By its ID it is refused while it has two names …
    let error = store.remove(&image.id.short(), false).unwrap_err();
    assert!(matches!(error, Error::SeveralNames { .. }), "{error}");
    // … by a name only that goes, and with the last one the image.
    assert_eq!(
        store.remove("a:1", false).unwrap(),
        [Removed::Untagged("a:1".to_owned())]
    );
    assert_eq!(
        store
            .remove(&format!("b@{}", image.manifest), false)
            .unwrap(),
        [
            Removed::Untagged("b:2".to_owned()),
            Removed::Deleted(image.id)
        ]
    );
    fixture.assert_empty();
    // With force the ID is enough.
    import(&name("a:1"));
    import(&name("b:2"));
    assert_eq!(store.remove(&image.id.hex()[..7], true).unwrap().len(), 3);
    fixture.assert_empty();
    assert!(matches!(
        store.remove("a:1", true),
        Err(Error::ImageNotFound(_))
    ));
}

#[test]
fn a_name_that_moves_leaves_the_old_image_without_one() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let old = fixture
        .store
        .import(small().as_slice(), Some(&name("x")), &[])
        .unwrap();
    let new = fixture
        .store
        .import(
            Tar::new().file("b", "y").done().as_slice(),
            Some(&name("x")),
            &[],
        )
        .unwrap();
    assert_eq!(fixture.store.resolve("x").unwrap().id, new.id);
    assert!(
        fixture
            .store
            .resolve(&old.id.hex())
            .unwrap()
            .names
            .is_empty()
    );
    let without: Vec<_> = fixture
        .store
        .list()
        .unwrap()
        .into_iter()
        .filter(|image| image.repository.is_none())
        .collect();
    assert_eq!(without.len(), 1);
    assert_eq!(
        fixture.store.remove(&old.id.hex(), false).unwrap(),
        [Removed::Deleted(old.id)]
    );
}

#[test]
fn a_damaged_document_is_found_out_when_it_is_read() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let image = fixture
        .store
        .import(small().as_slice(), Some(&name("x")), &[])
        .unwrap();
    for digest in [image.id, image.manifest] {
        let path = fixture.store.root().join("blobs/sha256").join(digest.hex());
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[20] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(
            fixture.store.resolve("x"),
            Err(Error::DigestMismatch { .. })
        ));
        std::fs::write(&path, good).unwrap();
    }
    std::fs::remove_dir_all(
        fixture
            .store
            .root()
            .join("layers")
            .join(image.layers[0].hex()),
    )
    .unwrap();
    let error = fixture
        .store
        .layer_dirs(&fixture.store.resolve("x").unwrap())
        .unwrap_err();
    assert!(
        matches!(error, Error::Missing { .. }) && error.to_string().contains("import or load"),
        "{error}"
    );
}

#[test]
fn an_archive_cut_short_anywhere_is_not_imported() {
    if !is_root() {
        return;
    }
    let tar = Tar::new()
        .dir("d/")
        .file("d/a", vec![1; 3000])
        .file("b", "x")
        .done();
    for archive in [tar.clone(), gzip(&tar), zstd(&tar)] {
        // A tar's second zero block is padding.
        let end = if archive == tar {
            archive.len() - 1024
        } else {
            archive.len() - 1
        };
        for length in (0..=end).step_by(if archive == tar { 128 } else { 1 }) {
            let fixture = Fixture::new();
            let error = fixture
                .store
                .import(&archive[..length], None, &[])
                .unwrap_err();
            assert!(
                matches!(error, Error::Truncated { .. } | Error::Malformed { .. }),
                "{length}: {error}"
            );
            fixture.assert_empty();
        }
    }
    let fixture = Fixture::new();
    for (start, reason) in [
        (&b""[..], "empty"),
        (b"\xfd7zXZ\0", "xz"),
        (b"hello", "neither a tar archive"),
        (b"\x1f\x8bthis is not what follows gzip's magic", "damaged"),
    ] {
        let error = fixture
            .store
            .import(start, None, &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_source_that_fails_in_the_middle_is_reported_as_it_is() {
    if !is_root() {
        return;
    }
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::from_raw_os_error(5));
            }
            let step = self.0.min(buffer.len());
            self.0 -= step;
            Ok(step)
        }
    }
    let fixture = Fixture::new();
    let header = Tar::new().header(b'0', b"a", b"", 1 << 30);
    let source = header.as_bytes().as_slice().chain(Failing(1_000_000));
    let error = fixture
        .store
        .import(source, None, &[])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "cannot read the archive: Input/output error (os error 5)"
    );
    fixture.assert_empty();
}

#[test]
fn imports_at_the_same_time_do_not_disturb_each_other() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let shared = Tar::new().file("shared", vec![1; 200_000]).done();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, shared) = (&fixture.store, &shared);
            scope.spawn(move || {
                let own = Tar::new().file(format!("own-{n}"), "x").done();
                for round in 0..4 {
                    let tag = name(&format!("image-{n}:{round}"));
                    store.import(own.as_slice(), Some(&tag), &[]).unwrap();
                    store
                        .import(shared.as_slice(), Some(&name(&format!("shared-{n}"))), &[])
                        .unwrap();
                    assert!(store.resolve(&tag.to_string()).is_ok());
                    store.list().unwrap();
                    store.remove(&tag.to_string(), true).unwrap();
                }
            });
        }
    });
    let left = fixture.store.list().unwrap();
    assert_eq!(
        left.iter()
            .filter(|image| image.repository.is_some())
            .count(),
        8
    );
    for summary in left {
        let image = fixture.store.resolve(&summary.id.to_string()).unwrap();
        assert_eq!(
            fixture
                .store
                .read_file(&image, "shared", 200_000)
                .unwrap()
                .unwrap()
                .len(),
            200_000
        );
    }
    assert!(names(&fixture.store.root().join("tmp")).is_empty());
    assert_eq!(names(&fixture.store.root().join("layers")).len(), 1);
}

#[test]
fn loads_of_what_is_being_removed_end_whole_or_with_a_sentence() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let archive = Parts::new(vec![
        Tar::new().file("a", "x").done(),
        Tar::new().file("b", "y").done(),
    ])
    .oci();
    std::thread::scope(|scope| {
        let (store, archive) = (&fixture.store, &archive);
        scope.spawn(move || {
            for _ in 0..30 {
                match store.load(archive.as_slice()) {
                    Ok(images) => assert_eq!(images.len(), 1),
                    // It was there when the archive was read, and gone when the image was to be named; or it is gone already again.
                    Err(Error::Missing { .. } | Error::Io { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
        scope.spawn(move || {
            for _ in 0..60 {
                match store.remove("test:1", true) {
                    Ok(_) | Err(Error::ImageNotFound(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    });
    // Whatever the index names is whole.
    for summary in fixture.store.list().unwrap() {
        let image = fixture.store.resolve(&summary.id.to_string()).unwrap();
        assert_eq!(
            fixture.store.read_file(&image, "a", 1).unwrap().unwrap(),
            b"x"
        );
    }
    assert!(names(&fixture.store.root().join("tmp")).is_empty());
}

#[test]
fn an_erofs_wanted_by_several_at_once_is_made_once() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let image = fixture.store.import(small().as_slice(), None, &[]).unwrap();
    let layers = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| fixture.store.erofs_layers(&image).unwrap()))
            .collect();
        makers
            .into_iter()
            .map(|maker| maker.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(layers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(names(&fixture.store.root().join("erofs")).len(), 1);
    fixture.store.remove(&image.id.to_string(), false).unwrap();
    fixture.assert_empty();
}

#[test]
fn a_missing_mkfs_erofs_names_its_package() {
    if !is_root() {
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        let fixture = Fixture::new();
        let image = fixture.store.import(small().as_slice(), None, &[]).unwrap();
        println!("said {}", fixture.store.erofs_layers(&image).unwrap_err());
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_missing_mkfs_erofs_names_its_package",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("install the package erofs-utils"), "{said}");
}

/// Where the child of the next test keeps its store.
const STORE: &str = "PLIMSOLL_IMAGE_TEST_STORE";

#[test]
fn an_import_that_is_killed_leaves_nothing_visible_and_is_swept() {
    if !is_root() {
        return;
    }
    if let Some(root) = std::env::var_os(STORE) {
        // The child: imports from its standard input until it is killed.
        let store = Store::open(&PathBuf::from(root)).unwrap();
        let _ = store.import(std::io::stdin(), Some(&name("killed")), &[]);
        return;
    }
    let fixture = Fixture::new();
    let before = fixture
        .store
        .import(small().as_slice(), Some(&name("before")), &[])
        .unwrap();
    let archive = (0..64)
        .fold(Tar::new(), |tar, n| {
            tar.file(format!("d/{n}"), vec![n; 64 << 10])
        })
        .done();
    for sent in [600, 300 << 10, 2 << 20, archive.len() - 1] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "an_import_that_is_killed_leaves_nothing_visible_and_is_swept",
                "--nocapture",
            ])
            .env(STORE, fixture.store.root())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&archive[..sent]).unwrap();
        // It has read all but what a pipe holds; its workspace shows that it is at work.
        let tmp = fixture.store.root().join("tmp");
        // Before it is locked, a sweep may take it, and another is made.
        let is_locked = |name: &String| {
            std::fs::File::open(tmp.join(name)).is_ok_and(|folder| {
                matches!(folder.try_lock(), Err(std::fs::TryLockError::WouldBlock))
            })
        };
        while !names(&tmp).iter().any(is_locked) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // What lives is not swept.
        fixture.store.sweep().unwrap();
        assert_eq!(names(&tmp).len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stdin);
        assert_eq!(
            names(&tmp).len(),
            1,
            "a killed process leaves its workspace"
        );
        assert!(matches!(
            fixture.store.resolve("killed"),
            Err(Error::ImageNotFound(_))
        ));
        assert_eq!(
            names(&fixture.store.root().join("layers")),
            [before.layers[0].hex()]
        );
        // The next writer sweeps.
        fixture
            .store
            .import(small().as_slice(), Some(&name("before")), &[])
            .unwrap();
        assert!(names(&tmp).is_empty());
    }
}

#[test]
fn what_a_kill_between_placing_and_naming_leaves_is_collected() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let image = fixture
        .store
        .import(small().as_slice(), Some(&name("x")), &[])
        .unwrap();
    // As if the index had never been replaced.
    let root = fixture.store.root();
    let index = std::fs::read(root.join("index.json")).unwrap();
    let more = fixture
        .store
        .import(
            Tar::new().file("more", "").done().as_slice(),
            Some(&name("y")),
            &[],
        )
        .unwrap();
    std::fs::write(root.join("index.json"), index).unwrap();
    std::fs::write(
        root.join("erofs")
            .join(format!("{}.erofs", more.layers[0].hex())),
        "",
    )
    .unwrap();
    assert!(matches!(
        fixture.store.resolve("y"),
        Err(Error::ImageNotFound(_))
    ));
    fixture
        .store
        .import(
            Tar::new().file("third", "").done().as_slice(),
            Some(&name("z")),
            &[],
        )
        .unwrap();
    let layers = names(&root.join("layers"));
    assert_eq!(layers.len(), 2);
    assert!(layers.contains(&image.layers[0].hex()) && !layers.contains(&more.layers[0].hex()));
    assert_eq!(names(&root.join("blobs/sha256")).len(), 6);
    assert!(names(&root.join("erofs")).is_empty());
}

#[test]
fn a_full_disk_is_named_and_leaves_the_store_as_it_was() {
    if !is_root() || !in_private_mounts("a_full_disk_is_named_and_leaves_the_store_as_it_was") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    mount(
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=8m,mode=700",
            "tmpfs",
            dir.path().to_str().unwrap(),
        ]
        .map(std::ffi::OsStr::new),
    );
    let store = Store::open(&dir.path().join("store")).unwrap();
    store
        .import(small().as_slice(), Some(&name("before")), &[])
        .unwrap();
    let used = || {
        rustix::fs::statvfs(dir.path())
            .map(|s| s.f_blocks - s.f_bfree)
            .unwrap()
    };
    let before = used();

    let large = Tar::new().file("large", vec![1; 10 << 20]).done();
    let many = (0..3000u32)
        .fold(Tar::new(), |tar, n| tar.file(format!("f{n}"), "x"))
        .done();
    for archive in [&large, &gzip(&large), &zstd(&large), &many, &gzip(&many)] {
        let error = store.import(archive.as_slice(), None, &[]).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert_eq!(used(), before, "{error}");
    }
    // Someone else fills the disk while we are at it: the budget does not know, the kernel does.
    struct Filling<'f>(&'f [u8], PathBuf);
    impl Read for Filling<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let _ = std::fs::write(&self.1, vec![0; 8 << 20]);
            self.0.read(buffer)
        }
    }
    let medium = Tar::new().file("a", vec![1; 1 << 20]).done();
    let filler = dir.path().join("filler");
    let error = store
        .import(Filling(&medium, filler.clone()), None, &[])
        .unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(used(), before);

    let parts = Parts::new(vec![large]);
    for archive in [parts.oci(), parts.docker()] {
        let error = store.load(archive.as_slice()).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    }
    assert!(names(&store.root().join("tmp")).is_empty());
    // It works again with less.
    store
        .import(medium.as_slice(), Some(&name("after")), &[])
        .unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
    // An EROFS that does not fit: the disk is filled to the last block.
    assert!(std::fs::write(&filler, vec![0; 8 << 20]).is_err());
    let image = store.resolve("after").unwrap();
    let error = store.erofs_layers(&image).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(names(&store.root().join("erofs")).is_empty());
    assert!(names(&store.root().join("tmp")).is_empty());
}

#[test]
fn a_large_archive_takes_little_memory() {
    if !is_root() {
        return;
    }
    // 192 MiB through a process that may have 96 MiB of address space beyond what it starts with would be the honest test;
    // the high-water mark of the resident set says the same.
    struct Zeros(u64);
    impl Read for Zeros {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let step = usize::try_from(self.0)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            buffer[..step].fill(0);
            self.0 -= step as u64;
            Ok(step)
        }
    }
    if std::env::var_os(CHILD).is_some() {
        let fixture = Fixture::new();
        let size = 192 << 20;
        let header = Tar::new().header(b'0', b"a", b"", size);
        let source = header.as_bytes().as_slice().chain(Zeros(size + 1024));
        let store = fixture.store.clone().with_limits(Limits::default());
        store.import(source, None, &[]).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        println!("peak {}", peak.trim().trim_end_matches(" kB"));
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_large_archive_takes_little_memory",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let peak = said
        .lines()
        .find_map(|line| line.split("peak ").nth(1))
        .unwrap_or_else(|| panic!("{said}"));
    let kilobytes: u64 = peak.trim().parse().unwrap();
    assert!(kilobytes < 64 << 10, "{kilobytes} kB");
}
