//! Layers out of directories, images out of layers, archives out of images, and what is collected.

mod common;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::SystemTime;

use common::{Parts, Tar, assert_same_tree, tree, zstd};
use image_core::{
    CachedStep, Change, Digest, Error, Image, Keep, Lease, Reference, Removed, SaveFormat,
    Selection, Step, Store, StoredLayer, Times, TreePacker, apply, derive, empty_configuration,
    pack_upper,
};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn loaded(store: &Store) -> Image {
    let layer = Tar::new().dir("etc/").file("etc/hosts", "a").done();
    store
        .load(Parts::new(vec![layer]).oci().as_slice())
        .unwrap()
        .remove(0)
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// A directory as overlayfs would leave it: files of every kind, a deleted one, and one that hides what is below.
fn upper() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("etc/new")).unwrap();
    fs::write(root.join("etc/new/file"), "content").unwrap();
    fs::set_permissions(
        root.join("etc/new/file"),
        fs::Permissions::from_mode(0o4751),
    )
    .unwrap();
    fs::hard_link(root.join("etc/new/file"), root.join("etc/new/zlink")).unwrap();
    symlink("../x".repeat(60), root.join("etc/long-link")).unwrap();
    fs::write(root.join("etc").join("n".repeat(200)), "long").unwrap();
    fs::write(root.join("etc/new\nline\x1b"), "").unwrap();
    for (path, kind) in [("etc/gone", 'c'), ("etc/fifo", 'p')] {
        let path = root.join(path);
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let kind = if kind == 'c' {
            rustix::fs::FileType::CharacterDevice
        } else {
            rustix::fs::FileType::Fifo
        };
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    }
    fs::create_dir(root.join("opaque")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("opaque"), "trusted.overlay.opaque", b"y", flags).unwrap();
    rustix::fs::setxattr(root.join("etc/new/file"), "user.note", b"kept", flags).unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        root.join("etc/new"),
        Some(rustix::fs::Uid::from_raw(3_000_000)),
        Some(rustix::fs::Gid::from_raw(7)),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    directory
}

fn pack(directory: &Path, times: Times) -> Vec<u8> {
    let mut archive = Vec::new();
    let directory = File::open(directory).unwrap();
    pack_upper(directory.as_fd(), times, &|_| false, &mut archive).unwrap();
    archive
}

fn add(store: &Store, lease: &Lease, archive: &[u8]) -> StoredLayer {
    store
        .add_layer(lease, |output| {
            output.write_all(archive).unwrap();
            Ok(())
        })
        .unwrap()
}

/// An image of one more layer on a base, under a name.
fn derived(store: &Store, base: &Image, archive: &[u8], called: &str) -> Image {
    let lease = store.lease().unwrap();
    lease.hold(base).unwrap();
    let mut layers = store.image_layers(base).unwrap();
    layers.push(add(store, &lease, archive));
    let step = Step {
        created: SystemTime::UNIX_EPOCH,
        created_by: "a test",
        comment: None,
        author: None,
        layer: layers.last().map(|layer| layer.diff_id),
    };
    let changes: Vec<Change> = vec!["ENV A=1".parse().unwrap()];
    let config = apply(base.config.config().as_ref(), &changes).unwrap();
    let config = derive(&store.raw_config(base).unwrap(), &config, &step).unwrap();
    store
        .add_image(&lease, &config, &layers, &[name(called)])
        .unwrap()
}

#[test]
fn an_upper_directory_comes_back_from_its_archive_as_it_was() {
    let upper = upper();
    let archive = pack(upper.path(), Times::Kept);
    let (_directory, store) = store();
    let lease = store.lease().unwrap();
    let unpacked = lease.unpack(archive.as_slice()).unwrap();
    let (mut before, mut after) = (tree(upper.path()), tree(&unpacked));
    for nodes in [&mut before, &mut after] {
        for node in nodes.values_mut() {
            // Archives count seconds.
            node.mtime.1 = 0;
            if node.kind == "char" {
                node.mtime = (0, 0);
                node.mode = 0;
            }
        }
        // The root is whoever's holds it.
        nodes.remove(&b""[..]);
    }
    assert_same_tree(&before, &after);
}

#[test]
fn equal_trees_give_equal_archives_whatever_their_times_and_the_order_of_their_making() {
    let (one, other) = (upper(), upper());
    fs::write(other.path().join("etc/0-first"), "").unwrap();
    fs::remove_file(other.path().join("etc/0-first")).unwrap();
    let late = SystemTime::now() + std::time::Duration::from_secs(1000);
    let file = File::open(other.path().join("etc/new/file")).unwrap();
    file.set_modified(late).unwrap();
    assert_eq!(
        pack(one.path(), Times::NotAfter(1000)),
        pack(other.path(), Times::NotAfter(1000))
    );
    assert_eq!(
        pack(one.path(), Times::All(5)),
        pack(other.path(), Times::All(5))
    );
    assert_ne!(
        pack(one.path(), Times::Kept),
        pack(other.path(), Times::Kept)
    );
}

#[test]
fn a_file_that_would_delete_another_in_an_archive_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(".wh.etc"), "").unwrap();
    let directory = File::open(directory.path()).unwrap();
    let refused = pack_upper(directory.as_fd(), Times::Kept, &|_| false, &mut Vec::new());
    assert!(matches!(refused, Err(Error::RefusedEntry { .. })));
}

#[test]
fn a_tree_is_packed_with_other_owners_modes_and_names_and_without_what_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("a/b")).unwrap();
    fs::write(directory.path().join("a/b/kept"), "1").unwrap();
    fs::write(directory.path().join("a/left"), "2").unwrap();
    let mut archive = Vec::new();
    let mut packer = TreePacker::new(&mut archive, Times::All(1));
    let keeps = |path: &[u8]| match path {
        b"a/left" => Keep::NothingBelow,
        _ => Keep::Yes,
    };
    let selection = Selection {
        keeps: Some(&keeps),
        owner: Some((5, 6)),
        mode: Some(0o600),
        ..Selection::default()
    };
    let root = File::open(directory.path()).unwrap();
    packer.add(root.as_fd(), b"a", b"to", &selection).unwrap();
    packer.finish().unwrap();
    let mut read = tar::Archive::new(archive.as_slice());
    let found: Vec<_> = read
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            (
                entry.path().unwrap().to_string_lossy().into_owned(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mode().unwrap(),
                header.mtime().unwrap(),
            )
        })
        .collect();
    let wanted = ["to/", "to/b/", "to/b/kept"].map(|path| (path.to_owned(), 5, 6, 0o600, 1));
    assert_eq!(found, wanted);
}

#[test]
fn a_new_layer_is_the_same_blob_each_time_and_unpacked_beside_it() {
    let archive = pack(upper().path(), Times::All(9));
    let blobs: Vec<StoredLayer> = (0..2)
        .map(|_| {
            let (_directory, store) = store();
            let lease = store.lease().unwrap();
            let layer = add(&store, &lease, &archive);
            assert_eq!(layer.diff_id, Digest::of(&archive));
            let tree = store.root().join("layers").join(layer.diff_id.hex());
            assert!(tree.join("fs/etc/new/file").exists());
            layer
        })
        .collect();
    assert_eq!(blobs[0], blobs[1]);
}

#[test]
fn what_a_lease_keeps_survives_the_removal_of_its_image_and_goes_after_it() {
    let (_directory, store) = store();
    let image = loaded(&store);
    let layer = store.root().join("layers").join(image.layers[0].hex());
    let lease = store.lease().unwrap();
    lease.hold(&image).unwrap();
    let fresh = add(&store, &lease, &pack(upper().path(), Times::Kept));
    let fresh = store.root().join("layers").join(fresh.diff_id.hex());
    assert_eq!(
        store.remove("test:1", false).unwrap(),
        [
            Removed::Untagged("test:1".into()),
            Removed::Deleted(image.id)
        ]
    );
    assert!(layer.exists() && fresh.exists());
    assert!(store.resolve("test:1").is_err());
    drop(lease);
    store.prune_cache(&|_| true).unwrap();
    assert!(!layer.exists() && !fresh.exists());
}

#[test]
fn an_image_on_a_base_shares_its_layers_and_says_what_was_done() {
    let (_directory, store) = store();
    let base = loaded(&store);
    let image = derived(&store, &base, &pack(upper().path(), Times::Kept), "more:1");
    assert_eq!(image.layers[0], base.layers[0]);
    assert_eq!(image.layers.len(), 2);
    let history = store.history(&image).unwrap();
    assert_eq!(history[0].created_by, "a test");
    assert_eq!(history.len(), 2);
    let usage = store.usage().unwrap();
    let (shared, unique) = usage.shared_and_unique(image.id);
    assert_eq!(shared, 1, "the base's one file has one byte");
    assert_eq!(usage.bytes(), shared + unique);
    store.remove("test:1", false).unwrap();
    assert_eq!(store.layer_dirs(&image).unwrap().len(), 2);
}

#[test]
fn a_name_more_is_a_name_and_takes_it_from_the_image_that_had_it() {
    let (_directory, store) = store();
    let base = loaded(&store);
    let image = derived(&store, &base, &pack(upper().path(), Times::Kept), "more:1");
    store.tag("test:1", &name("other:2")).unwrap();
    assert_eq!(store.resolve("other:2").unwrap().id, base.id);
    store.tag("more:1", &name("other:2")).unwrap();
    assert_eq!(store.resolve("other:2").unwrap().id, image.id);
    assert_eq!(store.resolve("test:1").unwrap().names, ["test:1"]);
    assert!(matches!(
        store.tag("nothing", &name("x")),
        Err(Error::ImageNotFound(_))
    ));
}

#[test]
fn an_archive_of_images_is_loaded_with_every_digest_and_is_the_same_each_time() {
    let (_directory, store) = store();
    let base = loaded(&store);
    let image = derived(&store, &base, &pack(upper().path(), Times::Kept), "more:1");
    store.tag("more:1", &name("more:2")).unwrap();
    for format in [SaveFormat::Both, SaveFormat::Oci] {
        let save = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            let mut archive = Vec::new();
            store.save(&wanted, format, &mut archive).unwrap();
            archive
        };
        let archive = save(&["more", "test:1"]);
        assert_eq!(archive, save(&["test:1", "more"]));
        let (_other, second) = self::store();
        let images = second.load(archive.as_slice()).unwrap();
        assert_eq!(images.len(), 2);
        let found = second.resolve("more:2").unwrap();
        assert_eq!((found.id, found.manifest), (image.id, image.manifest));
        assert_eq!(second.resolve("more:1").unwrap().id, image.id);
        assert_eq!(second.resolve("test:1").unwrap().manifest, base.manifest);
        // By its ID an image is saved without a name.
        let (_third, third) = self::store();
        third
            .load(save(&[&image.id.to_string()]).as_slice())
            .unwrap();
        assert_eq!(third.list().unwrap()[0].repository, None);
    }
}

#[test]
fn dockers_older_archive_has_its_layers_inflated_and_keeps_the_image_id() {
    let (_directory, store) = store();
    let layer = Tar::new().file("f", "x".repeat(5000)).done();
    let mut parts = Parts::new(vec![layer.clone()]);
    parts.compress = zstd;
    parts.layer_type = "application/vnd.oci.image.layer.v1.tar+zstd";
    let image = store.load(parts.oci().as_slice()).unwrap().remove(0);
    let mut archive = Vec::new();
    store
        .save(&["test:1".into()], SaveFormat::Docker, &mut archive)
        .unwrap();
    let mut read = tar::Archive::new(archive.as_slice());
    let inflated = read
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .any(|mut entry| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            bytes == layer
        });
    assert!(inflated);
    let (_other, second) = self::store();
    assert_eq!(second.load(archive.as_slice()).unwrap()[0].id, image.id);
}

#[test]
fn a_step_of_a_build_is_remembered_with_its_layer_until_the_cache_is_pruned() {
    let (_directory, store) = store();
    let key = Digest::of(b"key");
    let in_use = store.use_cache().unwrap();
    let step = {
        let lease = store.lease().unwrap();
        assert_eq!(store.cached(&lease, key).unwrap(), None);
        let step = CachedStep {
            layer: Some(add(&store, &lease, &pack(upper().path(), Times::Kept))),
            instruction: "RUN it".to_owned(),
            created: 1,
        };
        store.remember(&lease, key, &step).unwrap();
        step
    };
    // Whatever collects now finds it in use.
    loaded(&store);
    let lease = store.lease().unwrap();
    assert_eq!(store.cached(&lease, key).unwrap(), Some(step.clone()));
    assert!(store.prune_cache(&|_| true).unwrap().is_none());
    drop((in_use, lease));
    assert_eq!(store.prune_cache(&|_| false).unwrap().unwrap().len(), 0);
    assert_eq!(store.prune_cache(&|_| true).unwrap().unwrap().len(), 1);
    let layer = step.layer.unwrap();
    assert!(
        !store
            .root()
            .join("layers")
            .join(layer.diff_id.hex())
            .exists()
    );
    let lease = store.lease().unwrap();
    assert_eq!(store.cached(&lease, key).unwrap(), None);
}

#[test]
fn a_step_whose_layer_is_damaged_away_is_forgotten() {
    let (_directory, store) = store();
    let _in_use = store.use_cache().unwrap();
    let lease = store.lease().unwrap();
    let key = Digest::of(b"key");
    let layer = add(&store, &lease, &pack(upper().path(), Times::Kept));
    let step = CachedStep {
        layer: Some(layer.clone()),
        instruction: String::new(),
        created: 0,
    };
    store.remember(&lease, key, &step).unwrap();
    fs::remove_dir_all(store.root().join("layers").join(layer.diff_id.hex())).unwrap();
    assert_eq!(store.cached(&lease, key).unwrap(), None);
}

#[test]
fn a_layer_whose_packing_fails_leaves_nothing() {
    let (_directory, store) = store();
    let lease = store.lease().unwrap();
    let failed = store.add_layer(&lease, |output| {
        output.write_all(&[0; 3000]).unwrap();
        Err(Error::ImageNotFound("on purpose".into()))
    });
    assert!(matches!(failed, Err(Error::ImageNotFound(_))), "{failed:?}");
    let cut = store.add_layer(&lease, |output| {
        output
            .write_all(&Tar::new().file("a", "b").without_end())
            .unwrap();
        Ok(())
    });
    assert!(matches!(cut, Err(Error::Truncated { .. })), "{cut:?}");
    assert_eq!(
        fs::read_dir(store.root().join("layers")).unwrap().count(),
        0
    );
    let empty = derive(
        &empty_configuration(),
        &apply(None, &[]).unwrap(),
        &Step {
            created: SystemTime::UNIX_EPOCH,
            created_by: "",
            comment: None,
            author: None,
            layer: None,
        },
    );
    assert_eq!(Image::provisional(&empty.unwrap()).unwrap().layers, []);
}
