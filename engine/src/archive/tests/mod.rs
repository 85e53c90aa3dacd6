//! Copying and comparing, with roots and destinations in directories of the test's own and a canary beside them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::{EntryType, Header};

use super::writer::TarWriter;
use super::*;

mod diff;
mod hostile;

/// An instance's root, a directory of the host's, and what neither may touch.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("plimsoll-archive-")
            .tempdir()
            .unwrap();
        for inner in ["root/etc", "host", "outside"] {
            fs::create_dir_all(directory.path().join(inner)).unwrap();
        }
        fs::write(directory.path().join("outside/canary"), "secret").unwrap();
        fs::write(directory.path().join("root/etc/motd"), "hello").unwrap();
        Self { directory }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        self.at(path).to_str().unwrap().to_owned()
    }

    fn remote(&self) -> RootDirectory {
        RootDirectory {
            root: fs::File::open(self.at("root")).unwrap().into(),
            user: None,
        }
    }

    /// `cp c:SOURCE host/DESTINATION`.
    fn fetch(&self, source: &str, destination: &str) -> Result<Copied> {
        self.fetch_with(source, destination, &CopyOptions::default())
    }

    fn fetch_with(&self, source: &str, destination: &str, options: &CopyOptions) -> Result<Copied> {
        let destination = format!("{}/{destination}", self.text("host"));
        from_remote(
            &self.remote(),
            "c",
            source,
            &destination,
            options,
            &mut std::io::sink(),
        )
    }

    /// `cp host/SOURCE c:DESTINATION`.
    fn send(&self, source: &str, destination: &str) -> Result<Copied> {
        self.send_with(source, destination, &CopyOptions::default())
    }

    fn send_with(&self, source: &str, destination: &str, options: &CopyOptions) -> Result<Copied> {
        let source = format!("{}/{source}", self.text("host"));
        to_remote(
            &self.remote(),
            "c",
            &source,
            destination,
            options,
            &mut std::io::empty(),
        )
    }

    /// Unpacks an archive in the root at `directory`.
    fn unpack(&self, directory: &str, archive: &[u8]) -> Result<()> {
        let mut input = archive;
        self.remote().put(directory, &mut input, false)
    }

    #[track_caller]
    fn nothing_outside_was_touched(&self) {
        let outside = self.at("outside");
        assert_eq!(fs::read(outside.join("canary")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 3);
    }
}

/// An archive of entries that no archiver would write: type, name, link or content.
fn tar_of(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tar = TarWriter::new(&mut bytes);
    for (kind, name, rest) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        let is_file = *kind == EntryType::Regular;
        header.set_size(if is_file { rest.len() as u64 } else { 0 });
        let link = if is_file { "" } else { rest };
        tar.header(header, name.as_bytes(), link.as_bytes(), &[])
            .unwrap();
        if is_file {
            tar.content(&mut rest.as_bytes(), rest.len() as u64)
                .unwrap();
        }
    }
    tar.finish().unwrap();
    bytes
}

/// Everything below a directory, by its path: what `find -printf` would say.
fn tree(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let what = if kind.is_dir() {
                ahead.push(path.clone());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                format!("{:?}", fs::read_to_string(&path).unwrap())
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else {
                format!("device {}", metadata.rdev())
            };
            let name = path.strip_prefix(top).unwrap().display().to_string();
            let mode = if kind.is_symlink() {
                0
            } else {
                metadata.mode() & 0o7777
            };
            found.insert(
                name,
                format!("{what} {mode:o} {} {}", metadata.uid(), metadata.mtime()),
            );
        }
    }
    found
}

#[test]
fn arguments_name_an_instance_unless_they_are_paths() {
    for (text, split) in [
        ("c:/x", (Some("c"), "/x")),
        ("c:", (Some("c"), "")),
        ("c:a:b", (Some("c"), "a:b")),
        ("/a:b", (None, "/a:b")),
        ("./a:b", (None, "./a:b")),
        ("../a:b", (None, "../a:b")),
        ("file", (None, "file")),
        ("-", (None, "-")),
    ] {
        assert_eq!(split_argument(text), split, "{text}");
    }
}

#[test]
fn stat_tells_a_link_with_where_it_leads_inside_the_instance() {
    let scene = Scene::new();
    symlink("/etc", scene.at("root/absolute")).unwrap();
    symlink("../../../etc/motd", scene.at("root/etc/climbing")).unwrap();
    symlink("absolute/climbing", scene.at("root/twice")).unwrap();
    symlink("gone/away", scene.at("root/dangling")).unwrap();
    symlink("loop", scene.at("root/loop")).unwrap();
    symlink(scene.at("outside"), scene.at("root/out")).unwrap();
    let remote = scene.remote();
    for (path, target) in [
        ("/absolute", "/etc"),
        ("/etc/climbing", "/etc/motd"),
        ("absolute/climbing", "/etc/motd"),
        ("twice", "/etc/motd"),
        ("/dangling", "/gone/away"),
    ] {
        let stat = remote.stat(path).unwrap();
        assert!(stat.is_link(), "{path}");
        assert_eq!(stat.link_target.as_deref(), Some(target), "{path}");
    }
    for (path, name) in [
        ("/absolute/", "absolute"),
        ("/etc/.", "."),
        ("/", "/"),
        ("", "."),
        ("..", "/"),
    ] {
        let stat = remote.stat(path).unwrap();
        assert!(stat.is_directory() && stat.link_target.is_none(), "{path}");
        assert_eq!(stat.name, name, "{path}");
    }
    for path in ["/none", "/etc/motd/", "/out/canary", "/out/", "/etc/motd/x"] {
        let told = remote.stat(path).unwrap_err();
        assert!(
            matches!(told, ArchiveError::NotFound { .. }),
            "{path}: {told}"
        );
    }
    assert!(remote.stat("/loop").is_err());
}

#[test]
fn a_tree_comes_out_and_goes_in_as_it_was() {
    let scene = Scene::new();
    let data = scene.at("root/data");
    fs::create_dir_all(data.join("sub/empty")).unwrap();
    fs::create_dir_all(data.join("n".repeat(200)).join("m".repeat(120))).unwrap();
    fs::write(
        data.join("n".repeat(200))
            .join("m".repeat(120))
            .join("deep"),
        "x",
    )
    .unwrap();
    fs::write(data.join("tool"), "#!/bin/sh").unwrap();
    fs::set_permissions(data.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(data.join("sub/large"), "0123456789abcdef".repeat(40_000)).unwrap();
    fs::hard_link(data.join("tool"), data.join("sub/again")).unwrap();
    symlink("/etc/passwd", data.join("link")).unwrap();
    symlink("l".repeat(300), data.join("long-link")).unwrap();
    let made = Command::new("mkfifo")
        .arg(data.join("fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    let made = Command::new("mknod")
        .arg(data.join("null"))
        .args(["c", "1", "3"])
        .status()
        .unwrap();
    assert!(made.success());
    std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
    rustix::fs::setxattr(
        data.join("tool"),
        "user.kept",
        b"value",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    for path in ["data/sub", "data/tool", "data"] {
        std::os::unix::fs::chown(scene.at("root").join(path), Some(33), Some(44)).unwrap();
    }
    fs::set_permissions(data.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();

    let keep = CopyOptions {
        archive: true,
        follow_link: false,
    };
    let copied = scene.fetch_with("/data", "copy", &keep).unwrap();
    assert_eq!(copied.to.unwrap(), scene.text("host/copy"));
    assert!(copied.bytes > 640_000 && copied.bytes.is_multiple_of(512));
    let mut expected = tree(&data);
    expected.remove("socket");
    assert_eq!(tree(&scene.at("host/copy")), expected);
    let links = |path: &str| fs::metadata(scene.at(path)).unwrap().nlink();
    assert_eq!(links("host/copy/tool"), 2);
    let mut value = [0; 5];
    rustix::fs::getxattr(scene.at("host/copy/tool"), "user.kept", &mut value).unwrap();
    assert_eq!(&value, b"value");

    scene.send("copy", "/back").unwrap();
    assert_eq!(tree(&scene.at("root/back")), expected);
    assert_eq!(fs::metadata(scene.at("root/back")).unwrap().uid(), 33);
    // Without -a, files belong to whoever copies them.
    scene.fetch("/data/tool", "mine").unwrap();
    assert_eq!(fs::metadata(scene.at("host/mine")).unwrap().uid(), 0);
    scene.nothing_outside_was_touched();
}

#[test]
fn mounts_of_a_running_instance_are_seen_through_its_root() {
    let scene = Scene::new();
    let mount = scene.text("root/etc");
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!("mount -t tmpfs tmpfs {mount} && echo inner > {mount}/file && touch {mount}/ready && exec sleep 60"))
        .spawn()
        .unwrap();
    let root = format!("/proc/{}/root", child.id());
    // What `exec` replaces keeps its number, so the mount is there as soon as the file is.
    for _ in 0..2000 {
        if Path::new(&format!("{root}{mount}/ready")).exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let remote = RootDirectory {
        root: fs::File::open(&root).unwrap().into(),
        user: None,
    };
    let options = CopyOptions::default();
    let (inside, outside) = (format!("{mount}/file"), scene.text("host/copy"));
    let got = from_remote(
        &remote,
        "c",
        &inside,
        &outside,
        &options,
        &mut std::io::sink(),
    );
    let (other, here) = (format!("{mount}/put"), scene.text("host/copy"));
    let put = to_remote(&remote, "c", &here, &other, &options, &mut std::io::empty());
    let there = remote.stat(&other);
    child.kill().unwrap();
    child.wait().unwrap();
    got.unwrap();
    put.unwrap();
    assert_eq!(there.unwrap().size, 6);
    assert_eq!(fs::read(outside).unwrap(), b"inner\n");
    assert_eq!(tree(&scene.at("root/etc")).len(), 1);
}

#[test]
fn minus_a_gives_files_to_the_instances_user() {
    let scene = Scene::new();
    fs::write(scene.at("host/file"), "x").unwrap();
    let remote = RootDirectory {
        user: Some((1000, 1001)),
        ..scene.remote()
    };
    for (archive, owner) in [(false, (0, 0)), (true, (1000, 1001))] {
        let options = CopyOptions {
            archive,
            follow_link: false,
        };
        let source = scene.text("host/file");
        to_remote(
            &remote,
            "c",
            &source,
            "/file",
            &options,
            &mut std::io::empty(),
        )
        .unwrap();
        let metadata = fs::metadata(scene.at("root/file")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), owner);
    }
}

#[test]
fn slashes_dots_and_what_is_there_decide_as_in_docker() {
    // What is copied, where to, and what is there afterwards or what is told. The same rules hold in both directions.
    let cases: &[(&str, &str, Result<&str, &str>)] = &[
        ("dir", "there", Ok("there/dir/file")),
        ("dir/", "there/", Ok("there/dir/file")),
        ("dir/.", "there", Ok("there/file")),
        ("dir/.", "there/.", Ok("there/file")),
        ("dir", "new", Ok("new/file")),
        ("dir/.", "new", Ok("new/file")),
        ("dir", "new/", Ok("new/file")),
        ("dir", "plain", Err("cannot copy directory")),
        ("file", "there", Ok("there/file")),
        ("file", "there/", Ok("there/file")),
        ("file", "new", Ok("new")),
        ("file", "plain", Ok("plain")),
        ("file", "new/", Err("no such directory")),
        ("file", "to-there", Ok("there/file")),
        ("file", "to-plain", Ok("plain")),
        ("file", "to-new", Ok("new")),
        ("file", "there/dir", Err("cannot overwrite directory")),
        ("dir", "blocked", Err("cannot overwrite non-directory")),
        ("link", "there", Ok("there/link")),
        ("link/", "there", Ok("there/link/file")),
        ("link/.", "there", Ok("there/file")),
        ("file/", "there", Err("file")),
        ("none", "there", Err("none")),
        ("file", "none/deeper/x", Err("none/deeper")),
        ("there/.", "there/.", Ok("there/dir")),
    ];
    for from_instance in [true, false] {
        for (source, destination, wanted) in cases {
            let scene = Scene::new();
            let (from, to) = if from_instance {
                ("root", "host")
            } else {
                ("host", "root")
            };
            fs::create_dir(scene.at(from).join("dir")).unwrap();
            fs::write(scene.at(from).join("dir/file"), "inner").unwrap();
            fs::write(scene.at(from).join("file"), "content").unwrap();
            fs::create_dir_all(scene.at(from).join("there/dir")).unwrap();
            symlink("dir", scene.at(from).join("link")).unwrap();
            fs::create_dir(scene.at(to).join("there")).unwrap();
            fs::create_dir(scene.at(to).join("blocked")).unwrap();
            fs::write(scene.at(to).join("blocked/dir"), "a file").unwrap();
            fs::write(scene.at(to).join("plain"), "old").unwrap();
            symlink("there", scene.at(to).join("to-there")).unwrap();
            symlink("plain", scene.at(to).join("to-plain")).unwrap();
            symlink("new", scene.at(to).join("to-new")).unwrap();
            if *destination == "there/dir" {
                fs::create_dir_all(scene.at(to).join("there/dir/file")).unwrap();
            }
            let done = if from_instance {
                scene.fetch(&format!("/{source}"), destination)
            } else {
                scene.send(source, &format!("/{destination}"))
            };
            let told = format!("{from_instance} {source} {destination}: {done:?}");
            match (done, wanted) {
                (Ok(_), Ok(there)) => {
                    let there = scene.at(to).join(there);
                    let metadata = fs::symlink_metadata(&there).expect(&told);
                    if metadata.is_file() {
                        assert_ne!(fs::read(&there).unwrap(), b"old", "{told}");
                    }
                    assert_eq!(metadata.is_symlink(), *source == "link", "{told}");
                }
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{told}: {error}");
                }
                _ => panic!("{told}"),
            }
        }
    }
}

#[test]
fn minus_l_follows_the_source_and_keeps_its_name() {
    let scene = Scene::new();
    fs::create_dir(scene.at("root/real")).unwrap();
    fs::write(scene.at("root/real/file"), "x").unwrap();
    symlink("/real", scene.at("root/link")).unwrap();
    symlink("real/file", scene.at("root/file-link")).unwrap();
    let follow = CopyOptions {
        archive: false,
        follow_link: true,
    };
    scene.fetch_with("/link", "", &follow).unwrap();
    assert!(scene.at("host/link/file").is_file());
    scene.fetch_with("/file-link", "", &follow).unwrap();
    assert!(
        fs::symlink_metadata(scene.at("host/file-link"))
            .unwrap()
            .is_file()
    );
    symlink("link", scene.at("host/again")).unwrap();
    scene.send_with("again", "/", &follow).unwrap();
    assert!(
        fs::symlink_metadata(scene.at("root/again"))
            .unwrap()
            .is_dir()
    );
    scene.send("again", "/etc").unwrap();
    assert!(
        fs::symlink_metadata(scene.at("root/etc/again"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn a_dash_is_an_archive_on_a_stream() {
    let scene = Scene::new();
    let mut archive = Vec::new();
    let options = CopyOptions::default();
    let copied = from_remote(&scene.remote(), "c", "/etc", "-", &options, &mut archive).unwrap();
    assert_eq!((copied.bytes, copied.to), (archive.len() as u64, None));
    let names: Vec<String> = tar::Archive::new(archive.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["etc/", "etc/motd"]);
    fs::create_dir(scene.at("root/new")).unwrap();
    let send = |destination: &str| {
        let mut input = archive.as_slice();
        to_remote(&scene.remote(), "c", "-", destination, &options, &mut input)
    };
    send("/new").unwrap();
    assert_eq!(fs::read(scene.at("root/new/etc/motd")).unwrap(), b"hello");
    for destination in ["/none", "/etc/motd"] {
        let told = send(destination).unwrap_err().to_string();
        assert_eq!(
            told,
            format!("destination \"c:{destination}\" must be a directory")
        );
    }
}

#[test]
fn failures_are_told_in_dockers_words() {
    let scene = Scene::new();
    Command::new("mknod")
        .arg(scene.at("root/null"))
        .args(["c", "1", "3"])
        .status()
        .unwrap();
    fs::write(scene.at("host/file"), "x").unwrap();
    let told = |done: Result<Copied>| done.unwrap_err().to_string();
    assert_eq!(
        told(scene.fetch("/none", "x")),
        "could not find the file /none in container c"
    );
    assert_eq!(
        told(scene.send("file", "/none/x")),
        "could not find the file /none in container c"
    );
    assert_eq!(
        told(scene.send("none", "/x")),
        format!(
            "lstat {}: no such file or directory",
            scene.text("host/none")
        )
    );
    assert_eq!(
        told(scene.send("file", "/null")),
        "destination \"c:/null\" must be a directory or a regular file: got a device"
    );
    assert_eq!(
        told(scene.fetch("/etc", "none/x")),
        format!(
            "invalid output path: directory {:?} does not exist",
            scene.text("host/none")
        )
    );
    let device = from_remote(
        &scene.remote(),
        "c",
        "/etc/motd",
        "/dev/null",
        &CopyOptions::default(),
        &mut std::io::sink(),
    );
    assert!(told(device).contains("got a device"));
    let told = scene.unpack("/etc/motd", &tar_of(&[])).unwrap_err();
    assert!(matches!(told, ArchiveError::NotADirectory { .. }), "{told}");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_keeps_the_archive_whole() {
    let mut bytes = Vec::new();
    let mut tar = TarWriter::new(&mut bytes);
    for (name, content) in [
        ("a", &b"short"[..]),
        ("b", &b"much longer than was said"[..]),
    ] {
        let mut header = Header::new_gnu();
        header.set_size(10);
        tar.header(header, name.as_bytes(), b"", &[]).unwrap();
        tar.content(&mut &*content, 10).unwrap();
    }
    tar.finish().unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let read: Vec<Vec<u8>> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut content = Vec::new();
            entry.unwrap().read_to_end(&mut content).unwrap();
            content
        })
        .collect();
    assert_eq!(read, [b"short\0\0\0\0\0", b"much longe"]);
}
