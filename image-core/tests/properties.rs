//! Random layers, compared with a model of what the OCI image specification says they mean.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;

use common::{
    Fixture, Parts, Tar, assert_same_tree, in_private_mounts, is_root, mount, mount_overlay, tree,
    umount,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// One entry of a layer, on a path of one to three of three names: so few that entries meet.
#[derive(Clone, Debug)]
enum Step {
    File(Vec<u8>, u8),
    Directory(Vec<u8>),
    Symlink(Vec<u8>, Vec<u8>),
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0u8..3, 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(p, c)| Step::File(p, c)),
        3 => path().prop_map(Step::Directory),
        1 => (path(), path()).prop_map(|(p, t)| Step::Symlink(p, t)),
        2 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
    ]
}

/// What a path is in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Model {
    File(u8),
    Directory,
    Symlink(Vec<u8>),
}

type Tree = BTreeMap<Vec<u8>, Model>;

fn text(path: &[u8]) -> String {
    path.iter()
        .map(|n| format!("n{n}"))
        .collect::<Vec<_>>()
        .join("/")
}

/// The parents that an archive needs, as directories. None when something else is in the way: such an entry is left out, for the
/// specification does not say what it means.
fn parents(own: &Tree, path: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut missing = Vec::new();
    for length in 1..path.len() {
        match own.get(&path[..length]) {
            Some(Model::Directory) => {}
            Some(_) => return None,
            None => missing.push(path[..length].to_vec()),
        }
    }
    Some(missing)
}

fn remove(tree: &mut Tree, path: &[u8]) {
    tree.retain(|known, _| !known.starts_with(path));
}

/// Applies one layer to `below`, and writes it as an archive: deletions concern `below` only, whatever their place in the archive.
fn apply(below: &Tree, steps: &[Step]) -> (Tree, Vec<u8>) {
    let mut own = Tree::new();
    let mut lower = below.clone();
    let mut tar = Tar::new();
    for step in steps {
        let path = match step {
            Step::File(p, _) | Step::Directory(p) | Step::Symlink(p, _) | Step::Whiteout(p) => {
                p.clone()
            }
            // The opaque mark is a file in its directory.
            Step::Opaque(p) => [p.as_slice(), &[0]].concat(),
        };
        // Builders delete what there is: overlayfs shows needless whiteouts in directories that it does not merge.
        if matches!(step, Step::Whiteout(p) if !below.contains_key(p)) {
            continue;
        }
        let Some(missing) = parents(&own, &path) else {
            continue;
        };
        for parent in missing {
            tar = tar.dir(text(&parent) + "/");
            own.insert(parent.clone(), Model::Directory);
            // A directory replaces anything that is none.
            if !matches!(lower.get(&parent), None | Some(Model::Directory)) {
                remove(&mut lower, &parent);
            }
        }
        match step {
            Step::File(_, content) => {
                tar = tar.file(text(&path), [*content]);
                remove(&mut own, &path);
                remove(&mut lower, &path);
                own.insert(path, Model::File(*content));
            }
            Step::Symlink(_, target) => {
                tar = tar.symlink(text(&path), "/".to_owned() + &text(target));
                remove(&mut own, &path);
                remove(&mut lower, &path);
                own.insert(path, Model::Symlink(target.clone()));
            }
            Step::Directory(_) => {
                tar = tar.dir(text(&path) + "/");
                if !matches!(own.get(&path), None | Some(Model::Directory)) {
                    remove(&mut own, &path);
                    remove(&mut lower, &path);
                }
                if !matches!(lower.get(&path), None | Some(Model::Directory)) {
                    remove(&mut lower, &path);
                }
                own.insert(path, Model::Directory);
            }
            Step::Whiteout(_) => {
                let (last, parent) = path.split_last().unwrap();
                let parent = text(parent);
                let slash = if parent.is_empty() { "" } else { "/" };
                tar = tar.file(format!("{parent}{slash}.wh.n{last}"), "");
                remove(&mut lower, &path);
            }
            Step::Opaque(directory) => {
                tar = tar.file(text(directory) + "/.wh..wh..opq", "");
                lower.retain(|known, _| {
                    !(known.starts_with(directory) && known.len() > directory.len())
                });
            }
        }
    }
    let mut merged = lower;
    merged.extend(own);
    (merged, tar.done())
}

/// What is really there.
fn observed(root: &std::path::Path) -> BTreeMap<String, String> {
    tree(root)
        .into_iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, node)| {
            let path = String::from_utf8(path).unwrap();
            let what = match node.kind {
                "file" => format!("file {}", std::fs::read(root.join(&path)).unwrap()[0]),
                "symlink" => format!("symlink {}", node.content),
                other => other.to_owned(),
            };
            (path, what)
        })
        .collect()
}

#[test]
fn layers_mean_what_the_specification_says() {
    if !is_root() || !in_private_mounts("layers_mean_what_the_specification_says") {
        return;
    }
    // Every case mounts an overlay; the first dozen are seen through EROFS too.
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let layers = proptest::collection::vec(proptest::collection::vec(step(), 0..10), 1..4);
    let mut case = 0;
    let cases = std::cell::RefCell::new(&mut case);
    runner
        .run(&layers, |layers| {
            **cases.borrow_mut() += 1;
            let mut model = Tree::new();
            let mut archives = Vec::new();
            for steps in &layers {
                let (merged, archive) = apply(&model, steps);
                model = merged;
                archives.push(archive);
            }
            let fixture = Fixture::new();
            let image = fixture
                .store
                .load(Parts::new(archives).oci().as_slice())
                .unwrap()
                .remove(0);
            let target = fixture.dir.path().join("mounted");
            std::fs::create_dir(&target).unwrap();
            mount_overlay(&fixture.store.layer_dirs(&image).unwrap(), &target);
            let seen = observed(&target);
            let directories = tree(&target);

            let expected: BTreeMap<String, String> = model
                .iter()
                .map(|(path, what)| {
                    let what = match what {
                        Model::File(content) => format!("file {content}"),
                        Model::Directory => "directory".to_owned(),
                        Model::Symlink(to) => format!("symlink /{}", text(to)),
                    };
                    (text(path), what)
                })
                .collect();
            // Without mounting, a file's content is the same.
            for path in expected.keys() {
                if expected[path].starts_with("file ") {
                    let read = fixture.store.read_file(&image, path, 1).unwrap();
                    prop_assert_eq!(read, Some(std::fs::read(target.join(path)).unwrap()));
                }
            }
            if **cases.borrow() <= 12 {
                let mut lower = Vec::new();
                for (n, layer) in fixture
                    .store
                    .erofs_layers(&image)
                    .unwrap()
                    .iter()
                    .enumerate()
                {
                    let path = fixture.dir.path().join(format!("erofs-{n}"));
                    std::fs::create_dir(&path).unwrap();
                    mount(&[
                        OsStr::new("-t"),
                        OsStr::new("erofs"),
                        OsStr::new("-o"),
                        OsStr::new("ro"),
                        layer.path.as_os_str(),
                        path.as_os_str(),
                    ]);
                    lower.push(path);
                }
                let machine = fixture.dir.path().join("machine");
                std::fs::create_dir(&machine).unwrap();
                mount_overlay(&lower, &machine);
                assert_same_tree(&directories, &tree(&machine));
                umount(&machine);
                lower.iter().for_each(|path| umount(path));
            }
            umount(&target);
            prop_assert_eq!(seen, expected);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_damage_to_an_archive_does_worse_than_an_error() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let before = tree(&fixture.outside());
    let layer = Tar::new()
        .dir("d/")
        .file("d/f", vec![1; 700])
        .symlink("d/l", "../d")
        .hardlink("h", "d/f")
        .xattr("user.x", b"y")
        .file("x".repeat(120), "long")
        .file("d/.wh.gone", "")
        .device(b'3', "null", 1, 3)
        .done();
    let archive = Parts::new(vec![layer.clone()]).oci();
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let damage = (
        any::<bool>(),
        proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    );
    runner
        .run(&damage, |(as_layer, changes)| {
            let mut bytes = if as_layer {
                layer.clone()
            } else {
                archive.clone()
            };
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
                if as_layer {
                    // Half of the damage would end at the checksum.
                    let block = at / 512 * 512;
                    let mut header =
                        tar::Header::from_byte_slice(&bytes[block..block + 512]).clone();
                    if header.cksum().is_ok() && header.entry_type().is_file() {
                        header.set_cksum();
                        bytes[block..block + 512].copy_from_slice(header.as_bytes());
                    }
                }
            }
            let result = if as_layer {
                fixture
                    .store
                    .import(bytes.as_slice(), None, &[])
                    .map(|image| vec![image])
            } else {
                fixture.store.load(bytes.as_slice())
            };
            for image in result.into_iter().flatten() {
                fixture.store.remove(&image.id.to_string(), true).unwrap();
            }
            Ok(())
        })
        .unwrap();
    assert_same_tree(&before, &tree(&fixture.outside()));
    fixture.assert_empty();
}
