//! What unpacked trees look like: as GNU tar would unpack them, and as overlayfs and EROFS show them.

mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Fixture, Parts, Tar, assert_same_tree, gzip, in_private_mounts, is_root, mount, mount_overlay,
    names, tree, umount, zstd,
};
use image_core::{Image, Store};

fn gnu_tar(arguments: &[&OsStr]) {
    let output = Command::new("tar").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A directory with a bit of everything.
fn varied(root: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags};
    std::fs::create_dir_all(root.join("deep/er/still")).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::write(
        root.join("deep/er/data"),
        (0..300_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<u8>>(),
    )
    .unwrap();
    let long = "long-name-".repeat(20);
    std::fs::create_dir(root.join(&long)).unwrap();
    std::fs::write(root.join(&long).join(&long), "x").unwrap();
    std::os::unix::fs::symlink("/".to_owned() + &"t/".repeat(120), root.join("long-link")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
    std::fs::hard_link(root.join("empty"), root.join("deep/hard")).unwrap();
    std::fs::hard_link(root.join("link"), root.join("deep/hard-link-to-link")).unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::mknodat(
        CWD,
        root.join("null"),
        FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    rustix::fs::mknodat(
        CWD,
        root.join("disk"),
        FileType::BlockDevice,
        Mode::RUSR,
        rustix::fs::makedev(7, 300),
    )
    .unwrap();
    let file = std::fs::File::create(root.join("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 5 << 20).unwrap();
    for (name, mode) in [
        ("empty", 0o4711),
        ("deep/er", 0o2775),
        ("deep", 0o1777),
        ("null", 0o666),
    ] {
        rustix::fs::chmod(root.join(name), Mode::from_raw_mode(mode)).unwrap();
    }
    for (n, name) in ["deep/er/data", "link", "deep/er/still", "disk"]
        .iter()
        .enumerate()
    {
        std::os::unix::fs::lchown(root.join(name), Some(100_000 + n as u32), Some(7)).unwrap();
    }
    rustix::fs::setxattr(
        root.join("deep/er/data"),
        "user.note",
        b"a=b\nc",
        XattrFlags::empty(),
    )
    .unwrap();
    rustix::fs::setxattr(root.join("deep"), "user.dir", b"", XattrFlags::empty()).unwrap();
    let touch = Command::new("touch")
        .args(["-h", "-d", "1999-12-31 23:59:59.123456789Z"])
        .arg(root.join("link"))
        .arg(root.join("deep/er"))
        .status();
    assert!(touch.unwrap().success());
}

#[test]
fn archives_of_gnu_tar_unpack_as_gnu_tar_unpacks_them() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    varied(&source);
    let path = |name: &str| dir.path().join(name);
    let formats: [(&str, &[&str]); 6] = [
        ("gnu", &["--format=gnu"]),
        ("gnu-sparse", &["--format=gnu", "--sparse"]),
        ("pax", &["--format=pax", "--xattrs"]),
        (
            "pax-sparse-0.0",
            &[
                "--format=pax",
                "--xattrs",
                "--sparse",
                "--sparse-version=0.0",
            ],
        ),
        (
            "pax-sparse-0.1",
            &[
                "--format=pax",
                "--xattrs",
                "--sparse",
                "--sparse-version=0.1",
            ],
        ),
        (
            "pax-sparse-1.0",
            &[
                "--format=pax",
                "--xattrs",
                "--sparse",
                "--sparse-version=1.0",
            ],
        ),
    ];
    for (name, options) in formats {
        let archive = path(&format!("{name}.tar"));
        let mut arguments: Vec<&OsStr> = vec![
            OsStr::new("-C"),
            source.as_os_str(),
            OsStr::new("--numeric-owner"),
        ];
        arguments.extend(options.iter().map(OsStr::new));
        arguments.extend([OsStr::new("-cf"), archive.as_os_str(), OsStr::new(".")]);
        gnu_tar(&arguments);

        let reference = path(&format!("{name}-reference"));
        std::fs::create_dir(&reference).unwrap();
        gnu_tar(
            &[
                "-C",
                reference.to_str().unwrap(),
                "-p",
                "--xattrs",
                "--xattrs-include=user.*",
                "--numeric-owner",
                "-xf",
                archive.to_str().unwrap(),
            ]
            .map(OsStr::new),
        );

        let fixture = Fixture::new();
        let bytes = std::fs::read(&archive).unwrap();
        let image = fixture.store.import(bytes.as_slice(), None, &[]).unwrap();
        let ours = fixture.store.layer_dirs(&image).unwrap().remove(0);
        assert_same_tree(&tree(&ours), &tree(&reference));
        let blocks = |root: &Path| {
            std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(root.join("sparse")).unwrap())
        };
        if name.contains("sparse") {
            assert!(
                blocks(&ours) < 2048,
                "{name}: holes take {} blocks",
                blocks(&ours)
            );
        }
    }
}

#[test]
fn a_debian_root_file_system_unpacks_as_gnu_tar_unpacks_it() {
    if !is_root() {
        return;
    }
    let Some(archive) = std::env::var_os("PLIMSOLL_TEST_ROOTFS_TAR").map(PathBuf::from) else {
        eprintln!("skipped: PLIMSOLL_TEST_ROOTFS_TAR does not name a root file system's archive");
        return;
    };
    let fixture = Fixture::new();
    let reference = fixture.dir.path().join("reference");
    std::fs::create_dir(&reference).unwrap();
    gnu_tar(
        &[
            "-C",
            reference.to_str().unwrap(),
            "-p",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "-xf",
            archive.to_str().unwrap(),
        ]
        .map(OsStr::new),
    );
    let file = std::fs::File::open(&archive).unwrap();
    let image = fixture.store.import(file, None, &[]).unwrap();
    let ours = fixture.store.layer_dirs(&image).unwrap().remove(0);
    assert_same_tree(&tree(&ours), &tree(&reference));
}

#[test]
fn the_same_archive_gives_the_same_layer_whatever_its_compression() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let tar = Tar::new().dir("d/").file("d/f", vec![7; 1_000_000]).done();
    let plain = fixture.store.import(tar.as_slice(), None, &[]).unwrap();
    for compressed in [gzip(&tar), zstd(&tar)] {
        let image = fixture
            .store
            .import(compressed.as_slice(), None, &[])
            .unwrap();
        assert_eq!(image.layers, plain.layers);
        assert_ne!(image.manifest, plain.manifest);
    }
    assert_eq!(names(&fixture.store.root().join("layers")).len(), 1);
}

#[test]
fn several_gzip_members_and_zstd_frames_are_one_archive() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let tar = Tar::new().file("f", vec![7; 100_000]).done();
    let (left, right) = tar.split_at(50_001);
    let plain = fixture.store.import(tar.as_slice(), None, &[]).unwrap();
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    for joined in [
        [gzip(left), gzip(right)].concat(),
        [&skippable[..], &zstd(left), &zstd(right)].concat(),
    ] {
        let image = fixture.store.import(joined.as_slice(), None, &[]).unwrap();
        assert_eq!(image.layers, plain.layers);
    }
}

#[test]
fn directories_that_are_only_implied_are_always_the_same() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let tar = Tar::new()
        .mode(0o2777)
        .dir("s/")
        .mode(0o644)
        .owner(5, 6)
        .file("a/b/c", "x")
        .file("s/t/u", "x")
        .done();
    let image = fixture.store.import(tar.as_slice(), None, &[]).unwrap();
    let layer = tree(&fixture.store.layer_dirs(&image).unwrap()[0]);
    for path in ["", "a", "a/b", "s/t"] {
        let node = &layer[path.as_bytes()];
        assert_eq!(
            (node.mode, node.owner, node.mtime),
            (0o755, (0, 0), (0, 0)),
            "{path}"
        );
    }
    assert_eq!(layer[&b"s/t/u"[..]].owner, (5, 6));
}

#[test]
fn a_default_acl_is_not_handed_down_to_the_files_of_the_archive() {
    if !is_root() {
        return;
    }
    // posix_acl_xattr.h: version 2, then tag, permissions and ID of each entry; the same for access and default.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1u16, 7u16, u32::MAX),
        (2, 7, 1234),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 5, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let fixture = Fixture::new();
    let tar = Tar::new()
        .xattr("system.posix_acl_default", &acl)
        .dir("d/")
        .file("d/f", "x")
        .done();
    let image = fixture.store.import(tar.as_slice(), None, &[]).unwrap();
    let layer = tree(&fixture.store.layer_dirs(&image).unwrap()[0]);
    assert!(layer[&b"d/f"[..]].xattrs.is_empty());
    assert_eq!(
        layer[&b"d"[..]].xattrs[&b"system.posix_acl_default"[..]],
        acl
    );
}

/// Layers in which everything is deleted, replaced and hidden in some way.
fn layers() -> Vec<Vec<u8>> {
    let base = Tar::new()
        .dir("./")
        .dir("keep/")
        .file("keep/a", "base")
        .dir("gone/")
        .file("gone/a", "base")
        .dir("opaque/")
        .file("opaque/old", "base")
        .dir("replaced/")
        .file("replaced/old", "base")
        .dir("dir-to-file/")
        .file("dir-to-file/old", "base")
        .file("file-to-dir", "base")
        .file("plain", "base")
        .dir("again/")
        .file("again/old", "base")
        .dir("target/")
        .file("target/f", "base")
        .symlink("link", "target")
        .symlink("absolute", "/target/f")
        .symlink("climbing", "../../../target/f");
    let middle = Tar::new()
        .file(".wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "middle")
        // The whiteout stands before what replaces it…
        .file(".wh.replaced", "")
        .dir("replaced/")
        .file("replaced/new", "middle")
        // … and after.
        .dir("again/")
        .file("again/new", "middle")
        .file(".wh.again", "")
        .file("dir-to-file", "middle")
        .dir("file-to-dir/")
        .file("file-to-dir/new", "middle")
        .mode(0o700)
        .owner(1, 2)
        .dir("keep/")
        .file("keep/b", "middle");
    let top = Tar::new()
        .file("plain", "top")
        .file(".wh.plain", "")
        .file("keep/.wh.a", "")
        .mode(0o700)
        .owner(1, 2)
        .dir("keep/")
        .dir("gone/")
        .file("gone/b", "top");
    vec![base.done(), middle.done(), top.done()]
}

/// What is to be seen of them.
const VISIBLE: [(&str, Option<&str>); 21] = [
    ("keep/a", None),
    ("keep/b", Some("middle")),
    ("gone/a", None),
    ("gone/b", Some("top")),
    ("opaque/old", None),
    ("opaque/new", Some("middle")),
    ("replaced/old", None),
    ("replaced/new", Some("middle")),
    ("again/old", None),
    ("again/new", Some("middle")),
    ("dir-to-file", Some("middle")),
    ("dir-to-file/old", None),
    ("file-to-dir/new", Some("middle")),
    ("plain", Some("top")),
    ("link/f", Some("base")),
    ("absolute", Some("base")),
    ("climbing", Some("base")),
    ("/../keep/../link/../target/f", Some("base")),
    ("plain/x", None),
    ("keep/nothing", None),
    ("nothing/at/all", None),
];

fn load_layers(fixture: &Fixture) -> Image {
    fixture
        .store
        .load(Parts::new(layers()).docker().as_slice())
        .unwrap()
        .remove(0)
}

#[test]
fn a_file_is_read_as_the_overlay_would_show_it() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let image = load_layers(&fixture);
    for (path, content) in VISIBLE {
        let read = fixture.store.read_file(&image, path, 100).unwrap();
        assert_eq!(read.as_deref(), content.map(str::as_bytes), "{path}");
    }
    assert!(
        fixture
            .store
            .read_file(&image, "keep", 100)
            .unwrap_err()
            .to_string()
            .contains("directory")
    );
    assert!(
        fixture
            .store
            .read_file(&image, "/", 100)
            .unwrap_err()
            .to_string()
            .contains("directory")
    );
    assert!(
        fixture
            .store
            .read_file(&image, "plain", 2)
            .unwrap_err()
            .to_string()
            .contains("more than 2 bytes")
    );
}

#[test]
fn reading_a_file_never_leaves_the_image() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let outside = fixture.outside();
    let tar = Tar::new()
        .symlink("absolute", outside.join("canary").to_str().unwrap())
        .symlink(
            "climbing",
            "../../../../../../../..".to_owned() + outside.join("canary").to_str().unwrap(),
        )
        .symlink("dir", outside.to_str().unwrap())
        .symlink("magic", "/proc/self/root")
        .symlink("loop", "loop")
        .entry(b'6', "fifo", "", b"")
        .done();
    let image = fixture.store.import(tar.as_slice(), None, &[]).unwrap();
    let read = |path: &str| fixture.store.read_file(&image, path, 100);
    for path in ["absolute", "climbing", "dir/canary", "magic/etc/passwd"] {
        assert_eq!(read(path).unwrap(), None, "{path}");
    }
    assert!(read("loop").is_err());
    assert!(
        read("fifo")
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
}

/// Mounts an image's layers both ways and gives the two trees.
fn both_views(store: &Store, image: &Image, dir: &Path) -> (PathBuf, PathBuf) {
    let at = |name: String| {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let container = at("container".to_owned());
    mount_overlay(&store.layer_dirs(image).unwrap(), &container);
    let mut lower = Vec::new();
    for (n, layer) in store.erofs_layers(image).unwrap().iter().enumerate() {
        assert_eq!(std::fs::metadata(&layer.path).unwrap().len(), layer.bytes);
        assert_eq!(layer.bytes % 4096, 0);
        let target = at(format!("erofs-{n}"));
        mount(&[
            OsStr::new("-t"),
            OsStr::new("erofs"),
            OsStr::new("-o"),
            OsStr::new("ro"),
            layer.path.as_os_str(),
            target.as_os_str(),
        ]);
        lower.push(target);
    }
    let machine = at("machine".to_owned());
    mount_overlay(&lower, &machine);
    (container, machine)
}

#[test]
fn overlays_of_directories_and_of_erofs_show_the_same_image() {
    if !is_root() || !in_private_mounts("overlays_of_directories_and_of_erofs_show_the_same_image")
    {
        return;
    }
    let fixture = Fixture::new();
    let image = load_layers(&fixture);
    let (container, machine) = both_views(&fixture.store, &image, fixture.dir.path());
    assert_same_tree(&tree(&container), &tree(&machine));
    for (path, content) in &VISIBLE[..14] {
        let read = std::fs::read(container.join(path)).ok();
        assert_eq!(read.as_deref(), content.map(str::as_bytes), "{path}");
    }
    let keep = &tree(&container)[&b"keep"[..]];
    assert_eq!((keep.mode, keep.owner), (0o700, (1, 2)));
}

#[test]
fn a_layer_and_its_erofs_agree_in_every_detail() {
    if !is_root() || !in_private_mounts("a_layer_and_its_erofs_agree_in_every_detail") {
        return;
    }
    let fixture = Fixture::new();
    let source = fixture.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    varied(&source);
    let archive = fixture.dir.path().join("a.tar");
    gnu_tar(
        &[
            "-C",
            source.to_str().unwrap(),
            "--format=pax",
            "--xattrs",
            "--numeric-owner",
            "-cf",
            archive.to_str().unwrap(),
            ".",
        ]
        .map(OsStr::new),
    );
    let mut bytes = std::fs::read(&archive).unwrap();
    // Whiteouts too, in front of what GNU tar wrote.
    let mut with_whiteouts = Tar::new()
        .file(".wh.deleted", "")
        .file("hidden/.wh..wh..opq", "")
        .without_end();
    with_whiteouts.append(&mut bytes);
    let image = fixture
        .store
        .import(with_whiteouts.as_slice(), None, &[])
        .unwrap();
    let layer = fixture.store.layer_dirs(&image).unwrap().remove(0);
    let erofs = fixture.store.erofs_layers(&image).unwrap().remove(0);
    let target = fixture.dir.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    mount(&[
        OsStr::new("-t"),
        OsStr::new("erofs"),
        OsStr::new("-o"),
        OsStr::new("ro"),
        erofs.path.as_os_str(),
        target.as_os_str(),
    ]);
    let (directory, machine) = (tree(&layer), tree(&target));
    assert_eq!(directory[&b"deleted"[..]].kind, "char");
    assert_eq!(
        directory[&b"hidden"[..]].xattrs[&b"trusted.overlay.opaque"[..]],
        b"y"
    );
    assert_eq!(directory[&b"deep/er"[..]].mtime, (946_684_799, 123_456_789));
    assert_same_tree(&directory, &machine);
}

#[test]
fn an_erofs_is_the_same_each_time_it_is_made() {
    if !is_root() {
        return;
    }
    let tar = Tar::new()
        .dir("d/")
        .file("d/f", "x")
        .file(".wh.g", "")
        .done();
    let make = || {
        let fixture = Fixture::new();
        let image = fixture.store.import(tar.as_slice(), None, &[]).unwrap();
        let layer = fixture.store.erofs_layers(&image).unwrap().remove(0);
        std::fs::read(layer.path).unwrap()
    };
    let first = make();
    // The superblock has a time in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(first == make());
}

#[test]
fn a_layer_that_deletes_everything_below_ends_the_list() {
    if !is_root() || !in_private_mounts("a_layer_that_deletes_everything_below_ends_the_list") {
        return;
    }
    let layers = vec![
        Tar::new().file("old", "1").done(),
        Tar::new().file("new", "2").file(".wh..wh..opq", "").done(),
        Tar::new().file("newer", "3").done(),
    ];
    let fixture = Fixture::new();
    let image = fixture
        .store
        .load(Parts::new(layers).oci().as_slice())
        .unwrap()
        .remove(0);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(fixture.store.layer_dirs(&image).unwrap().len(), 2);
    let (container, machine) = both_views(&fixture.store, &image, fixture.dir.path());
    assert_eq!(names(&container), ["new", "newer"]);
    assert_same_tree(&tree(&container), &tree(&machine));
    assert_eq!(fixture.store.read_file(&image, "old", 9).unwrap(), None);
}

#[test]
fn a_layer_that_an_image_has_twice_is_mounted_once() {
    if !is_root() || !in_private_mounts("a_layer_that_an_image_has_twice_is_mounted_once") {
        return;
    }
    let twice = Tar::new().file("a", "first").done();
    let between = Tar::new().file("a", "second").file("b", "b").done();
    let fixture = Fixture::new();
    let parts = Parts::new(vec![twice.clone(), between, twice]);
    let image = fixture
        .store
        .load(parts.docker().as_slice())
        .unwrap()
        .remove(0);
    assert_eq!(
        (
            image.layers.len(),
            fixture.store.layer_dirs(&image).unwrap().len()
        ),
        (3, 2)
    );
    let target = fixture.dir.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    mount_overlay(&fixture.store.layer_dirs(&image).unwrap(), &target);
    assert_eq!(std::fs::read_to_string(target.join("a")).unwrap(), "first");
    umount(&target);
}
