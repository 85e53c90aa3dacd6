//! Archives of images by other tools' conventions, and what is wrong with some of them.

mod common;

use common::{Fixture, Parts, Tar, descriptor, gzip, is_root, layout, names, zstd};
use image_core::{Digest, Error};
use serde_json::{Value, json};

fn two_layers() -> Parts {
    Parts::new(vec![
        Tar::new().dir("etc/").file("etc/name", "base").done(),
        Tar::new().file("etc/other", "top").done(),
    ])
}

/// The error for an archive, after it has been shown that nothing was left behind.
fn refused(archive: &[u8]) -> Error {
    let fixture = Fixture::new();
    let error = fixture.store.load(archive).unwrap_err();
    fixture.assert_empty();
    error
}

#[test]
fn an_oci_layout_is_loaded_with_its_digests_kept() {
    if !is_root() {
        return;
    }
    for (compress, layer_type) in [
        (
            <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>,
            "application/vnd.oci.image.layer.v1.tar",
        ),
        (gzip, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (zstd, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (gzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ] {
        let fixture = Fixture::new();
        let parts = Parts {
            compress,
            layer_type,
            ..two_layers()
        };
        let images = fixture.store.load(parts.oci().as_slice()).unwrap();
        let image = fixture.store.resolve("test:1").unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(image.id, Digest::of(&parts.config()));
        let (blobs, manifest) = parts.blobs();
        assert_eq!(image.manifest.to_string(), manifest["digest"]);
        assert_eq!(image.names, ["test:1"]);
        // Every blob is stored as it was given, under its digest.
        for blob in blobs {
            let path = fixture
                .store
                .root()
                .join("blobs/sha256")
                .join(Digest::of(&blob).hex());
            assert!(std::fs::read(path).unwrap() == blob);
        }
        assert_eq!(
            fixture
                .store
                .read_file(&image, "etc/other", 9)
                .unwrap()
                .unwrap(),
            b"top"
        );
    }
}

#[test]
fn an_archive_of_docker_save_is_loaded_with_its_id_kept() {
    if !is_root() {
        return;
    }
    let parts = two_layers();
    let whole = parts.docker();
    for archive in [whole.clone(), gzip(&whole), zstd(&whole)] {
        let fixture = Fixture::new();
        let image = fixture.store.load(archive.as_slice()).unwrap().remove(0);
        assert_eq!(image.id, Digest::of(&parts.config()));
        assert_eq!(image.names, ["test:1"]);
        assert_eq!(
            fixture
                .store
                .read_file(&image, "etc/name", 9)
                .unwrap()
                .unwrap(),
            b"base"
        );
    }
}

#[test]
fn layers_that_old_archives_link_to_one_another_are_followed() {
    if !is_root() {
        return;
    }
    let layer = Tar::new().file("a", "x").done();
    let parts = Parts::new(vec![layer.clone(), Tar::new().file("b", "y").done(), layer]);
    let fixture = Fixture::new();
    let image = fixture
        .store
        .load(parts.docker().as_slice())
        .unwrap()
        .remove(0);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(image.layers[0], image.layers[2]);
    assert_eq!(names(&fixture.store.root().join("layers")).len(), 2);
}

#[test]
fn links_of_archives_lead_nowhere_else() {
    if !is_root() {
        return;
    }
    let config = two_layers().config();
    let manifest = |layer: &str| {
        json!([{"Config": "c.json", "RepoTags": null, "Layers": [layer, layer]}]).to_string()
    };
    for (target, layer) in [
        ("/etc/passwd", "l"),
        ("../../etc/passwd", "l"),
        ("l", "l"),
        ("x", "../l"),
        ("x", "/etc/passwd"),
    ] {
        let tar = Tar::new()
            .file("c.json", &config)
            .symlink("l", target)
            .file("manifest.json", manifest(layer));
        let error = refused(&tar.done());
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }
}

#[test]
fn both_formats_of_an_image_share_their_layers() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let parts = two_layers();
    let first = fixture
        .store
        .load(parts.oci().as_slice())
        .unwrap()
        .remove(0);
    let second = fixture
        .store
        .load(parts.docker().as_slice())
        .unwrap()
        .remove(0);
    assert_eq!((first.id, &first.layers), (second.id, &second.layers));
    assert_eq!(names(&fixture.store.root().join("layers")).len(), 2);
    let (blobs, _) = parts.blobs();
    // Layers and configuration once, and one or two manifests.
    let stored = names(&fixture.store.root().join("blobs/sha256")).len();
    assert!(stored <= blobs.len() + 1, "{stored}");
}

#[test]
fn a_layer_that_is_there_already_is_not_unpacked_again() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let base = two_layers();
    let image = fixture.store.load(base.oci().as_slice()).unwrap().remove(0);
    let inode = |n: usize| {
        std::fs::metadata(&fixture.store.layer_dirs(&image).unwrap()[n])
            .unwrap()
            .ino()
    };
    let before = [inode(0), inode(1)];
    let mut more = two_layers();
    more.name = Some("more:1");
    more.layers.push(Tar::new().file("new", "").done());
    let larger = fixture.store.load(more.oci().as_slice()).unwrap().remove(0);
    assert_eq!([inode(0), inode(1)], before);
    assert_eq!(larger.layers[..2], image.layers[..]);
    // Removing one leaves what the other has.
    fixture.store.remove("test:1", false).unwrap();
    assert_eq!(
        fixture
            .store
            .read_file(&larger, "etc/name", 9)
            .unwrap()
            .unwrap(),
        b"base"
    );
    fixture.store.remove("more:1", false).unwrap();
    fixture.assert_empty();
}

#[test]
fn of_several_platforms_ours_is_taken() {
    if !is_root() {
        return;
    }
    let ours = two_layers();
    let foreign = Parts {
        architecture: "arm64",
        ..Parts::new(vec![Tar::new().file("arm", "").done()])
    };
    let newer = Parts::new(vec![Tar::new().file("v3", "").done()]);
    let platform = |mut d: Value, platform: Value| {
        d["platform"] = platform;
        d["annotations"] = Value::Null;
        d
    };
    let (mut blobs, ours_manifest) = ours.blobs();
    let (foreign_blobs, foreign_manifest) = foreign.blobs();
    let (newer_blobs, newer_manifest) = newer.blobs();
    blobs.extend(foreign_blobs);
    blobs.extend(newer_blobs);
    let list = vec![
        platform(
            foreign_manifest.clone(),
            json!({"os": "linux", "architecture": "arm64", "variant": "v8"}),
        ),
        // An attestation, whose manifest the archive does not even hold.
        platform(
            descriptor("application/vnd.oci.image.manifest.v1+json", b"attestation"),
            json!({"os": "unknown", "architecture": "unknown"}),
        ),
        platform(
            newer_manifest,
            json!({"os": "linux", "architecture": "amd64", "variant": "v3"}),
        ),
        platform(
            ours_manifest.clone(),
            json!({"os": "linux", "architecture": "amd64"}),
        ),
    ];
    let expected = Digest::of(&ours.config());
    // As an index inside the archive's index, of either media type …
    for media_type in [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ] {
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": list})
            .to_string()
            .into_bytes();
        let mut described = descriptor(media_type, &index);
        described["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:2", "org.opencontainers.image.ref.name": "2"});
        let mut blobs = blobs.clone();
        blobs.push(index);
        let fixture = Fixture::new();
        let images = fixture
            .store
            .load(layout(&blobs, &[described]).as_slice())
            .unwrap();
        assert_eq!(images.iter().map(|i| i.id).collect::<Vec<_>>(), [expected]);
        assert_eq!(images[0].names, ["multi:2"]);
        // What belongs to the others has not been kept.
        assert_eq!(names(&fixture.store.root().join("layers")).len(), 2);
    }
    // … and side by side in it.
    let fixture = Fixture::new();
    let images = fixture
        .store
        .load(layout(&blobs, &[list[0].clone(), list[3].clone()]).as_slice())
        .unwrap();
    assert_eq!(images.iter().map(|i| i.id).collect::<Vec<_>>(), [expected]);
    assert!(images[0].names.is_empty());
    // Without ours it is refused, with what there is.
    let error = refused(&layout(&blobs, &list[..2]));
    assert_eq!(
        error.to_string(),
        "the archive is for linux/arm64, unknown/unknown, but this engine runs linux/amd64"
    );
    let error = refused(&foreign.docker());
    assert_eq!(
        error.to_string(),
        "image test:1 is for linux/arm64, but this engine runs linux/amd64"
    );
    let error = refused(
        &Parts {
            os: "windows",
            ..two_layers()
        }
        .oci(),
    );
    assert!(error.to_string().contains("windows/amd64"), "{error}");
}

#[test]
fn several_images_of_one_archive_are_all_loaded() {
    if !is_root() {
        return;
    }
    let one = two_layers();
    let other = Parts {
        name: Some("docker.io/library/other:latest"),
        ..Parts::new(vec![Tar::new().file("o", "").done()])
    };
    let (mut blobs, first) = one.blobs();
    let (more, second) = other.blobs();
    blobs.extend(more);
    let mut alias = first.clone();
    alias["annotations"] = json!({"org.opencontainers.image.ref.name": "alias:1"});
    let fixture = Fixture::new();
    let images = fixture
        .store
        .load(layout(&blobs, &[first, second, alias]).as_slice())
        .unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[0].names, ["test:1", "alias:1"]);
    assert_eq!(images[1].names, ["other:latest"]);
}

#[test]
fn a_wrong_digest_is_found_out_wherever_it_is() {
    if !is_root() {
        return;
    }
    let parts = Parts {
        compress: gzip,
        layer_type: "application/vnd.oci.image.layer.v1.tar+gzip",
        ..two_layers()
    };
    let (blobs, manifest) = parts.blobs();
    for index in 0..blobs.len() {
        // The archive calls a blob by the digest it had before a byte of its name in a comment changed.
        let mut changed = blobs.clone();
        let honest = Digest::of(&changed[index]);
        let mut archive = Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        let last = changed[index].len() - 1;
        // A gzip file ends in its length, JSON in a brace: white space after it stays JSON.
        if index == 0 || index == blobs.len() - 1 {
            changed[index].push(b' ');
        } else {
            changed[index][last] ^= 1;
        }
        for (n, blob) in changed.iter().enumerate() {
            let digest = if n == index { honest } else { Digest::of(blob) };
            archive = archive.file(format!("blobs/sha256/{}", digest.hex()), blob);
        }
        archive = archive.file(
            "index.json",
            json!({"schemaVersion": 2, "manifests": [manifest]}).to_string(),
        );
        let error = refused(&archive.done());
        let text = error.to_string();
        assert!(
            matches!(error, Error::DigestMismatch { expected, .. } if expected == honest)
                || text.contains("damaged"),
            "{index}: {text}"
        );
    }
}

#[test]
fn a_wrong_diff_id_is_found_out() {
    if !is_root() {
        return;
    }
    let good = two_layers();
    let config = String::from_utf8(good.config()).unwrap();
    let wrong = config
        .replace(
            &Digest::of(&good.layers[1]).hex(),
            &Digest::of(b"something else").hex(),
        )
        .into_bytes();
    let saved = json!([{"Config": "config.json", "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let archive = Tar::new()
        .file("a/layer.tar", &good.layers[0])
        .file("b/layer.tar", &good.layers[1])
        .file("config.json", &wrong)
        .file("manifest.json", saved.to_string());
    let error = refused(&archive.done());
    assert!(
        matches!(error, Error::DigestMismatch { .. }) && error.to_string().contains("b/layer.tar"),
        "{error}"
    );
}

#[test]
fn a_configuration_under_another_digest_is_found_out() {
    if !is_root() {
        return;
    }
    let parts = two_layers();
    let name = format!("{}.json", Digest::of(b"another").hex());
    let saved = json!([{"Config": name, "Layers": ["a", "b"]}]);
    let archive = Tar::new()
        .file("a", &parts.layers[0])
        .file("b", &parts.layers[1])
        .file(&name, parts.config())
        .file("manifest.json", saved.to_string());
    assert!(matches!(
        refused(&archive.done()),
        Error::DigestMismatch { .. }
    ));
}

#[test]
fn documents_that_lie_are_refused_with_a_sentence() {
    if !is_root() {
        return;
    }
    let parts = two_layers();
    let (blobs, described) = parts.blobs();
    let manifest: Value = serde_json::from_slice(blobs.last().unwrap()).unwrap();
    let with_manifest = |manifest: &Value| {
        let bytes = manifest.to_string().into_bytes();
        let described = descriptor("application/vnd.oci.image.manifest.v1+json", &bytes);
        let mut blobs = blobs.clone();
        blobs.push(bytes);
        refused(&layout(&blobs, &[described])).to_string()
    };
    let change = |path: &str, value: Value| {
        let mut changed = manifest.clone();
        *changed.pointer_mut(path).unwrap() = value;
        with_manifest(&changed)
    };
    assert!(change("/layers/0/size", json!(5)).contains("states 5 bytes"));
    assert!(change("/config/size", json!(5)).contains("states 5 bytes"));
    assert!(change("/layers/1/digest", json!(Digest::of(b"?").to_string())).contains("is missing"));
    assert!(change("/layers/1/digest", json!("sha512:00")).contains("not"));
    assert!(
        change(
            "/layers/0/mediaType",
            json!("application/vnd.oci.image.layer.v1.tar+encrypted")
        )
        .contains("is not supported")
    );
    assert!(
        change(
            "/config/mediaType",
            json!("application/vnd.cncf.helm.config.v1+json")
        )
        .contains("is not supported")
    );
    assert!(change("/schemaVersion", json!(1)).contains("schemaVersion"));
    assert!(change("/layers", json!([])).contains("0 layers"));
    assert!(change("/layers", json!("x")).contains("is not valid"));

    let mut unknown = described.clone();
    unknown["mediaType"] = json!("application/vnd.example.thing");
    assert!(
        refused(&layout(&blobs, &[unknown]))
            .to_string()
            .contains("application/vnd.example.thing")
    );
    let mut missing = described;
    missing["digest"] = json!(Digest::of(b"?").to_string());
    assert!(matches!(
        refused(&layout(&blobs, &[missing])),
        Error::Missing { .. }
    ));
    assert!(matches!(
        refused(&layout(&blobs, &[])),
        Error::Missing { .. }
    ));
    for index in ["", "{", "[]", "null", &"[".repeat(5000)] {
        let error = refused(&Tar::new().file("index.json", index).done());
        assert!(matches!(error, Error::InvalidDocument { .. }), "{error}");
        let error = refused(&Tar::new().file("manifest.json", index).done());
        assert!(
            matches!(error, Error::InvalidDocument { .. } | Error::Missing { .. }),
            "{error}"
        );
    }
}

#[test]
fn an_index_that_lists_itself_through_others_ends() {
    if !is_root() {
        return;
    }
    // A true loop would need a digest of itself; a long chain is the next best thing.
    let (mut blobs, mut described) = two_layers().blobs();
    for _ in 0..10 {
        let index = json!({"schemaVersion": 2, "manifests": [described]})
            .to_string()
            .into_bytes();
        described = descriptor("application/vnd.oci.image.index.v1+json", &index);
        blobs.push(index);
    }
    assert!(
        refused(&layout(&blobs, &[described]))
            .to_string()
            .contains("nested too deeply")
    );
}

#[test]
fn more_layers_than_the_limit_are_refused_and_127_are_not() {
    if !is_root() {
        return;
    }
    let layers = |count: usize| {
        (0..count)
            .map(|n| Tar::new().file(format!("f{n}"), "x").done())
            .collect::<Vec<_>>()
    };
    let fixture = Fixture::new();
    let image = fixture
        .store
        .load(Parts::new(layers(127)).oci().as_slice())
        .unwrap()
        .remove(0);
    assert_eq!(fixture.store.layer_dirs(&image).unwrap().len(), 127);
    assert_eq!(
        fixture.store.read_file(&image, "f0", 1).unwrap().unwrap(),
        b"x"
    );
    let error = refused(&Parts::new(layers(128)).oci());
    assert_eq!(
        error.to_string(),
        "the archive passes the limit of 127 layers in one image"
    );
}

#[test]
fn what_is_no_archive_of_images_is_refused_with_a_sentence() {
    if !is_root() {
        return;
    }
    let rootfs = Tar::new().file("etc/passwd", "x").done();
    assert!(
        refused(&rootfs)
            .to_string()
            .contains("imported, not loaded")
    );
    assert!(refused(b"").to_string().contains("neither an index.json"));
    assert!(matches!(
        refused(b"this is some text that is long enough to be a header or more of an archive"),
        Error::Truncated { .. }
    ));
    assert!(matches!(refused(&[b'x'; 4096]), Error::Malformed { .. }));
    assert!(refused(b"\xfd7zXZ\0rest").to_string().contains("xz"));
    assert!(refused(b"BZh9rest").to_string().contains("bzip2"));
}

#[test]
fn an_archive_cut_short_anywhere_is_refused() {
    if !is_root() {
        return;
    }
    for archive in [
        two_layers().oci(),
        two_layers().docker(),
        gzip(&two_layers().oci()),
        zstd(&two_layers().docker()),
    ] {
        // Without its end marker an archive is still whole.
        let end = archive.len().saturating_sub(1100);
        for length in (0..end).step_by(397) {
            let error = refused(&archive[..length]);
            let told = matches!(
                error,
                Error::Truncated { .. } | Error::Missing { .. } | Error::Malformed { .. }
            );
            assert!(told, "{length}: {error}");
        }
    }
}

#[test]
fn hostile_layers_inside_an_archive_are_refused_as_anywhere() {
    if !is_root() {
        return;
    }
    for layer in [
        Tar::new().file("../x", "").done(),
        Tar::new().device(b'3', "x", 0, 0).done(),
    ] {
        assert!(matches!(
            refused(&Parts::new(vec![layer.clone()]).oci()),
            Error::RefusedEntry { .. }
        ));
        assert!(matches!(
            refused(&Parts::new(vec![layer]).docker()),
            Error::RefusedEntry { .. }
        ));
    }
    assert!(
        refused(&Tar::new().file("../index.json", "").done())
            .to_string()
            .contains("contains '..'")
    );
}
