//! What a volume gets from an image: what its overlay shows at the target, and nothing from anywhere else.

mod common;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::{
    Fixture, Parts, Tar, assert_same_tree, in_private_mounts, is_root, mount_overlay, names, tree,
    umount,
};
use image_core::{Error, Image, ImageDirectory, remove_tree};

fn load(fixture: &Fixture, layers: Vec<Vec<u8>>) -> Image {
    let archive = Parts::new(layers).oci();
    fixture.store.load(archive.as_slice()).unwrap().remove(0)
}

/// Copies `path` of the image into a new directory beside the store.
fn copied(fixture: &Fixture, image: &Image, path: &str, into: &str) -> Result<u64, Error> {
    let target = fixture.dir.path().join(into);
    fs::create_dir_all(&target).unwrap();
    copy_to(fixture, image, path, &target, false)
}

fn copy_to(
    fixture: &Fixture,
    image: &Image,
    path: &str,
    target: &Path,
    resume: bool,
) -> Result<u64, Error> {
    let layers = fixture.store.layer_dirs(image).unwrap();
    let directory = ImageDirectory::open(&layers, path)?.expect("there is such a directory");
    directory.copy_into(File::open(target).unwrap().as_fd(), resume)
}

/// Three layers with all that can hide or replace something.
fn layered() -> Vec<Vec<u8>> {
    let lowest = Tar::new()
        .owner(7, 8)
        .mode(0o1775)
        .dir("data/")
        .mode(0o4711)
        .xattr("user.kept", b"value")
        .file("data/tool", "tool")
        .mode(0o640)
        .file("data/deleted", "old")
        .file("data/replaced", "old")
        .dir("data/opaque/")
        .file("data/opaque/hidden", "old")
        .dir("data/merged/")
        .file("data/merged/low", "low")
        .dir("data/becomes-file/")
        .file("data/becomes-file/x", "x")
        .file("data/becomes-dir", "x")
        .hardlink("data/merged/same", "data/merged/low")
        .symlink("data/away", "/etc/passwd")
        .entry(b'6', "data/fifo", "", b"")
        .device(b'3', "data/null", 1, 3)
        .symlink("var-data", "data/merged")
        .done();
    let middle = Tar::new()
        .file("data/.wh.deleted", "")
        .file("data/replaced", "new")
        .file("data/opaque/.wh..wh..opq", "")
        .file("data/opaque/shown", "new")
        .file("data/merged/middle", "middle")
        .file("data/.wh.becomes-file", "")
        .file("data/becomes-file", "now a file")
        .file("data/.wh.becomes-dir", "")
        .dir("data/becomes-dir/")
        .file("data/becomes-dir/inner", "inner")
        .done();
    let top = Tar::new()
        .owner(7, 8)
        .mode(0o1775)
        .dir("data/")
        .owner(1000, 1000)
        .file("data/merged/top", "top")
        .file("data/merged/.wh.middle", "")
        .dir("empty/")
        .done();
    vec![lowest, middle, top]
}

#[test]
fn a_copy_is_what_the_overlay_shows() {
    if !is_root() || !in_private_mounts("a_copy_is_what_the_overlay_shows") {
        return;
    }
    let fixture = Fixture::new();
    let image = load(&fixture, layered());
    let overlay = fixture.dir.path().join("overlay");
    fs::create_dir(&overlay).unwrap();
    mount_overlay(&fixture.store.layer_dirs(&image).unwrap(), &overlay);
    for path in ["/data", "data/merged", "/data/opaque/", "/data/becomes-dir"] {
        let into = format!("copy-{}", path.trim_matches('/').replace('/', "-"));
        let made = copied(&fixture, &image, path, &into).unwrap();
        let copy = tree(&fixture.dir.path().join(into));
        assert_same_tree(&tree(&overlay.join(path.trim_matches('/'))), &copy);
        assert_eq!(made, copy.len() as u64 - 1, "{path}");
    }
    umount(&overlay);
}

#[test]
fn the_target_itself_takes_the_directorys_owner_and_mode() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let image = load(&fixture, layered());
    assert_eq!(copied(&fixture, &image, "/data", "a").unwrap(), 14);
    let metadata = fs::metadata(fixture.dir.path().join("a")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (7, 8));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o1775);
    assert_eq!(copied(&fixture, &image, "/empty", "b").unwrap(), 0);
    assert_eq!(
        fs::metadata(fixture.dir.path().join("b")).unwrap().uid(),
        1000
    );
}

#[test]
fn links_on_the_way_to_the_directory_stay_inside_the_image() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let outside = fixture.outside();
    let outside = outside.to_str().unwrap();
    let climbing = format!("../../../../../../../../../..{outside}");
    let tar = Tar::new()
        .dir("real/")
        .file("real/file", "inside")
        .symlink("link", "/real")
        .symlink("absolute", outside)
        .symlink("climbing", &climbing)
        .symlink("magic", "/proc/self/root/etc")
        .symlink("loop", "loop")
        .file("plain", "x")
        .done();
    let image = load(&fixture, vec![tar]);
    copied(&fixture, &image, "/link", "through").unwrap();
    assert_eq!(names(&fixture.dir.path().join("through")), ["file"]);
    let layers = fixture.store.layer_dirs(&image).unwrap();
    for path in [
        "/absolute",
        "climbing",
        "climbing/directory",
        "/magic",
        "/none",
        "/plain/x",
    ] {
        assert!(
            ImageDirectory::open(&layers, path).unwrap().is_none(),
            "{path}"
        );
    }
    assert!(ImageDirectory::open(&layers, "/loop").is_err());
    assert!(matches!(
        ImageDirectory::open(&layers, "/plain"),
        Err(Error::NotADirectory { .. })
    ));
}

#[test]
fn holes_stay_holes() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let image = load(
        &fixture,
        vec![Tar::new().dir("d/").file("d/sparse", "").done()],
    );
    let layer = fixture.store.layer_dirs(&image).unwrap().remove(0);
    let source = File::options()
        .write(true)
        .open(layer.join("d/sparse"))
        .unwrap();
    source.set_len(64 << 20).unwrap();
    source.write_all_at(b"begin", 0).unwrap();
    source.write_all_at(b"middle", 32 << 20).unwrap();
    copied(&fixture, &image, "/d", "copy").unwrap();
    let copy = fixture.dir.path().join("copy/sparse");
    let metadata = fs::metadata(&copy).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(
        metadata.blocks() * 512 < 1 << 20,
        "{} blocks",
        metadata.blocks()
    );
    let mut read = [0; 6];
    File::open(&copy)
        .unwrap()
        .read_exact_at(&mut read, 32 << 20)
        .unwrap();
    assert_eq!(&read, b"middle");
}

#[test]
fn what_somebody_else_has_put_there_stays() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let outside = fixture.outside();
    let tar = Tar::new()
        .file("d/mine", "image")
        .file("d/free", "image")
        .dir("d/sub/")
        .file("d/sub/canary", "image")
        .file("d/sub/directory", "image")
        .done();
    let image = load(&fixture, vec![tar]);
    let target = fixture.dir.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "theirs").unwrap();
    // A program in another instance may put a link where the copy goes next.
    symlink(&outside, target.join("sub")).unwrap();
    copy_to(&fixture, &image, "/d", &target, false).unwrap();
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"theirs");
    assert_eq!(fs::read(target.join("free")).unwrap(), b"image");
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
    // After a copy that was cut off, what has our names is ours.
    copy_to(&fixture, &image, "/d", &target, true).unwrap();
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"image");
    assert_eq!(fs::read(target.join("sub/canary")).unwrap(), b"image");
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
    assert_eq!(
        fs::read(outside.join("directory/file")).unwrap(),
        b"alive too"
    );
}

#[test]
fn a_link_swapped_in_while_copying_leads_nowhere() {
    if !is_root() {
        return;
    }
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    struct Stop<'s>(&'s AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let fixture = Fixture::new();
    let tar = Tar::new()
        .dir("d/sub/")
        .file("d/sub/canary", "image")
        .file("d/sub/new", "image")
        .hardlink("d/sub/again", "d/sub/new")
        .entry(b'6', "d/sub/fifo", "", b"")
        .symlink("d/sub/link", "new")
        .done();
    let image = load(&fixture, vec![tar]);
    let target = fixture.dir.path().join("target");
    fs::create_dir_all(target.join("sub")).unwrap();
    // A program that has the same volume swaps a directory for a link out of it, as fast as it can.
    let (place, link) = (target.join("sub"), target.join("link"));
    symlink(fixture.outside(), &link).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _stop = Stop(&done);
        for _ in 0..300 {
            // Where the link is in the way the copy fails, or passes it over.
            let _ = copy_to(&fixture, &image, "/d", &target, false);
        }
    });
    assert_eq!(names(&fixture.outside()), ["canary", "directory"]);
    assert_eq!(
        fs::read(fixture.outside().join("canary")).unwrap(),
        b"alive"
    );
}

#[test]
fn a_directory_deep_down_costs_no_open_files() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let path = "d/".repeat(500);
    let image = load(
        &fixture,
        vec![
            Tar::new()
                .dir(&path)
                .file(format!("{path}f"), "deep")
                .done(),
        ],
    );
    assert_eq!(copied(&fixture, &image, "/d", "deep").unwrap(), 500);
    let copy = fixture.dir.path().join("deep");
    remove_tree(&copy).unwrap();
    assert!(!copy.exists());
    remove_tree(&copy).unwrap();
}

#[test]
fn removing_a_tree_does_not_follow_a_link_in_its_place() {
    let fixture = Fixture::new();
    let link = fixture.dir.path().join("link");
    symlink(fixture.outside(), &link).unwrap();
    assert!(remove_tree(&link).is_err());
    assert_eq!(
        fs::read(fixture.outside().join("canary")).unwrap(),
        b"alive"
    );
}
