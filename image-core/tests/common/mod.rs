//! What the tests of this crate share: archives with any content whatever, and trees to compare.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses a part of it"
)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use image_core::{Digest, Store};
use serde_json::{Value, json};

/// A store in a directory of its own, with a canary beside it that nothing may touch.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "alive").unwrap();
        std::fs::create_dir(outside.join("directory")).unwrap();
        std::fs::write(outside.join("directory/file"), "alive too").unwrap();
        Self { dir, store }
    }

    pub fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Nothing half made may be visible, and nothing may be left in the workspace.
    pub fn assert_empty(&self) {
        assert_eq!(self.store.list().unwrap(), []);
        for directory in ["layers", "tmp", "blobs/sha256", "erofs"] {
            let left: Vec<_> = names(&self.store.root().join(directory));
            assert!(left.is_empty(), "{directory}: {left:?}");
        }
    }
}

pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Most of what is tested here needs root: device nodes, owners, trusted attributes.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// An archive written header by header, so that it can say what no archiver would write.
#[derive(Clone)]
pub struct Tar {
    bytes: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
}

impl Tar {
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 1_600_000_000,
        }
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.pad()
    }

    fn pad(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn header(&self, kind: u8, name: &[u8], link: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header.set_size(size);
        let bytes = header.as_mut_bytes();
        bytes[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        bytes[156] = kind;
        header.set_cksum();
        header
    }

    pub fn entry(
        mut self,
        kind: u8,
        name: impl AsRef<[u8]>,
        link: impl AsRef<[u8]>,
        content: &[u8],
    ) -> Self {
        let (name, link) = (name.as_ref(), link.as_ref());
        if name.len() > 100 {
            self = self.entry(b'L', "././@LongLink", "", &[name, b"\0"].concat());
        }
        if link.len() > 100 {
            self = self.entry(b'K', "././@LongLink", "", &[link, b"\0"].concat());
        }
        let header = self.header(kind, name, link, content.len() as u64);
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(content);
        self.pad()
    }

    pub fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name, "", content.as_ref())
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(b'5', name, "", b"")
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(b'2', name, target, b"")
    }

    pub fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(b'1', name, target, b"")
    }

    pub fn device(mut self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        let mut header = self.header(kind, name.as_bytes(), b"", 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while body + length.to_string().len() != length {
                length += 1;
            }
            content.extend(format!("{length} {key}=").bytes());
            content.extend(*value);
            content.push(b'\n');
        }
        self.entry(b'x', "PaxHeaders/x", "", &content)
    }

    pub fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.pax(&[(&format!("SCHILY.xattr.{name}"), value)])
    }

    /// The archive with its end marker.
    pub fn done(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    pub fn without_end(self) -> Vec<u8> {
        self.bytes
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image as its parts, to be written as either kind of archive.
pub struct Parts {
    /// Uncompressed layer archives.
    pub layers: Vec<Vec<u8>>,
    pub name: Option<&'static str>,
    pub compress: fn(&[u8]) -> Vec<u8>,
    pub layer_type: &'static str,
    pub architecture: &'static str,
    pub os: &'static str,
}

impl Parts {
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        Self {
            layers,
            name: Some("test:1"),
            compress: <[u8]>::to_vec,
            layer_type: "application/vnd.oci.image.layer.v1.tar",
            architecture: "amd64",
            os: "linux",
        }
    }

    pub fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|l| Digest::of(l).to_string())
            .collect();
        let config = json!({
            "architecture": self.architecture, "os": self.os, "created": "2022-03-04T05:06:07Z",
            "config": {"Cmd": ["/bin/true"], "Env": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "a test"}],
        });
        serde_json::to_vec(&config).unwrap()
    }

    /// All blobs, and the manifest's descriptor.
    pub fn blobs(&self) -> (Vec<Vec<u8>>, Value) {
        let mut blobs = vec![self.config()];
        let config = descriptor("application/vnd.oci.image.config.v1+json", &blobs[0]);
        let layers: Vec<Vec<u8>> = self
            .layers
            .iter()
            .map(|layer| (self.compress)(layer))
            .collect();
        let described: Vec<Value> = layers
            .iter()
            .map(|layer| descriptor(self.layer_type, layer))
            .collect();
        blobs.extend(layers);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": described,
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut described = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        if let Some(name) = self.name {
            described["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        blobs.push(manifest);
        (blobs, described)
    }

    pub fn oci(&self) -> Vec<u8> {
        let (blobs, manifest) = self.blobs();
        layout(&blobs, &[manifest])
    }

    /// What `docker save` wrote until version 24.
    pub fn docker(&self) -> Vec<u8> {
        let config = self.config();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let mut tar = Tar::new();
        let mut files = Vec::new();
        let mut known: HashMap<Vec<u8>, String> = HashMap::new();
        for (n, layer) in self.layers.iter().enumerate() {
            let name = format!("{n:064x}/layer.tar");
            tar = tar
                .dir(format!("{n:064x}/"))
                .file(format!("{n:064x}/VERSION"), "1.0");
            tar = match known.get(layer) {
                Some(same) => tar.symlink(&name, format!("../{same}")),
                None => tar.file(&name, (self.compress)(layer)),
            };
            known.entry(layer.clone()).or_insert(name.clone());
            files.push(name);
        }
        let tags: Vec<&str> = self.name.into_iter().collect();
        let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": files}]);
        tar.file(&config_name, config)
            .file("manifest.json", manifest.to_string())
            .done()
    }
}

pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content).to_string(), "size": content.len()})
}

pub fn layout(blobs: &[Vec<u8>], manifests: &[Value]) -> Vec<u8> {
    let mut tar = Tar::new()
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .dir("blobs/")
        .dir("blobs/sha256/");
    for blob in blobs {
        tar = tar.file(format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    tar.file("index.json", index.to_string()).done()
}

/// Everything that can be seen of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub device: u64,
    /// A link's target, or a file's digest.
    pub content: String,
    pub size: u64,
    /// The first path with the same inode.
    pub same_as: Option<Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A directory and everything below it, by relative path; the root is the empty one.
pub fn tree(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut found = BTreeMap::new();
    let mut inodes = HashMap::new();
    let mut ahead = vec![Vec::new()];
    while let Some(path) = ahead.pop() {
        let absolute = root.join(OsStr::from_bytes(&path));
        let metadata = std::fs::symlink_metadata(&absolute).unwrap();
        let kind = metadata.file_type();
        let (name, content) = if kind.is_dir() {
            let mut inner: Vec<Vec<u8>> = std::fs::read_dir(&absolute)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
                .map(|name| {
                    if path.is_empty() {
                        name
                    } else {
                        [&path[..], b"/", &name].concat()
                    }
                })
                .collect();
            inner.sort();
            inner.reverse();
            ahead.extend(inner);
            ("directory", String::new())
        } else if kind.is_symlink() {
            (
                "symlink",
                std::fs::read_link(&absolute)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
            )
        } else if kind.is_file() {
            (
                "file",
                Digest::of(&std::fs::read(&absolute).unwrap()).to_string(),
            )
        } else if kind.is_char_device() {
            ("char", String::new())
        } else if kind.is_block_device() {
            ("block", String::new())
        } else {
            assert!(kind.is_fifo(), "{absolute:?}");
            ("fifo", String::new())
        };
        let inode = (metadata.dev(), metadata.ino());
        let same_as = (!kind.is_dir())
            .then(|| inodes.entry(inode).or_insert_with(|| path.clone()).clone())
            .filter(|first| *first != path);
        found.insert(
            path,
            Node {
                kind: name,
                mode: if kind.is_symlink() {
                    0
                } else {
                    metadata.mode() & 0o7777
                },
                owner: (metadata.uid(), metadata.gid()),
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                device: if kind.is_char_device() || kind.is_block_device() {
                    metadata.rdev()
                } else {
                    0
                },
                content,
                size: if kind.is_file() { metadata.len() } else { 0 },
                same_as,
                xattrs: xattrs(&absolute),
            },
        );
    }
    found
}

pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap();
    let names = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        // Ours, for the servers of virtio-fs: no file's own, and on a directory of a layer wherever the overlay's is.
        .filter(|name| !name.starts_with(b"user.plimsoll."));
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// Says what differs, instead of two trees a screen long.
pub fn assert_same_tree(left: &BTreeMap<Vec<u8>, Node>, right: &BTreeMap<Vec<u8>, Node>) {
    let mut differences = Vec::new();
    for path in left.keys().chain(right.keys()) {
        let (l, r) = (left.get(path), right.get(path));
        if l != r {
            differences.push(format!(
                "{}:\n  {l:?}\n  {r:?}",
                String::from_utf8_lossy(path)
            ));
        }
    }
    differences.dedup();
    let shown = differences.len().min(10);
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences[..shown].join("\n")
    );
}

/// The environment variable by which a test that runs itself again knows that it is the child.
pub const CHILD: &str = "PLIMSOLL_IMAGE_TEST_CHILD";

/// Runs the rest of the test `name` in a child with a mount namespace of its own, and fails with it. True in the child.
pub fn in_private_mounts(name: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    // What the child mounts holds its directories up until its namespace is gone: this process removes them then.
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("TMPDIR", scratch.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        said.contains("1 passed") || !output.status.success(),
        "the child did not run {name}:\n{said}"
    );
    assert!(output.status.success(), "{said}");
    false
}

pub fn mount(arguments: &[&OsStr]) {
    let output = Command::new("mount").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "mount {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn umount(path: &Path) {
    assert!(Command::new("umount").arg(path).status().unwrap().success());
}

/// Mounts an overlay of `lower`, topmost first, without anything to write to.
pub fn mount_overlay(lower: &[PathBuf], target: &Path) {
    let mut list: Vec<&OsStr> = lower.iter().map(|path| path.as_os_str()).collect();
    // Overlayfs without an upper layer wants at least two lower ones.
    let empty = target.with_extension("empty");
    std::fs::create_dir_all(&empty).unwrap();
    list.push(empty.as_os_str());
    let mut options = std::ffi::OsString::from("lowerdir=");
    options.push(list.join(OsStr::new(":")));
    mount(&[
        OsStr::new("-t"),
        OsStr::new("overlay"),
        OsStr::new("overlay"),
        OsStr::new("-o"),
        &options,
        target.as_os_str(),
    ]);
}
