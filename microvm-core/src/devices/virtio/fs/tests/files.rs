//! Files and their contents.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use super::*;

#[test]
fn what_is_written_is_read_here_and_on_the_host() {
    let mut client = Client::new(false);
    let (made, handle) = client
        .create(SHARE, "a", libc::O_RDWR | libc::O_EXCL, 0o644)
        .unwrap();
    let contents: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(client.write(handle, 5, &contents), Ok(1_000_000));
    assert_eq!(client.read(handle, 5, 1 << 20).unwrap(), contents);
    assert_eq!(client.read(handle, 2_000_000, 100).unwrap(), b"");
    let seen = fs::read(client.host("a")).unwrap();
    assert_eq!(seen[..5], [0; 5]);
    assert_eq!(seen[5..], contents);
    fs::write(client.host("a"), "theirs").unwrap();
    assert_eq!(client.read(handle, 0, 100).unwrap(), b"theirs");
    assert_eq!(client.getattr(made.node).unwrap().size, 6);
    let again = client.create(SHARE, "a", libc::O_RDWR | libc::O_EXCL, 0o644);
    assert_eq!(again, Err(libc::EEXIST));
    let (same, truncated) = client
        .create(SHARE, "a", libc::O_RDWR | libc::O_TRUNC, 0o644)
        .unwrap();
    assert_eq!(same.node, made.node);
    assert_eq!(client.read(truncated, 0, 100).unwrap(), b"");
    let sync = |how| body().u64(handle).u32(how).u32(0);
    client.call(opcode::FSYNC, made.node, sync(0)).unwrap();
    client
        .call(opcode::FSYNC, made.node, sync(FSYNC_DATA))
        .unwrap();
    assert_eq!(
        client.call(opcode::FSYNCDIR, made.node, sync(0)),
        Err(libc::EBADF)
    );
}

#[test]
fn what_is_appended_goes_to_the_end_and_cached_pages_to_their_place() {
    let mut client = Client::new(false);
    fs::write(client.host("a"), "0123456789").unwrap();
    let node = client.walk("a");
    let append = libc::O_WRONLY | libc::O_APPEND;
    let handle = client.open(node, append).unwrap();
    // The guest does not know yet that somebody else has appended too.
    client.write_how(handle, 3, b"new", 0, append).unwrap();
    client
        .write_how(handle, 0, b"page", WRITE_CACHE, append)
        .unwrap();
    assert_eq!(fs::read(client.host("a")).unwrap(), b"page456789new");
}

#[test]
fn sparse_files_stay_sparse() {
    let mut client = Client::new(false);
    let (made, handle) = client.create(SHARE, "a", libc::O_RDWR, 0o644).unwrap();
    client.write(handle, 64 << 20, b"end").unwrap();
    let blocks = |client: &Client| fs::metadata(client.host("a")).unwrap().blocks();
    assert!(blocks(&client) < 1000, "{}", blocks(&client));
    let mut seek = |offset: u64, whence: i32| {
        let asked = body().u64(handle).u64(offset).u32(whence as u32).u32(0);
        client
            .call(opcode::LSEEK, made.node, asked)
            .map(|reply| u64::from_ne_bytes(reply[..8].try_into().unwrap()))
    };
    assert_eq!(seek(0, libc::SEEK_DATA), Ok(64 << 20));
    assert_eq!(seek(0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(seek(1 << 40, libc::SEEK_DATA), Err(libc::ENXIO));
    assert_eq!(seek(0, libc::SEEK_SET), Err(libc::EINVAL));
    let allocate = |mode: i32, offset: u64, length: u64| {
        body()
            .u64(handle)
            .u64(offset)
            .u64(length)
            .u32(mode as u32)
            .u32(0)
    };
    client
        .call(opcode::FALLOCATE, made.node, allocate(0, 0, 1 << 20))
        .unwrap();
    assert!(blocks(&client) >= 2048);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    client
        .call(opcode::FALLOCATE, made.node, allocate(punch, 0, 1 << 20))
        .unwrap();
    assert!(blocks(&client) < 1000);
    let collapse = allocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    assert_eq!(
        client.call(opcode::FALLOCATE, made.node, collapse),
        Err(libc::EOPNOTSUPP)
    );
}

#[test]
fn a_range_is_copied_on_the_host() {
    let mut client = Client::new(false);
    fs::write(client.host("from"), "0123456789").unwrap();
    let from = client.walk("from");
    let source = client.open(from, libc::O_RDONLY).unwrap();
    let (to, target) = client.create(SHARE, "to", libc::O_RDWR, 0o644).unwrap();
    let asked = body()
        .u64(source)
        .u64(2)
        .u64(to.node)
        .u64(target)
        .u64(1)
        .u64(100)
        .u64(0);
    let reply = client.call(opcode::COPY_FILE_RANGE, from, asked).unwrap();
    assert_eq!(reply[..4], 8u32.to_ne_bytes());
    assert_eq!(fs::read(client.host("to")).unwrap(), b"\x0023456789");
}

#[test]
fn writing_takes_the_bits_that_give_privilege_when_the_guest_says_so() {
    let mut client = Client::new(false);
    let mode = |client: &Client| fs::metadata(client.host("a")).unwrap().mode() & 0o7777;
    let set = |client: &Client| {
        fs::set_permissions(client.host("a"), fs::Permissions::from_mode(0o6755)).unwrap();
    };
    fs::write(client.host("a"), "text").unwrap();
    let node = client.walk("a");
    let handle = client.open(node, libc::O_RDWR).unwrap();
    if is_root() {
        set(&client);
        client.write(handle, 0, b"x").unwrap();
        assert_eq!(mode(&client), 0o6755, "the guest's root writes");
    }
    set(&client);
    client
        .write_how(handle, 0, b"x", WRITE_KILL_SUIDGID, 0)
        .unwrap();
    assert_eq!(mode(&client), 0o755);
    set(&client);
    let valid = setattr::SIZE | setattr::KILL_SUIDGID;
    client.setattr(node, valid, SetAttr::default()).unwrap();
    assert_eq!(mode(&client), 0o755);
    set(&client);
    let truncate = (libc::O_RDWR | libc::O_TRUNC) as u32;
    client
        .call(
            opcode::OPEN,
            node,
            body().u32(truncate).u32(OPEN_KILL_SUIDGID),
        )
        .unwrap();
    assert_eq!(mode(&client), 0o755);
    set(&client);
    if is_root() {
        client.write(handle, 0, b"x").unwrap();
        assert_eq!(mode(&client), 0o6755, "the server has its power again");
    }
}

#[test]
fn a_layer_of_an_image_tells_which_of_its_directories_hide_those_below() {
    for read_only in [true, false] {
        let mut client = Client::new(read_only);
        for name in ["hides", "shows"] {
            fs::create_dir(client.host(name)).unwrap();
        }
        let path =
            std::ffi::CString::new(client.host("hides").into_os_string().into_encoded_bytes());
        // SAFETY: path, name and value are as long as they say.
        let set = unsafe {
            libc::setxattr(
                path.unwrap().as_ptr(),
                c"user.plimsoll.trusted.overlay.opaque".as_ptr(),
                b"y".as_ptr().cast(),
                1,
                0,
            )
        };
        if set != 0 {
            eprintln!("skipped: the temporary directory's file system has no user attributes");
            return;
        }
        let mut ask = |name: &str| {
            let node = client.walk(name);
            let get = body().u32(100).u32(0).text("trusted.overlay.opaque");
            client.call(opcode::GETXATTR, node, get)
        };
        if read_only {
            assert_eq!(ask("hides").unwrap(), b"y");
            assert_eq!(ask("shows"), Err(libc::ENODATA));
        } else {
            // What a guest may write is no layer.
            assert_eq!(ask("hides"), Err(libc::EOPNOTSUPP));
        }
    }
}

#[test]
fn extended_attributes_are_kept_and_only_the_guests_are_seen() {
    let mut client = Client::new(false);
    fs::write(client.host("a"), "").unwrap();
    let node = client.walk("a");
    let set = |name: &str, value: &str| {
        let mut asked = body().u32(value.len() as u32).u32(0).text(name);
        asked.0.extend_from_slice(value.as_bytes());
        asked
    };
    match client.call(opcode::SETXATTR, node, set("user.a", "value")) {
        Err(libc::EOPNOTSUPP) => {
            eprintln!("skipped: the temporary directory's file system has no user attributes");
            return;
        }
        other => drop(other.unwrap()),
    }
    for hidden in [
        "trusted.overlay.opaque",
        "security.selinux",
        "system.posix_acl_access",
        "",
    ] {
        assert_eq!(
            client.call(opcode::SETXATTR, node, set(hidden, "x")),
            Err(libc::EOPNOTSUPP)
        );
        let get = body().u32(100).u32(0).text(hidden);
        assert_eq!(
            client.call(opcode::GETXATTR, node, get),
            Err(libc::EOPNOTSUPP)
        );
    }
    if is_root() {
        let path = std::ffi::CString::new(client.host("a").into_os_string().into_encoded_bytes());
        // SAFETY: path, name and value are as long as they say.
        let set = unsafe {
            libc::setxattr(
                path.unwrap().as_ptr(),
                c"trusted.x".as_ptr(),
                b"1".as_ptr().cast(),
                1,
                0,
            )
        };
        assert_eq!(set, 0);
    }
    let mut get = |code, size: u32, name: Option<&str>| {
        let asked = body().u32(size).u32(0);
        client.call(
            code,
            node,
            name.map_or(Body(asked.0.clone()), |name| {
                Body(asked.0.clone()).text(name)
            }),
        )
    };
    assert_eq!(
        get(opcode::GETXATTR, 0, Some("user.a")).unwrap()[..4],
        5u32.to_ne_bytes()
    );
    assert_eq!(get(opcode::GETXATTR, 5, Some("user.a")).unwrap(), b"value");
    assert_eq!(get(opcode::GETXATTR, 4, Some("user.a")), Err(libc::ERANGE));
    assert_eq!(get(opcode::GETXATTR, 5, Some("user.b")), Err(libc::ENODATA));
    assert_eq!(get(opcode::LISTXATTR, 100, None).unwrap(), b"user.a\0");
    assert_eq!(
        get(opcode::LISTXATTR, 0, None).unwrap()[..4],
        7u32.to_ne_bytes()
    );
    client
        .call(opcode::REMOVEXATTR, node, body().text("user.a"))
        .unwrap();
    let list = body().u32(100).u32(0);
    assert_eq!(client.call(opcode::LISTXATTR, node, list).unwrap(), b"");
    // Longer than what follows.
    let short = body().u32(1000).u32(0).text("user.a");
    assert_eq!(
        client.call(opcode::SETXATTR, node, short),
        Err(libc::EINVAL)
    );
}

#[test]
fn a_file_without_a_name_can_be_given_one() {
    let mut client = Client::new(false);
    let asked = body()
        .u32(libc::O_RDWR as u32)
        .u32(0o640)
        .u32(0)
        .u32(0)
        .text("");
    let reply = match client.call(opcode::TMPFILE, SHARE, asked) {
        Err(libc::EOPNOTSUPP) => {
            eprintln!("skipped: the temporary directory's file system has no files without names");
            return;
        }
        other => other.unwrap(),
    };
    let made = known(&reply);
    let handle = u64::from_ne_bytes(reply[128..136].try_into().unwrap());
    client.write(handle, 0, b"text").unwrap();
    assert_eq!(fs::read_dir(client.host("")).unwrap().count(), 0);
    client
        .call(opcode::LINK, SHARE, body().u64(made.node).text("a"))
        .unwrap();
    assert_eq!(fs::read(client.host("a")).unwrap(), b"text");
}

#[test]
fn reads_and_writes_are_bounded_by_what_there_is() {
    let mut client = Client::new(false);
    fs::write(client.host("a"), vec![7; 5000]).unwrap();
    let node = client.walk("a");
    let handle = client.open(node, libc::O_RDWR).unwrap();
    let asked = |size: u32| body().u64(handle).u64(0).u32(size).u32(0).u64(0).u64(0);
    let read = client
        .call_with(opcode::READ, 0, asked(u32::MAX), Vec::new(), 100)
        .unwrap();
    assert_eq!(read, [7; 100]);
    // More is announced than comes.
    let write = client.call_with(opcode::WRITE, 0, asked(101), vec![0; 100], 0);
    assert_eq!(write, Err(libc::EINVAL));
    let write = client.call_with(opcode::WRITE, 0, asked(u32::MAX), vec![0; 100], 0);
    assert_eq!(write, Err(libc::EINVAL));
    let beyond = body().u64(handle).u64(u64::MAX).u32(1).u32(0).u64(0).u64(0);
    assert_eq!(client.call(opcode::READ, 0, beyond), Err(libc::EINVAL));
    let mut contents = [0; 5000];
    File::open(client.host("a"))
        .unwrap()
        .read_exact_at(&mut contents, 0)
        .unwrap();
    assert_eq!(contents, [7; 5000]);
}

#[test]
fn everything_is_synced_when_the_guest_syncs() {
    let mut client = Client::new(false);
    client.call(opcode::SYNCFS, SHARE, body().u64(0)).unwrap();
}
