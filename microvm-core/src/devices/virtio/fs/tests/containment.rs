//! Nothing outside a share can be reached, and nothing in a read-only one changed.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let mut client = Client::new(false);
    fs::write(client.folder.path().join("secret"), "x").unwrap();
    fs::create_dir(client.host("d")).unwrap();
    let inner = client.walk("d");
    for node in [ROOT, SHARE, inner] {
        for name in [
            "..",
            ".",
            "",
            "../secret",
            "d/../..",
            "/etc/passwd",
            "/",
            "a/b",
        ] {
            let refused = match node {
                ROOT => client.lookup(node, name).unwrap_err(),
                _ => {
                    client.create(node, name, libc::O_RDWR, 0o644).unwrap_err();
                    client
                        .call(opcode::UNLINK, node, body().text(name))
                        .unwrap_err();
                    client.lookup(node, name).unwrap_err()
                }
            };
            assert_eq!(refused, libc::EINVAL, "{name:?}");
        }
    }
    assert_eq!(client.lookup(ROOT, "1"), Err(libc::ENOENT));
    assert_eq!(client.lookup(ROOT, "shared"), Err(libc::ENOENT));
}

#[test]
fn a_symbolic_link_is_told_and_never_followed() {
    let mut client = Client::new(false);
    let secret = client.folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, client.host("file")).unwrap();
    symlink(client.folder.path(), client.host("directory")).unwrap();
    let file = client.lookup(SHARE, "file").unwrap();
    assert_eq!(file.mode & libc::S_IFMT, libc::S_IFLNK);
    let target = client.call(opcode::READLINK, file.node, body()).unwrap();
    assert_eq!(target, secret.as_os_str().as_encoded_bytes());

    let directory = client.walk("directory");
    assert_eq!(client.lookup(directory, "secret"), Err(libc::ENOTDIR));
    assert_eq!(client.open(file.node, libc::O_RDWR), Err(libc::ELOOP));
    assert_eq!(
        client.call(opcode::OPENDIR, directory, body().u64(0)),
        Err(libc::ENOTDIR)
    );
    // Somebody has put the link there after the guest has looked.
    assert_eq!(
        client.create(SHARE, "file", libc::O_RDWR | libc::O_TRUNC, 0o644),
        Err(libc::ESTALE)
    );
    let change = SetAttr {
        mode: 0o777,
        ..SetAttr::default()
    };
    assert_eq!(
        client.setattr(file.node, setattr::MODE, change),
        Err(libc::EOPNOTSUPP)
    );
    assert_eq!(
        client.setattr(file.node, setattr::SIZE, SetAttr::default()),
        Err(libc::EINVAL)
    );
    if is_root() {
        let change = SetAttr {
            uid: 7,
            ..SetAttr::default()
        };
        assert_eq!(
            client.setattr(file.node, setattr::UID, change).unwrap().uid,
            7
        );
    }
    let now = SetAttr::default();
    client
        .setattr(file.node, setattr::MTIME | setattr::MTIME_NOW, now)
        .unwrap();
    let extended = body().u32(2).u32(0).text("user.a").text("x");
    assert_eq!(
        client.call(opcode::SETXATTR, file.node, extended),
        Err(libc::EOPNOTSUPP)
    );

    let about = fs::metadata(&secret).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&about), 0);
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
}

#[test]
fn a_link_that_takes_the_place_of_a_directory_leads_nowhere() {
    let mut client = Client::new(false);
    fs::write(client.folder.path().join("secret"), "x").unwrap();
    fs::create_dir(client.host("d")).unwrap();
    fs::write(client.host("d/own"), "own").unwrap();
    let directory = client.walk("d");
    fs::rename(client.host("d"), client.host("moved")).unwrap();
    symlink(client.folder.path(), client.host("d")).unwrap();
    // The node is still the directory that it was.
    client.lookup(directory, "own").unwrap();
    assert_eq!(client.lookup(directory, "secret"), Err(libc::ENOENT));
    assert_eq!(
        client.lookup(SHARE, "d").unwrap().mode & libc::S_IFMT,
        libc::S_IFLNK
    );
}

#[test]
fn what_is_no_file_is_not_opened_on_the_host() {
    let mut client = Client::new(false);
    let make = |mode: u32, device: u32, name: &str| {
        body()
            .u32(mode | 0o600)
            .u32(device)
            .u32(0)
            .u32(0)
            .text(name)
    };
    let pipe = client
        .call(opcode::MKNOD, SHARE, make(libc::S_IFIFO, 0, "pipe"))
        .unwrap();
    // On the host this would wait for a writer for ever.
    assert_eq!(
        client.open(known(&pipe).node, libc::O_RDONLY),
        Err(libc::ENXIO)
    );
    client
        .call(opcode::MKNOD, SHARE, make(libc::S_IFSOCK, 0, "socket"))
        .unwrap();
    client
        .call(opcode::MKNOD, SHARE, make(libc::S_IFREG, 0, "file"))
        .unwrap();
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        let memory = libc::makedev(1, 1) as u32;
        let made = client.call(opcode::MKNOD, SHARE, make(kind, memory, "device"));
        assert_eq!(made, Err(libc::EPERM));
    }
    assert!(!client.host("device").exists());
    if is_root() {
        client
            .call(opcode::MKNOD, SHARE, make(libc::S_IFCHR, 0, "whiteout"))
            .unwrap();
    }
}

#[test]
fn one_file_is_shared_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("shared")).unwrap();
    let path = folder.path().join("shared/only");
    fs::write(&path, "text").unwrap();
    fs::write(folder.path().join("shared/other"), "x").unwrap();
    let shares = vec![
        share(&path, "0", false),
        share(&folder.path().join("shared"), "1", true),
    ];
    let mut client = Client::of(folder, shares, LIMITS);
    let names: Vec<String> = client.list(ROOT, 4096).into_keys().collect();
    assert_eq!(names, ["0", "1"]);
    let only = client.lookup(ROOT, "0").unwrap();
    assert_eq!((only.node, only.mode & libc::S_IFMT), (2, libc::S_IFREG));
    assert_eq!(client.lookup(only.node, "other"), Err(libc::ENOTDIR));
    assert_eq!(client.lookup(only.node, ".."), Err(libc::EINVAL));
    let handle = client.open(only.node, libc::O_RDWR).unwrap();
    assert_eq!(client.write(handle, 4, b"!"), Ok(1));
    assert_eq!(client.read(handle, 0, 100).unwrap(), b"text!");
    // The same file by the other share, which is read-only.
    let other = client.lookup(3, "only").unwrap();
    assert_ne!(other.node, only.node);
    assert_eq!(other.inode, only.inode);
    assert_eq!(client.open(other.node, libc::O_RDWR), Err(libc::EROFS));
}

#[test]
fn the_root_directory_is_read_only_and_made_of_the_shares() {
    let mut client = Client::new(false);
    assert_eq!(
        client.create(ROOT, "x", libc::O_RDWR, 0o644),
        Err(libc::EROFS)
    );
    let directory = body().u32(0o755).u32(0).text("x");
    assert_eq!(
        client.call(opcode::MKDIR, ROOT, directory),
        Err(libc::EROFS)
    );
    assert_eq!(
        client.call(opcode::RMDIR, ROOT, body().text("0")),
        Err(libc::EROFS)
    );
    let rename = body().u64(ROOT).text("0").text("1");
    assert_eq!(client.call(opcode::RENAME, ROOT, rename), Err(libc::EROFS));
    let rename = body().u64(ROOT).text("x").text("y");
    assert_eq!(client.call(opcode::RENAME, SHARE, rename), Err(libc::EROFS));
    assert_eq!(
        client.setattr(ROOT, setattr::MODE, SetAttr::default()),
        Err(libc::EROFS)
    );
    assert_eq!(client.getattr(ROOT).unwrap().mode, libc::S_IFDIR | 0o555);
    assert_eq!(client.call(opcode::STATFS, ROOT, body()).unwrap().len(), 80);
    // Nobody can make the server forget a share.
    client.forget(SHARE, u64::MAX);
    client.forget(ROOT, u64::MAX);
    assert_eq!(client.lookup(ROOT, "0").unwrap().node, SHARE);
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let mut client = Client::new(true);
    fs::write(client.host("file"), "text").unwrap();
    fs::create_dir(client.host("d")).unwrap();
    let node = client.walk("file");
    let change = || SetAttr {
        mode: 0o777,
        ..SetAttr::default()
    };
    let node_of = |kind: u32| body().u32(kind | 0o600).u32(0).u32(0).u32(0).text("new");
    let refused = [
        client.create(SHARE, "new", libc::O_RDWR, 0o644).map(|_| ()),
        client
            .call(opcode::MKDIR, SHARE, body().u32(0o755).u32(0).text("new"))
            .map(|_| ()),
        client
            .call(opcode::MKNOD, SHARE, node_of(libc::S_IFREG))
            .map(|_| ()),
        client
            .call(opcode::SYMLINK, SHARE, body().text("new").text("to"))
            .map(|_| ()),
        client
            .call(opcode::LINK, SHARE, body().u64(node).text("new"))
            .map(|_| ()),
        client
            .call(opcode::UNLINK, SHARE, body().text("file"))
            .map(|_| ()),
        client
            .call(opcode::RMDIR, SHARE, body().text("d"))
            .map(|_| ()),
        client
            .call(
                opcode::RENAME,
                SHARE,
                body().u64(SHARE).text("file").text("new"),
            )
            .map(|_| ()),
        client
            .call(
                opcode::SETXATTR,
                node,
                body().u32(1).u32(0).text("user.a").text(""),
            )
            .map(|_| ()),
        client
            .call(opcode::REMOVEXATTR, node, body().text("user.a"))
            .map(|_| ()),
        client
            .call(
                opcode::TMPFILE,
                SHARE,
                body().u32(libc::O_RDWR as u32).u32(0o600),
            )
            .map(|_| ()),
        client.setattr(node, setattr::MODE, change()).map(|_| ()),
        client.setattr(node, setattr::SIZE, change()).map(|_| ()),
        client
            .setattr(node, setattr::MTIME | setattr::MTIME_NOW, change())
            .map(|_| ()),
        client.open(node, libc::O_RDWR).map(|_| ()),
        client.open(node, libc::O_WRONLY).map(|_| ()),
        client
            .open(node, libc::O_RDONLY | libc::O_TRUNC)
            .map(|_| ()),
        client.open(node, libc::O_ACCMODE).map(|_| ()),
    ];
    assert!(
        refused.iter().all(|result| *result == Err(libc::EROFS)),
        "{refused:?}"
    );
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(handle, 0, 100).unwrap(), b"text");
    assert!(client.write(handle, 0, b"x").is_err());
    let allocate = body().u64(handle).u64(0).u64(10).u32(0).u32(0);
    assert!(client.call(opcode::FALLOCATE, 0, allocate).is_err());
    assert_eq!(fs::read(client.host("file")).unwrap(), b"text");
    assert_eq!(fs::read_dir(client.host("")).unwrap().count(), 2);
}

#[test]
fn a_file_in_another_share_cannot_be_linked_or_moved_to() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["shared", "other"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("file"), name).unwrap();
    }
    let shares =
        ["shared", "other"].map(|name| share(&folder.path().join(name), &name[..1], false));
    let mut client = Client::of(folder, shares.into(), LIMITS);
    let node = client.walk("file");
    assert_eq!(
        client.call(opcode::LINK, 3, body().u64(node).text("new")),
        Err(libc::EXDEV)
    );
    let rename = body().u64(3).u32(0).u32(0).text("file").text("new");
    assert_eq!(
        client.call(opcode::RENAME2, SHARE, rename),
        Err(libc::EXDEV)
    );
}

#[test]
fn a_guest_may_hold_so_much_and_no_more() {
    let limits = Limits {
        descriptors: 40,
        nodes: 60,
    };
    let mut client = Client::with_limits(false, limits);
    for number in 0..100 {
        fs::write(client.host(&number.to_string()), "x").unwrap();
    }
    let mut nodes = Vec::new();
    let refused = (0..100).find_map(|number| match client.lookup(SHARE, &number.to_string()) {
        Ok(known) => {
            nodes.push(known.node);
            None
        }
        Err(errno) => Some((number, errno)),
    });
    let (number, errno) = refused.unwrap();
    assert_eq!(errno, libc::ENFILE);
    assert!(number >= 29 && client.server.nodes.held() <= 30, "{number}");
    // Whichever way they are kept, each is the file that it was.
    for (number, node) in nodes.iter().enumerate() {
        assert_eq!(
            client.lookup(SHARE, &number.to_string()).unwrap().node,
            *node
        );
        assert_eq!(client.getattr(*node).unwrap().size, 1);
    }
    let mut handles = Vec::new();
    let errno = loop {
        match client.open(nodes[0], libc::O_RDONLY) {
            Ok(handle) => handles.push(handle),
            Err(errno) => break errno,
        }
    };
    assert_eq!(errno, libc::ENFILE);
    assert!((5..=40).contains(&handles.len()), "{}", handles.len());
    // What is given back can be had again.
    client.release(nodes[0], handles[0]);
    client.open(nodes[0], libc::O_RDONLY).unwrap();
    nodes.iter().for_each(|node| client.forget(*node, 2));
    client.lookup(SHARE, "99").unwrap();
}

#[test]
fn a_guest_may_know_of_more_files_than_there_are_descriptors() {
    let limits = Limits {
        descriptors: 8,
        nodes: 1000,
    };
    let mut client = Client::with_limits(false, limits);
    if !is_root() {
        return;
    }
    fs::create_dir(client.host("d")).unwrap();
    for number in 0..100 {
        fs::write(client.host(&format!("d/{number}")), number.to_string()).unwrap();
    }
    let directory = client.walk("d");
    let nodes: Vec<u64> = (0..100)
        .map_while(|number| client.lookup(directory, &number.to_string()).ok())
        .map(|known| known.node)
        .collect();
    if nodes.len() < 100 {
        eprintln!("skipped: the temporary directory's file system has no file handles");
        return;
    }
    assert!(client.server.nodes.held() <= 4);
    let handle = client.open(nodes[77], libc::O_RDWR).unwrap();
    assert_eq!(client.read(handle, 0, 10).unwrap(), b"77");
    // A file that is gone is not mistaken for one that has its number now.
    fs::remove_file(client.host("d/99")).unwrap();
    fs::write(client.host("d/99"), "another").unwrap();
    let another = client.lookup(directory, "99").unwrap();
    assert_ne!(another.node, nodes[99]);
    assert_eq!(client.getattr(nodes[99]), Err(libc::ESTALE));
    assert_eq!(client.getattr(another.node).unwrap().size, 7);
    client.forget(nodes[99], 1);
    assert_eq!(client.lookup(directory, "99").unwrap().node, another.node);
}

#[test]
fn the_protocol_starts_with_its_versions() {
    let mut client = Client::new(false);
    client.server.reset();
    assert_eq!(client.getattr(SHARE), Err(libc::EIO));
    let asked = |major, minor| {
        let mut asked = body().u32(major).u32(minor).u32(4096).u32(u32::MAX).u32(0);
        asked.0.resize(64, 0);
        asked
    };
    assert_eq!(client.call(opcode::INIT, 0, asked(7, 8)), Err(libc::EPROTO));
    let newer = client.call(opcode::INIT, 0, asked(8, 1)).unwrap();
    assert_eq!(newer[..4], 7u32.to_ne_bytes());
    assert_eq!(
        client.getattr(SHARE),
        Err(libc::EIO),
        "nothing is agreed on yet"
    );
    let reply = client.call(opcode::INIT, 0, asked(7, 38)).unwrap();
    let flags = u64::from(u32::from_ne_bytes(reply[12..16].try_into().unwrap()));
    let wanted = init::POSIX_LOCKS | init::FLOCK_LOCKS | init::AUTO_INVAL_DATA | init::MAX_PAGES;
    assert_eq!(flags & wanted, wanted);
    client.getattr(SHARE).unwrap();
}

/// Every operation, those that do not exist, and the first of those to come.
fn any_opcode() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..60, any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_asked_nothing_outside_changes(
        requests in prop::collection::vec(
            (
                any_opcode(),
                prop_oneof![0u64..8, any::<u64>()],
                prop::collection::vec(
                    prop_oneof![
                        Just(b"..\0".to_vec()), Just(b"a\0".to_vec()), Just(b"b\0".to_vec()),
                        (0u32..8).prop_map(|number| number.to_ne_bytes().to_vec()),
                        (0u64..8).prop_map(|number| number.to_ne_bytes().to_vec()),
                        prop::collection::vec(any::<u8>(), 0..40),
                    ],
                    0..12,
                ),
                0usize..5000,
            ),
            1..60,
        ),
    ) {
        let mut client = Client::new(false);
        fs::write(client.folder.path().join("a"), "outside").unwrap();
        fs::write(client.host("a"), "inside").unwrap();
        for (code, node, parts, room) in requests {
            // These would take away what the rest works on, wait for the host's disk, or fill it.
            if [opcode::DESTROY, opcode::INIT, opcode::SYNCFS, opcode::FALLOCATE].contains(&code) {
                continue;
            }
            let mut buffers = Buffers { data: vec![7; 300], room: vec![0; room], pieces: Vec::new() };
            let mut reply = Vec::new();
            let _ = client.outcome(code, node, &Body(parts.concat()), &mut buffers, &mut reply);
        }
        prop_assert_eq!(fs::read(client.folder.path().join("a")).unwrap(), b"outside");
        prop_assert_eq!(fs::read_dir(client.folder.path()).unwrap().count(), 2);
    }
}
