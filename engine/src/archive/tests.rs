//! Copying and comparing, with roots and destinations in directories of the test's own and a canary beside them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use tar::{EntryType, Header};

use super::writer::TarWriter;
use super::*;

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

/// A remote that answers with an archive of the test's own, as a hostile agent would.
struct Hostile {
    stat: PathStat,
    archive: Vec<u8>,
    endless: bool,
}

impl Remote for Hostile {
    fn stat(&self, _path: &str) -> Result<PathStat> {
        Ok(self.stat.clone())
    }

    fn get(&self, _path: &str, output: &mut dyn Write) -> Result<()> {
        let failed = |e| ArchiveError::io("send", b"archive", e);
        output.write_all(&self.archive).map_err(failed)?;
        if self.endless {
            loop {
                output.write_all(&[0; 65_536]).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn put(&self, _directory: &str, _input: &mut dyn Read, _keep_owners: bool) -> Result<()> {
        Ok(())
    }
}

fn hostile(archive: Vec<u8>) -> Hostile {
    Hostile {
        stat: PathStat {
            name: "x".into(),
            size: 0,
            mode: libc::S_IFDIR | 0o755,
            mtime: (0, 0),
            link_target: None,
        },
        archive,
        endless: false,
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
fn what_an_instance_has_never_leads_out_of_it() {
    let scene = Scene::new();
    let outside = scene.at("outside");
    symlink(&outside, scene.at("root/absolute")).unwrap();
    symlink("../outside", scene.at("root/climbing")).unwrap();
    symlink("/proc/self/root", scene.at("root/magic")).unwrap();
    fs::write(scene.at("host/file"), "x").unwrap();
    for path in ["/absolute", "/climbing", "/magic/etc", "/../outside"] {
        assert!(
            scene.fetch(&format!("{path}/canary"), "x").is_err(),
            "{path}"
        );
        assert!(scene.fetch(&format!("{path}/."), "x").is_err(), "{path}");
        assert!(scene.send("file", &format!("{path}/x")).is_err(), "{path}");
        let archive = tar_of(&[(EntryType::Regular, "x", "x")]);
        assert!(scene.unpack(path, &archive).is_err(), "{path}");
    }
    // The links themselves are copied, as links.
    scene.fetch("/.", "all").unwrap();
    assert!(
        fs::symlink_metadata(scene.at("host/all/climbing"))
            .unwrap()
            .is_symlink()
    );
    scene.nothing_outside_was_touched();
}

#[test]
fn an_archive_never_writes_out_of_its_destination() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let scene = Scene::new();
    let outside = scene.text("outside");
    let through = format!("{outside}/canary");
    let cases: &[&[(EntryType, &str, &str)]] = &[
        &[(Regular, "../outside/canary", "bad")],
        &[(Regular, "x/../../outside/canary", "bad")],
        &[(Symlink, "x", &outside), (Regular, "x/canary", "bad")],
        &[(Symlink, "x", "../outside"), (Regular, "x/canary", "bad")],
        &[(Symlink, "x", "../outside"), (Regular, "x/new/file", "bad")],
        &[
            (Symlink, "x", "."),
            (Symlink, "x/y", "../outside"),
            (Regular, "x/y/canary", "bad"),
        ],
        &[(Symlink, "x", &outside), (Directory, "x/", "")],
        &[(Link, "x", "../outside/canary"), (Regular, "x", "bad")],
        &[(Symlink, "y", &outside), (Link, "x", "y/canary")],
        &[(Symlink, "x", "x"), (Regular, "x/y", "bad")],
        &[(Regular, "", "bad")],
        &[(Link, "x", "")],
        &[(Symlink, "x", "")],
    ];
    for (n, entries) in cases.iter().enumerate() {
        let into = format!("into-{n}");
        fs::create_dir(scene.at("root").join(&into)).unwrap();
        assert!(
            scene.unpack(&into, &tar_of(entries)).is_err(),
            "{entries:?}"
        );
        scene.nothing_outside_was_touched();
        // And from an instance to the host.
        fs::create_dir(scene.at("host").join(&into)).unwrap();
        let destination = format!("{}/{into}", scene.text("host"));
        let remote = hostile(tar_of(entries));
        let done = from_remote(
            &remote,
            "c",
            "/x/.",
            &destination,
            &CopyOptions::default(),
            &mut std::io::sink(),
        );
        assert!(done.is_err(), "{entries:?}");
        scene.nothing_outside_was_touched();
    }
    // A leading slash means the destination, as for tar programs.
    scene
        .unpack("/", &tar_of(&[(Regular, &through, "harmless")]))
        .unwrap();
    scene.nothing_outside_was_touched();
    assert!(
        scene
            .at("root")
            .join(through.trim_start_matches('/'))
            .is_file()
    );
}

#[test]
fn an_instance_cannot_send_files_that_were_not_asked_for() {
    use EntryType::{Directory, Link, Regular};
    let scene = Scene::new();
    fs::write(scene.at("host/mine"), "mine").unwrap();
    let cases: &[&[(EntryType, &str, &str)]] = &[
        &[(Regular, ".bashrc", "bad")],
        &[(Directory, "x/", ""), (Regular, "mine", "bad")],
        &[(Directory, "x/", ""), (Link, "x/stolen", "mine")],
    ];
    for entries in cases {
        for destination in ["", "new"] {
            let destination = format!("{}/{destination}", scene.text("host"));
            let remote = hostile(tar_of(entries));
            let told = from_remote(
                &remote,
                "c",
                "/x",
                &destination,
                &CopyOptions::default(),
                &mut std::io::sink(),
            );
            let told = told.unwrap_err().to_string();
            assert!(told.contains("nobody has asked for it"), "{told}");
        }
    }
    assert_eq!(fs::read(scene.at("host/mine")).unwrap(), b"mine");
    assert!(!scene.at("host/.bashrc").exists());
}

#[test]
fn an_archive_that_never_ends_is_left() {
    let scene = Scene::new();
    let mut remote = hostile(tar_of(&[(EntryType::Regular, "x", "content")]));
    remote.endless = true;
    remote.stat.mode = libc::S_IFREG | 0o644;
    let destination = scene.text("host/x");
    let copy = |remote: &Hostile| {
        from_remote(
            remote,
            "c",
            "/x",
            &destination,
            &CopyOptions::default(),
            &mut std::io::sink(),
        )
    };
    copy(&remote).unwrap();
    assert_eq!(fs::read(scene.at("host/x")).unwrap(), b"content");
    // And one that is cut short is told as such.
    remote.endless = false;
    remote.archive.truncate(700);
    let told = copy(&remote).unwrap_err();
    assert!(
        matches!(told, ArchiveError::Io { .. } | ArchiveError::Archive(_)),
        "{told}"
    );
}

/// Swaps a directory for a link to `outside` and back, at once each time, while something goes on.
fn while_swapping(scene: &Scene, mut work: impl FnMut()) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let done = AtomicBool::new(false);
    let (place, link) = (scene.at("root/swap"), scene.at("root/link"));
    fs::create_dir(&place).unwrap();
    fs::write(place.join("canary"), "decoy").unwrap();
    symlink(scene.at("outside"), &link).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..400 {
            work();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_link_swapped_in_while_copying_out_shows_nothing_of_the_host() {
    let scene = Scene::new();
    let remote = scene.remote();
    let mut decoys = 0;
    while_swapping(&scene, || {
        for path in ["/swap/canary", "/swap/.", "/."] {
            let mut archive = Vec::new();
            // Whatever is there at the moment, or nothing.
            let _ = remote.get(path, &mut archive);
            let holds = |word: &[u8]| archive.windows(word.len()).any(|part| part == word);
            assert!(!holds(b"secret"), "{path}");
            decoys += usize::from(holds(b"decoy"));
        }
    });
    assert!(decoys > 0, "the directory was never there");
    scene.nothing_outside_was_touched();
}

#[test]
fn a_link_swapped_in_while_copying_in_leads_nowhere() {
    let scene = Scene::new();
    let remote = scene.remote();
    let archive = tar_of(&[
        (EntryType::Regular, "swap/canary", "new"),
        (EntryType::Regular, "swap/more", "new"),
        (EntryType::Symlink, "swap/link", "canary"),
    ]);
    let inner = tar_of(&[
        (EntryType::Regular, "canary", "new"),
        (EntryType::Fifo, "fifo", ""),
    ]);
    while_swapping(&scene, || {
        let _ = remote.put("/", &mut archive.as_slice(), false);
        let _ = remote.put("/swap", &mut inner.as_slice(), false);
    });
    scene.nothing_outside_was_touched();
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

fn letters(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| format!("{} {}", change.kind.letter(), change.path))
        .collect()
}

/// Runs a script in an overlay of `lower` with a new upper layer, which stays; None where overlays cannot be mounted.
fn upper_after(scene: &Scene, lower: &[&Path], script: &str) -> Option<PathBuf> {
    let (upper, work, merged) = (
        scene.at("host/upper"),
        scene.at("host/work"),
        scene.at("host/merged"),
    );
    for path in [&upper, &work, &merged] {
        fs::create_dir_all(path).unwrap();
    }
    let lower: Vec<&str> = lower.iter().map(|path| path.to_str().unwrap()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!(
            "mount -t overlay overlay -o {options} {0} && cd {0} && {script}",
            merged.display()
        ))
        .output()
        .unwrap();
    if !done.status.success() {
        eprintln!(
            "skipped: no overlay here: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        return None;
    }
    Some(upper)
}

#[test]
fn diff_tells_what_docker_tells() {
    let scene = Scene::new();
    let (base, top) = (scene.at("root/base"), scene.at("root/top"));
    for path in ["etc/apt", "srv/data/deep", "var/log", "opt/gone", "usr/bin"] {
        fs::create_dir_all(base.join(path)).unwrap();
    }
    for path in [
        "etc/passwd",
        "etc/mtab",
        "srv/data/a",
        "srv/data/b",
        "srv/data/deep/c",
        "usr/bin/tool",
        "var/log/touched",
        "opt/gone/x",
        "was-file",
    ] {
        fs::write(base.join(path), path).unwrap();
    }
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::write(top.join("etc/hosts"), "top").unwrap();
    let script = "
        echo root >> etc/passwd            # changed
        rm etc/mtab                        # deleted
        echo new > etc/new                 # added
        rm -r srv/data; mkdir srv/data; echo b > srv/data/b   # opaque: a and deep are gone
        chmod 700 usr/bin                  # a directory's own mode
        touch var/log                      # a directory's time is no change
        touch -r var/log/touched -m var/log/touched   # copied up, nothing changed
        mkdir -p home/me/dir; echo x > home/me/file
        rm -r opt/gone; echo file > opt/gone           # a directory that became a file
        rm was-file; mkdir was-file; echo x > was-file/y
        echo x > tmp-file; rm tmp-file                 # never there
        mv etc/hosts etc/hosts2
    ";
    let script = script
        .lines()
        .filter_map(|line| line.split('#').next())
        .collect::<Vec<_>>()
        .join("\n");
    let Some(upper) = upper_after(&scene, &[&top, &base], &script) else {
        return;
    };
    let layers = [top, base];
    let upper = fs::File::open(upper).unwrap();
    let told = letters(&changes(&layers, upper.as_fd()).unwrap());
    assert_eq!(
        told,
        [
            "C /etc",
            "D /etc/hosts",
            "A /etc/hosts2",
            "D /etc/mtab",
            "A /etc/new",
            "C /etc/passwd",
            "A /home",
            "A /home/me",
            "A /home/me/dir",
            "A /home/me/file",
            "C /opt",
            "C /opt/gone",
            "D /opt/gone/x",
            "C /srv",
            "C /srv/data",
            "D /srv/data/a",
            "C /srv/data/b",
            "D /srv/data/deep",
            "C /usr",
            "C /usr/bin",
            "C /was-file",
            "A /was-file/y",
        ]
    );
    // The same from a list in any order, as an agent sends it.
    let mut entries = upper_entries(upper.as_fd()).unwrap();
    entries.reverse();
    assert_eq!(letters(&changes_of(&layers, &entries).unwrap()), told);
}

#[test]
fn a_list_of_changes_from_an_agent_is_checked() {
    let scene = Scene::new();
    let layers = [scene.at("root")];
    let entry = |path: &str| UpperEntry {
        path: path.as_bytes().to_vec(),
        mode: libc::S_IFREG | 0o644,
        ..UpperEntry::default()
    };
    for path in ["../outside/canary", "a/../../b", "a\0b", &"a/".repeat(5000)] {
        assert!(changes_of(&layers, &[entry(path)]).is_err(), "{path}");
    }
    // Parents that are left out, the root, and names twice.
    let told = changes_of(
        &layers,
        &[
            entry("etc/deep/x"),
            entry("/"),
            entry("etc/motd"),
            entry("/etc/motd"),
        ],
    )
    .unwrap();
    assert_eq!(
        letters(&told),
        ["C /etc", "C /etc/deep", "A /etc/deep/x", "C /etc/motd"]
    );
}
