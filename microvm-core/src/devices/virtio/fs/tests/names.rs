//! Directories and what is in them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn rename(client: &mut Client, flags: u32, from: (u64, &str), to: (u64, &str)) -> Result<(), i32> {
    let asked = body().u64(to.0).u32(flags).u32(0).text(from.1).text(to.1);
    client.call(opcode::RENAME2, from.0, asked).map(drop)
}

#[test]
fn a_node_is_a_file_whatever_its_names() {
    let mut client = Client::new(false);
    fs::write(client.host("a"), "text").unwrap();
    let first = client.lookup(SHARE, "a").unwrap();
    let linked = client
        .call(opcode::LINK, SHARE, body().u64(first.node).text("b"))
        .unwrap();
    assert_eq!(known(&linked).node, first.node);
    assert_eq!(known(&linked).links, 2);
    assert_eq!(client.lookup(SHARE, "b").unwrap().node, first.node);
    assert_eq!(fs::metadata(client.host("a")).unwrap().ino(), first.inode);
    // It was told of three times.
    client.forget(first.node, 2);
    client.getattr(first.node).unwrap();
    client.forget(first.node, 1);
    assert_eq!(client.getattr(first.node), Err(libc::ESTALE));
    assert_ne!(
        client.lookup(SHARE, "a").unwrap().node,
        first.node,
        "numbers are not used again"
    );
}

#[test]
fn several_are_forgotten_at_once() {
    let mut client = Client::new(false);
    for name in ["a", "b"] {
        fs::write(client.host(name), "").unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| client.walk(name));
    let asked = body().u32(2).u32(0).u64(a).u64(1).u64(b).u64(1);
    client.call(opcode::BATCH_FORGET, 0, asked).unwrap();
    assert_eq!(client.getattr(a), Err(libc::ESTALE));
    assert_eq!(client.getattr(b), Err(libc::ESTALE));
    assert_eq!(client.server.nodes.held(), 0);
    // More than are there.
    let asked = body().u32(u32::MAX).u32(0).u64(a).u64(1);
    assert_eq!(
        client.call(opcode::BATCH_FORGET, 0, asked),
        Err(libc::EINVAL)
    );
}

#[test]
fn an_unlinked_file_that_is_open_goes_on_working() {
    let mut client = Client::new(false);
    let (made, handle) = client.create(SHARE, "a", libc::O_RDWR, 0o644).unwrap();
    client.write(handle, 0, b"before").unwrap();
    client
        .call(opcode::UNLINK, SHARE, body().text("a"))
        .unwrap();
    assert_eq!(client.lookup(SHARE, "a"), Err(libc::ENOENT));
    client.write(handle, 6, b" after").unwrap();
    assert_eq!(client.read(handle, 0, 100).unwrap(), b"before after");
    let about = client.getattr(made.node).unwrap();
    assert_eq!((about.links, about.size), (0, 12));
    // Another file of this name is another node, although the host may use the number again.
    fs::write(client.host("a"), "").unwrap();
    assert_ne!(client.lookup(SHARE, "a").unwrap().node, made.node);
    client.release(made.node, handle);
    assert_eq!(client.read(handle, 0, 1), Err(libc::EBADF));
}

#[test]
fn names_are_moved_and_exchanged() {
    let mut client = Client::new(false);
    fs::create_dir(client.host("d")).unwrap();
    fs::write(client.host("a"), "a").unwrap();
    fs::write(client.host("b"), "b").unwrap();
    let directory = client.walk("d");
    let node = client.walk("a");
    let taken = rename(
        &mut client,
        libc::RENAME_NOREPLACE,
        (SHARE, "a"),
        (SHARE, "b"),
    );
    assert_eq!(taken, Err(libc::EEXIST));
    rename(
        &mut client,
        libc::RENAME_EXCHANGE,
        (SHARE, "a"),
        (SHARE, "b"),
    )
    .unwrap();
    assert_eq!(fs::read(client.host("a")).unwrap(), b"b");
    rename(&mut client, 0, (SHARE, "b"), (directory, "c")).unwrap();
    assert_eq!(client.lookup(directory, "c").unwrap().node, node);
    assert_eq!(fs::read(client.host("d/c")).unwrap(), b"a");
    assert_eq!(
        rename(&mut client, 8, (SHARE, "a"), (SHARE, "b")),
        Err(libc::EINVAL)
    );
    let old = body().u64(SHARE).text("c").text("e");
    client.call(opcode::RENAME, directory, old).unwrap();
    assert!(client.host("e").exists());
}

#[test]
fn a_directory_is_listed_whole_in_pieces_of_any_size() {
    let mut client = Client::new(false);
    for number in 0..1000 {
        fs::write(client.host(&format!("file-{number}")), "").unwrap();
    }
    for bytes in [300, 4096, 1 << 20] {
        let names = client.list(SHARE, bytes);
        assert_eq!(names.len(), 1002, "with . and .., in pieces of {bytes}");
        let inode = fs::metadata(client.host("file-7")).unwrap().ino();
        assert_eq!(names["file-7"], inode);
    }
    let asked = body().u64(9999).u64(0).u32(4096).u32(0).u64(0).u64(0);
    assert_eq!(client.call(opcode::READDIR, SHARE, asked), Err(libc::EBADF));
}

#[test]
fn what_is_made_belongs_to_who_makes_it_with_the_modes_asked_for() {
    let mut client = Client::new(false);
    if !is_root() {
        return;
    }
    fs::create_dir(client.host("group")).unwrap();
    std::os::unix::fs::chown(client.host("group"), None, Some(77)).unwrap();
    fs::set_permissions(client.host("group"), fs::Permissions::from_mode(0o2755)).unwrap();
    (client.uid, client.gid) = (1234, 5678);
    let (file, _) = client.create(SHARE, "file", libc::O_RDWR, 0o666).unwrap();
    assert_eq!(
        (file.uid, file.gid, file.mode & 0o7777),
        (1234, 5678, 0o666)
    );
    let asked = body().u32(0o750).u32(0).text("d");
    let directory = known(&client.call(opcode::MKDIR, SHARE, asked).unwrap());
    assert_eq!(
        (directory.uid, directory.gid, directory.mode & 0o7777),
        (1234, 5678, 0o750)
    );
    let asked = body().text("link").text("anywhere");
    let link = known(&client.call(opcode::SYMLINK, SHARE, asked).unwrap());
    assert_eq!((link.uid, link.gid), (1234, 5678));
    // A directory that gives its group to what is made in it does so here, although the user may not write there: that is
    // for the guest's kernel to say.
    let group = client.walk("group");
    let (inner, _) = client.create(group, "file", libc::O_RDWR, 0o644).unwrap();
    assert_eq!((inner.uid, inner.gid), (1234, 77));
    let asked = body().u32(0o755).u32(0).text("d");
    let inner = known(&client.call(opcode::MKDIR, group, asked).unwrap());
    assert_eq!((inner.gid, inner.mode & 0o7777), (77, 0o2755));
    // The server is itself again.
    (client.uid, client.gid) = (0, 0);
    let (file, _) = client.create(SHARE, "roots", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((file.uid, file.gid), (0, 0));
    (client.uid, client.gid) = (u32::MAX, 0);
    assert_eq!(
        client.create(SHARE, "nobodys", libc::O_RDWR, 0o600),
        Err(libc::EINVAL)
    );
}

#[test]
fn attributes_are_changed() {
    let mut client = Client::new(false);
    fs::write(client.host("a"), "0123456789").unwrap();
    let node = client.walk("a");
    let change = SetAttr {
        mode: 0o640,
        size: 4,
        mtime: 1_000_000_000,
        ..SetAttr::default()
    };
    let valid = setattr::MODE | setattr::SIZE | setattr::MTIME;
    let about = client.setattr(node, valid, change).unwrap();
    assert_eq!((about.mode & 0o7777, about.size), (0o640, 4));
    let about = fs::metadata(client.host("a")).unwrap();
    assert_eq!(
        (about.mode() & 0o7777, about.len(), about.mtime()),
        (0o640, 4, 1_000_000_000)
    );
    if is_root() {
        let change = SetAttr {
            uid: 5,
            gid: 6,
            ..SetAttr::default()
        };
        let about = client
            .setattr(node, setattr::UID | setattr::GID, change)
            .unwrap();
        assert_eq!((about.uid, about.gid), (5, 6));
        let change = SetAttr {
            gid: 7,
            ..SetAttr::default()
        };
        let about = client.setattr(node, setattr::GID, change).unwrap();
        assert_eq!((about.uid, about.gid), (5, 7));
    }
    let handle = client.open(node, libc::O_RDWR).unwrap();
    let change = SetAttr {
        handle,
        size: 1 << 30,
        ..SetAttr::default()
    };
    client
        .setattr(node, setattr::SIZE | setattr::HANDLE, change)
        .unwrap();
    let about = fs::metadata(client.host("a")).unwrap();
    assert_eq!(about.len(), 1 << 30);
    assert!(about.blocks() < 100, "it is sparse");
    let change = SetAttr {
        size: u64::MAX,
        ..SetAttr::default()
    };
    assert_eq!(
        client.setattr(node, setattr::SIZE, change),
        Err(libc::EFBIG)
    );
    let change = SetAttr {
        size: 0,
        ..SetAttr::default()
    };
    assert_eq!(
        client.setattr(SHARE, setattr::SIZE, change),
        Err(libc::EISDIR)
    );
}

#[test]
fn symbolic_links_hold_what_they_were_given() {
    let mut client = Client::new(false);
    let target = "../../very/far/away";
    let made = client
        .call(opcode::SYMLINK, SHARE, body().text("link").text(target))
        .unwrap();
    assert_eq!(
        fs::read_link(client.host("link")).unwrap(),
        Path::new(target)
    );
    let read = client
        .call(opcode::READLINK, known(&made).node, body())
        .unwrap();
    assert_eq!(read, target.as_bytes());
    assert_eq!(
        client.call(opcode::READLINK, SHARE, body()),
        Err(libc::EINVAL)
    );
    // A link is given another name as itself.
    let linked = client
        .call(
            opcode::LINK,
            SHARE,
            body().u64(known(&made).node).text("twin"),
        )
        .unwrap();
    assert_eq!(known(&linked).mode & libc::S_IFMT, libc::S_IFLNK);
    symlink("nowhere", client.host("theirs")).unwrap();
    client
        .call(opcode::UNLINK, SHARE, body().text("theirs"))
        .unwrap();
    assert_eq!(
        client.call(opcode::RMDIR, SHARE, body().text("link")),
        Err(libc::ENOTDIR)
    );
}

#[test]
fn files_of_several_file_systems_do_not_share_numbers() {
    let mut client = Client::new(false);
    let nodes = &mut client.server.nodes;
    let one = nodes.inode_number((250, 1), 42);
    let other = nodes.inode_number((250, 2), 42);
    assert_ne!(one, other);
    assert_eq!(nodes.inode_number((250, 1), 42), one);
}
