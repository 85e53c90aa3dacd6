//! Bounded fuzzing: whatever manifests, configurations, indexes, layers and Dockerfiles hold, the answer is an image that is whole or a
//! sentence, never a panic, and nothing stays behind after a sentence.
//!
//! `PROPTEST_CASES=100000 cargo test -p image-core --test fuzz --release` looks longer.

mod common;

use std::fs;
use std::path::Path;

use common::{Parts, Tar, descriptor, gzip, layout};
use image_core::dockerfile::Dockerfile;
use image_core::{Change, Digest, Limits, Reference, Store, apply};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What may be in the place of anything in a document.
fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!("sha256:")),
        Just(json!("sha512:00")),
        Just(json!("linux")),
        Just(json!("arm64")),
        Just(json!(-1)),
        Just(json!([[[[[[[[]]]]]]]])),
        Just(json!("application/vnd.oci.image.layer.v1.tar+zstd")),
        Just(json!("application/vnd.oci.image.index.v1+json")),
        Just(json!("application/x-unheard-of")),
    ]
}

/// All places in a document.
fn places(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(member, &format!("{here}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                places(item, &format!("{here}/{number}"), found);
            }
        }
        _ => {}
    }
}

/// A document with one place replaced or removed.
fn changed(document: &Value, at: usize, by: &Value, remove: bool) -> Value {
    let mut found = Vec::new();
    places(document, "", &mut found);
    let place = &found[at % found.len()];
    let mut changed = document.clone();
    if remove && let Some((parent, name)) = place.rsplit_once('/') {
        match changed.pointer_mut(parent) {
            Some(Value::Object(members)) => {
                members.remove(name);
            }
            Some(Value::Array(items)) => {
                items.remove(name.parse().unwrap());
            }
            _ => {}
        }
    } else if let Some(there) = changed.pointer_mut(place) {
        *there = by.clone();
    }
    changed
}

/// An archive whose documents fit one another but for what was changed in one of them.
fn archive(which: usize, at: usize, by: &Value, remove: bool) -> Vec<u8> {
    let layer = Tar::new().dir("etc/").file("etc/hosts", "a").done();
    let mut config: Value =
        serde_json::from_slice(&Parts::new(vec![layer.clone()]).config()).unwrap();
    if which == 0 {
        config = changed(&config, at, by, remove);
    }
    let config = serde_json::to_vec(&config).unwrap();
    let layer = gzip(&layer);
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        "annotations": {"a": "b"},
    });
    if which == 1 {
        manifest = changed(&manifest, at, by, remove);
    }
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    listed["platform"] = json!({"os": "linux", "architecture": "amd64"});
    listed["annotations"] = json!({"org.opencontainers.image.ref.name": "fuzz:1"});
    if which == 2 {
        listed = changed(&listed, at, by, remove);
    }
    layout(&[config, layer, manifest], &[listed])
}

/// Loads, and checks that what is then in the store is whole, and that nothing is in it otherwise.
fn load(store: &Store, archive: &[u8]) {
    match store.load(archive) {
        Ok(images) => {
            for image in images {
                let found = store.resolve(&image.id.to_string()).unwrap();
                store.layer_dirs(&found).unwrap();
                store.history(&found).unwrap();
                store.raw_config(&found).unwrap();
                let mut saved = Vec::new();
                let id = image.id.to_string();
                store
                    .save(std::slice::from_ref(&id), Default::default(), &mut saved)
                    .unwrap();
                store.remove(&id, true).unwrap();
            }
        }
        Err(error) => {
            let text = error.to_string();
            prop_assert_sentence(&text);
        }
    }
    assert_eq!(left(store), (0, 0, 0));
}

/// Blobs, layers and unfinished work.
fn left(store: &Store) -> (usize, usize, usize) {
    let count = |path: &str| fs::read_dir(store.root().join(path)).unwrap().count();
    (count("blobs/sha256"), count("layers"), count("tmp"))
}

fn prop_assert_sentence(text: &str) {
    assert!(!text.is_empty() && !text.ends_with('.'), "{text:?}");
    assert!(
        text.chars().all(|c| !c.is_control()),
        "a sentence for a terminal: {text:?}"
    );
    // Names are shortened; parsers' reasons repeat a value at the most.
    assert!(text.len() < 2000, "{text}");
}

fn store(directory: &Path) -> Store {
    let limits = Limits {
        layer_bytes: 1 << 20,
        entries: 1000,
        ..Limits::default()
    };
    Store::open(directory).unwrap().with_limits(limits)
}

/// A few cases in a test, the same each time; `make fuzz` asks for as many as fit into its seconds, at about forty a second.
fn config() -> ProptestConfig {
    let seconds = std::env::var("PLIMSOLL_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse::<u32>().ok());
    ProptestConfig {
        cases: seconds.map_or(96, |seconds| seconds.saturating_mul(40).max(96)),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn documents_with_anything_in_any_place(which in 0usize..3, at in 0usize..64, by in anything(), remove: bool) {
        let directory = tempfile::tempdir().unwrap();
        load(&store(directory.path()), &archive(which, at, &by, remove));
    }

    #[test]
    fn archives_of_images_with_bytes_changed(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut in any::<usize>()) {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = archive(3, 0, &Value::Null, false);
        let length = bytes.len();
        for (at, value) in changes {
            bytes[at % length] = value;
        }
        if cut % 3 == 0 {
            bytes.truncate(cut % length);
        }
        load(&store(directory.path()), &bytes);
    }

    #[test]
    fn layers_with_any_headers(
        entries in proptest::collection::vec(
            ("[0-7LKxgSDVM]", proptest::collection::vec(any::<u8>(), 0..40), proptest::collection::vec(any::<u8>(), 0..40), proptest::collection::vec(any::<u8>(), 0..600)),
            0..12,
        )
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let mut tar = Tar::new();
        for (kind, name, link, content) in entries {
            tar = tar.entry(kind.as_bytes()[0], name, link, &content);
        }
        match store.import(tar.done().as_slice(), None, &[]) {
            Ok(image) => {
                store.remove(&image.id.to_string(), true).unwrap();
            }
            Err(error) => prop_assert_sentence(&error.to_string()),
        }
        prop_assert_eq!(left(&store), (0, 0, 0));
    }

    #[test]
    fn dockerfiles_made_of_their_own_words(
        words in proptest::collection::vec(
            prop_oneof![
                "(FROM|ARG|RUN|COPY|ADD|CMD|ENTRYPOINT|ENV|LABEL|EXPOSE|VOLUME|USER|WORKDIR|STOPSIGNAL|SHELL|HEALTHCHECK|MAINTAINER|ONBUILD)",
                "(# escape=`|# syntax=x|AS|--from=a|--chown=1:2|--mount=x|<<EOF|NONE|\\$\\{A:-b\\}|\\$A|\\\\|`|\\[\"a\", \"b\"\\]|scratch|a=b|\"c d\"|'e|80/tcp|/x)",
                Just("\n".to_owned()),
                ".{0,6}",
            ],
            0..40,
        )
    ) {
        let text = words.join(" ");
        if let Err(error) = Dockerfile::parse(text.as_bytes()) {
            prop_assert!(error.to_string().starts_with("Dockerfile line "), "{}", error);
        }
        for line in text.lines() {
            if let Ok(change) = line.parse::<Change>() {
                let change = change.expanded(&|name| Some(name.to_owned()));
                let _ = apply(None, &[change]);
            }
            let _ = line.parse::<Reference>();
            let _ = line.parse::<Digest>();
        }
    }
}

#[test]
fn a_million_entries_take_bounded_memory_and_a_limit_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap().with_limits(Limits {
        entries: 100_000,
        ..Limits::default()
    });
    // The same name again and again: one inode, and a million headers.
    let one = Tar::new().file("same", "").without_end();
    let endless = std::io::Read::take(Repeat { one, at: 0 }, 1_000_000 * 512);
    let error = store.import(endless, None, &[]).unwrap_err().to_string();
    assert!(error.contains("100000 entries"), "{error}");
    assert_eq!(left(&store), (0, 0, 0));
}

struct Repeat {
    one: Vec<u8>,
    at: usize,
}

impl std::io::Read for Repeat {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for byte in buffer.iter_mut() {
            *byte = self.one[self.at];
            self.at = (self.at + 1) % self.one.len();
        }
        Ok(buffer.len())
    }
}
