//! Archives that try to reach out of the directory they are unpacked into, or to take more than they should.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::{Fixture, Tar, assert_same_tree, gzip, is_root, tree, zstd};
use image_core::{Error, Image, Limits, Result};

fn import(fixture: &Fixture, tar: Tar) -> Result<Image> {
    fixture.store.import(tar.done().as_slice(), None, &[])
}

/// The unpacked tree of an archive, after it has been shown that nothing outside has changed.
fn unpacked(tar: Tar) -> (Fixture, PathBuf) {
    let fixture = Fixture::new();
    let before = tree(&fixture.outside());
    let image = import(&fixture, tar).unwrap();
    assert_same_tree(&before, &tree(&fixture.outside()));
    let layer = fixture.store.layer_dirs(&image).unwrap().remove(0);
    (fixture, layer)
}

/// The reason for which an archive is refused, after it has been shown that nothing was left behind.
fn refused(tar: Tar) -> String {
    let fixture = Fixture::new();
    let before = tree(&fixture.outside());
    let error = import(&fixture, tar).unwrap_err();
    assert_same_tree(&before, &tree(&fixture.outside()));
    fixture.assert_empty();
    assert!(
        !matches!(error, Error::Io { .. } | Error::Unpack { .. }),
        "{error}"
    );
    error.to_string()
}

/// The archive that `make` builds from the absolute path of the directory outside, unpacked; the canary must be unharmed.
fn attack(make: impl Fn(&str) -> Tar) -> (Fixture, Result<PathBuf>) {
    let fixture = Fixture::new();
    let outside = fixture.outside();
    let before = tree(&outside);
    let result = import(&fixture, make(outside.to_str().unwrap()));
    assert_same_tree(&before, &tree(&outside));
    let result = result.map(|image| fixture.store.layer_dirs(&image).unwrap().remove(0));
    if result.is_err() {
        fixture.assert_empty();
    }
    (fixture, result)
}

#[test]
fn dot_dot_in_a_name_is_refused() {
    if !is_root() {
        return;
    }
    for name in [
        "../canary",
        "a/../../canary",
        "..",
        "a/..",
        "/../x",
        "./../outside/canary",
    ] {
        assert!(
            refused(Tar::new().file(name, "dead")).contains("contains '..'"),
            "{name}"
        );
        assert!(
            refused(Tar::new().dir(name)).contains("contains '..'"),
            "{name}"
        );
        assert!(
            refused(Tar::new().file("x", "").hardlink("y", name)).contains("contains '..'"),
            "{name}"
        );
    }
}

#[test]
fn absolute_names_stay_below_the_root() {
    if !is_root() {
        return;
    }
    let (_fixture, result) = attack(|outside| Tar::new().file(format!("{outside}/canary"), "dead"));
    let layer = result.unwrap();
    let inside = tree(&layer);
    assert!(inside.keys().any(|path| path.ends_with(b"outside/canary")));
}

#[test]
fn a_file_through_an_absolute_link_stays_below_the_root() {
    if !is_root() {
        return;
    }
    // The link leads to nothing inside, so that there is no directory for the file.
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .symlink("link", outside)
            .file("link/canary", "dead")
    });
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("is not a directory")
    );
    // Now it leads to a directory inside.
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .dir(outside.trim_start_matches('/'))
            .symlink("link", outside)
            .file("link/canary", "inside")
    });
    let layer = result.unwrap();
    let path = std::fs::read_link(layer.join("link")).unwrap();
    assert_eq!(
        std::fs::read_to_string(layer.join(path.strip_prefix("/").unwrap()).join("canary"))
            .unwrap(),
        "inside"
    );
}

#[test]
fn a_file_through_a_link_that_climbs_stays_below_the_root() {
    if !is_root() {
        return;
    }
    for climb in ["..", "../..", "../../../../../../../../../..", "./../.."] {
        let (fixture, result) = attack(|_| {
            Tar::new()
                .symlink("up", climb)
                .file("up/outside/canary", "inside")
        });
        let layer = result.unwrap();
        assert_eq!(
            std::fs::read_to_string(layer.join("outside/canary")).unwrap(),
            "inside",
            "{climb}"
        );
        drop(fixture);
    }
}

#[test]
fn chains_of_links_stay_below_the_root() {
    if !is_root() {
        return;
    }
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .dir("a/")
            .symlink("a/b", "../a/../..")
            .symlink("c", "a/b/a/b")
            .symlink("d", "c/..")
            .file("d/outside/canary", "inside")
            .file("c/outside/directory/file", "inside")
            .symlink("e", format!("d/../..{outside}"))
            .dir("e/")
            .file("e/canary", "inside")
    });
    let layer = result.unwrap();
    assert_eq!(
        std::fs::read_to_string(layer.join("outside/canary")).unwrap(),
        "inside"
    );
}

#[test]
fn links_in_a_circle_are_refused() {
    if !is_root() {
        return;
    }
    let reason = refused(
        Tar::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", ""),
    );
    assert!(reason.contains("loop of links"), "{reason}");
    let reason = refused(Tar::new().symlink("a", "a/a").hardlink("h", "a/x"));
    assert!(reason.contains("not in the archive"), "{reason}");
}

#[test]
fn magic_links_of_proc_lead_nowhere() {
    if !is_root() {
        return;
    }
    let (_fixture, result) = attack(|_| {
        Tar::new()
            .symlink("link", "/proc/self/root")
            .file("link/x", "dead")
    });
    assert!(result.is_err());
}

#[test]
fn an_entry_replaces_a_link_and_does_not_write_through_it() {
    if !is_root() {
        return;
    }
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .symlink("file", format!("{outside}/canary"))
            .file("file", "inside")
            .symlink("dir", format!("{outside}/directory"))
            .dir("dir/")
            .file("dir/file", "inside")
            .symlink("fifo", format!("{outside}/canary"))
            .entry(b'6', "fifo", "", b"")
    });
    let layer = result.unwrap();
    let inside = tree(&layer);
    assert_eq!(
        (
            inside[&b"file"[..]].kind,
            inside[&b"dir"[..]].kind,
            inside[&b"fifo"[..]].kind
        ),
        ("file", "directory", "fifo")
    );
    assert_eq!(
        std::fs::read_to_string(layer.join("dir/file")).unwrap(),
        "inside"
    );
}

#[test]
fn a_directory_replaced_by_a_link_is_not_used_any_more() {
    if !is_root() {
        return;
    }
    // The directory is open, and known by its path, when the link takes its place.
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .dir("dir/")
            .file("dir/one", "1")
            .symlink("dir", outside)
            .file("dir/canary", "dead")
    });
    assert!(result.is_err());
    let (_fixture, result) = attack(|_| {
        Tar::new()
            .dir("real/")
            .dir("dir/")
            .file("dir/one", "1")
            .symlink("dir", "real")
            .file("dir/two", "2")
    });
    let layer = result.unwrap();
    assert_eq!(common::names(&layer.join("real")), ["two"]);
}

#[test]
fn modes_owners_times_and_attributes_of_a_link_do_not_reach_its_target() {
    if !is_root() {
        return;
    }
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .mode(0o4777)
            .owner(12, 34)
            .xattr("security.capability", &capability())
            .symlink("link", format!("{outside}/canary"))
    });
    let layer = result.unwrap();
    assert_eq!(tree(&layer)[&b"link"[..]].owner, (12, 34));
}

/// A file capability in the kernel's format, version 2 (capability.h): cap_net_raw, effective and permitted.
fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 13, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

#[test]
fn hard_links_reach_nothing_outside() {
    if !is_root() {
        return;
    }
    let (_fixture, result) =
        attack(|outside| Tar::new().hardlink("stolen", format!("{outside}/canary")));
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("not in the archive before it")
    );
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .symlink("dir", outside)
            .hardlink("stolen", "dir/canary")
    });
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("not in the archive before it")
    );
    // A hard link to a link is one to the link itself; what is written there afterwards replaces it.
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .symlink("link", format!("{outside}/canary"))
            .hardlink("same", "link")
            .file("same", "inside")
    });
    let layer = result.unwrap();
    let inside = tree(&layer);
    assert_eq!(
        (inside[&b"same"[..]].kind, inside[&b"link"[..]].kind),
        ("file", "symlink")
    );
}

#[test]
fn hard_links_to_directories_and_deleted_files_are_refused() {
    if !is_root() {
        return;
    }
    assert!(refused(Tar::new().dir("d/").hardlink("h", "d")).contains("directory"));
    assert!(refused(Tar::new().hardlink("h", "/")).contains("directory"));
    assert!(refused(Tar::new().file(".wh.x", "").hardlink("h", "x")).contains("deleted"));
    assert!(
        refused(Tar::new().file(".wh.x", "").hardlink("h", ".wh.x")).contains("not in the archive")
    );
}

#[test]
fn a_hard_link_to_itself_changes_nothing() {
    if !is_root() {
        return;
    }
    let (_fixture, layer) = unpacked(
        Tar::new()
            .file("a", "1")
            .hardlink("a", "a")
            .hardlink("b", "a")
            .hardlink("a", "b"),
    );
    assert_eq!(std::fs::read_to_string(layer.join("a")).unwrap(), "1");
    assert_eq!(std::fs::metadata(layer.join("b")).unwrap().nlink(), 2);
}

#[test]
fn whiteouts_reach_nothing_outside() {
    if !is_root() {
        return;
    }
    let (_fixture, result) = attack(|outside| {
        Tar::new()
            .dir(outside.trim_start_matches('/'))
            .symlink("link", outside)
            .file("link/.wh.canary", "")
            .file("link/.wh..wh..opq", "")
            .symlink("up", "../..")
            .file("up/.wh.outside", "")
    });
    let layer = result.unwrap();
    assert_eq!(tree(&layer)[&b"outside"[..]].kind, "char");
    for name in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        assert!(
            refused(Tar::new().file(name, "")).contains("whiteout without the name"),
            "{name}"
        );
    }
}

#[test]
fn a_whiteout_may_be_of_any_kind() {
    if !is_root() {
        return;
    }
    let (_fixture, layer) = unpacked(
        Tar::new()
            .file(".wh..wh.aufs", "")
            .hardlink(".wh.a", ".wh..wh.aufs")
            .symlink(".wh.b", "/etc")
            .dir(".wh.c/")
            .device(b'3', ".wh.d", 1, 3)
            .dir(".wh..wh.plnk/")
            .file(".wh..wh.plnk/1.2", "x"),
    );
    let inside = tree(&layer);
    assert_eq!(
        inside
            .keys()
            .map(|k| String::from_utf8_lossy(k).into_owned())
            .collect::<Vec<_>>(),
        ["", "a", "b", "c", "d"]
    );
    assert!(
        inside
            .iter()
            .skip(1)
            .all(|(_, node)| (node.kind, node.device) == ("char", 0))
    );
}

#[test]
fn a_device_that_would_be_taken_for_a_whiteout_is_refused() {
    if !is_root() {
        return;
    }
    assert!(
        refused(Tar::new().device(b'3', "x", 0, 0)).contains("how overlayfs marks a deleted file")
    );
    // A block device 0/0 is none.
    let (_fixture, layer) = unpacked(
        Tar::new()
            .device(b'4', "x", 0, 0)
            .device(b'3', "null", 1, 3),
    );
    let inside = tree(&layer);
    assert_eq!(
        (inside[&b"x"[..]].kind, inside[&b"null"[..]].device),
        ("block", rustix::fs::makedev(1, 3))
    );
}

#[test]
fn attributes_that_belong_to_the_host_are_refused() {
    if !is_root() {
        return;
    }
    for name in [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "trusted.anything",
        "user.overlay.metacopy",
    ] {
        let reason = refused(Tar::new().xattr(name, b"/etc").file("x", ""));
        assert!(
            reason.contains(name) && reason.contains("belongs to the host"),
            "{reason}"
        );
    }
}

#[test]
fn attributes_of_security_modules_are_passed_over_and_capabilities_kept() {
    if !is_root() {
        return;
    }
    let tar = Tar::new().pax(&[
        (
            "SCHILY.xattr.security.selinux",
            b"system_u:object_r:bin_t:s0\0",
        ),
        ("SCHILY.xattr.security.capability", &capability()),
        ("SCHILY.xattr.user.note", b"kept"),
        ("SCHILY.xattr.user.empty", b""),
    ]);
    let (_fixture, layer) = unpacked(tar.mode(0o4755).owner(1000, 1000).file("ping", "x"));
    let file = &tree(&layer)[&b"ping"[..]];
    let names: Vec<_> = file
        .xattrs
        .keys()
        .map(|k| String::from_utf8_lossy(k).into_owned())
        .collect();
    assert_eq!(names, ["security.capability", "user.empty", "user.note"]);
    // The change of owner would have cleared both.
    assert_eq!((file.mode, file.owner), (0o4755, (1000, 1000)));
}

#[test]
fn attributes_that_the_file_system_has_no_place_for_are_refused_as_such_and_not_as_a_full_disk() {
    // Of the size that Linux allows, which ext4 does not hold; another file system may.
    let huge = vec![b'x'; 65_536];
    for tar in [
        Tar::new().xattr("user.huge", &huge).file("some/file", "x"),
        Tar::new().xattr("user.huge", &huge).dir("some/file"),
    ] {
        let fixture = Fixture::new();
        match import(&fixture, tar) {
            Ok(image) => {
                let layer = fixture.store.layer_dirs(&image).unwrap().remove(0);
                let file = &tree(&layer)[&b"some/file"[..]];
                assert_eq!(file.xattrs[&b"user.huge"[..]], huge);
            }
            Err(error) => {
                let said = error.to_string();
                assert!(
                    said.contains("some/file") && said.contains("attributes"),
                    "{said}"
                );
                fixture.assert_empty();
            }
        }
    }
}

#[test]
fn limits_are_named_when_they_are_passed() {
    if !is_root() {
        return;
    }
    let with = |limits: Limits, bytes: &[u8]| {
        let fixture = Fixture::new();
        let store = fixture.store.clone().with_limits(limits);
        let error = store.import(bytes, None, &[]).unwrap_err();
        fixture.assert_empty();
        error.to_string()
    };
    let base = Limits::default;
    let many = (0..50)
        .fold(Tar::new(), |tar, n| tar.file(n.to_string(), ""))
        .done();
    assert_eq!(
        with(
            Limits {
                entries: 40,
                ..base()
            },
            &many
        ),
        "the archive passes the limit of 40 entries"
    );
    let large = Tar::new()
        .file("a", vec![0; 5000])
        .file("b", vec![0; 6000])
        .done();
    assert_eq!(
        with(
            Limits {
                layer_bytes: 10_000,
                ..base()
            },
            &large
        ),
        "the archive passes the limit of 10000 bytes in one layer"
    );
    let deep = Tar::new().file("d/".repeat(20) + "x", "").done();
    assert!(
        with(
            Limits {
                path_depth: 20,
                ..base()
            },
            &deep
        )
        .contains("limit of 20 directories")
    );
    assert!(
        with(
            Limits {
                path_bytes: 30,
                ..base()
            },
            &deep
        )
        .contains("limit of 30 bytes")
    );
    let attribute = Tar::new().xattr("user.x", &[1; 200]).file("x", "").done();
    assert!(
        with(
            Limits {
                xattr_bytes: 100,
                ..base()
            },
            &attribute
        )
        .contains("limit of 100 bytes")
    );
    let long = Tar::new().file("n".repeat(256), "").done();
    assert!(with(base(), &long).contains("longer than 255 bytes"));
}

#[test]
fn a_bomb_is_stopped_by_the_limit_whatever_its_compression() {
    if !is_root() {
        return;
    }
    // 64 MiB of zeros: some kilobytes compressed.
    let bomb = Tar::new().file("zeros", vec![0; 64 << 20]).done();
    let mut hidden = Tar::new().file("small", "x").done();
    hidden.extend(vec![0; 64 << 20]);
    for compress in [gzip, zstd] {
        let fixture = Fixture::new();
        let store = fixture.store.clone().with_limits(Limits {
            layer_bytes: 1 << 20,
            entries: 100,
            ..Limits::default()
        });
        let error = store
            .import(compress(&bomb).as_slice(), None, &[])
            .unwrap_err();
        assert!(
            error.to_string().contains("1048576 bytes in one layer"),
            "{error}"
        );
        // Behind the archive's end nothing is unpacked, but it would have to be inflated for the digest.
        let error = store
            .import(compress(&hidden).as_slice(), None, &[])
            .unwrap_err();
        assert!(error.to_string().contains("inflated archive"), "{error}");
        fixture.assert_empty();
    }
}

#[test]
fn a_file_larger_than_the_disk_is_refused_before_it_is_written() {
    if !is_root() {
        return;
    }
    // The content is missing: if it were looked for, the archive would be cut short.
    let header = Tar::new().header(b'0', b"large", b"", 1 << 60);
    let fixture = Fixture::new();
    let store = fixture.store.clone().with_limits(Limits {
        layer_bytes: u64::MAX,
        ..Limits::default()
    });
    let error = store
        .import(header.as_bytes().as_slice(), None, &[])
        .unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    fixture.assert_empty();
}

#[test]
fn a_sparse_bomb_counts_with_its_holes() {
    if !is_root() {
        return;
    }
    let tar = Tar::new().pax(&[
        ("GNU.sparse.size", b"1152921504606846976"),
        ("GNU.sparse.map", b""),
        ("GNU.sparse.name", b"sparse"),
    ]);
    assert!(refused(tar.file("x", "")).contains("bytes in one layer"));
}

#[test]
fn names_with_control_characters_are_kept_and_shown_escaped() {
    if !is_root() {
        return;
    }
    let (_fixture, layer) = unpacked(
        Tar::new()
            .file("a\nb\x1b[31m", "x")
            .file([b'n', 0xff, 0xfe], "y"),
    );
    let inside = tree(&layer);
    assert!(
        inside.contains_key(&b"a\nb\x1b[31m"[..]) && inside.contains_key(&[b'n', 0xff, 0xfe][..])
    );
    let reason = refused(Tar::new().file("../\x1b[31m\n", "x"));
    assert!(
        !reason.contains('\x1b') && !reason.contains('\n'),
        "{reason}"
    );
}

#[test]
fn numbers_that_a_file_cannot_have_are_refused() {
    if !is_root() {
        return;
    }
    for (uid, reason) in [
        ("4294967295", "its owner 4294967295 is out of range"),
        ("4294967296", "its owner 4294967296 is out of range"),
        ("18446744073709551615", "the PAX record uid has a bad value"),
    ] {
        let said = refused(Tar::new().pax(&[("uid", uid.as_bytes())]).file("x", ""));
        assert!(said.contains(reason), "{said}");
    }
    assert!(refused(Tar::new().device(b'3', "x", 4096, 0)).contains("out of range"));
    assert!(refused(Tar::new().entry(b'M', "x", "", b"")).contains("not known"));
    assert!(refused(Tar::new().symlink("x", "")).contains("link to nothing"));
    assert!(refused(Tar::new().file(".", "content")).contains("root can only be a directory"));
}

#[test]
fn a_file_called_like_a_directory_is_refused() {
    if !is_root() {
        return;
    }
    // Readers disagree on whether it has content: one sees headers where another sees a file.
    let inner = Tar::new().file("hidden", "").done();
    assert!(refused(Tar::new().file("x/", inner)).contains("name of a directory"));
    let (_fixture, layer) = unpacked(Tar::new().file("x/", ""));
    assert_eq!(tree(&layer)[&b"x"[..]].kind, "directory");
}

#[test]
fn a_path_through_a_file_is_refused() {
    if !is_root() {
        return;
    }
    assert!(refused(Tar::new().file("a", "").file("a/b", "")).contains("is not a directory"));
    assert!(
        refused(Tar::new().device(b'3', "a", 1, 3).file("a/b/c", ""))
            .contains("is not a directory")
    );
}

#[test]
fn any_replacement_order_leaves_the_last_entry() {
    if !is_root() {
        return;
    }
    let add = |tar: Tar, kind: usize| match kind {
        0 => tar.file("x", "file"),
        1 => tar.dir("x/"),
        2 => tar.symlink("x", "target"),
        3 => tar.entry(b'6', "x", "", b""),
        4 => tar.device(b'3', "x", 1, 3),
        5 => tar.file("other", "o").hardlink("x", "other"),
        6 => tar.dir("x/").file("x/inside", "i"),
        _ => tar.file("x", "again"),
    };
    let kinds = [
        "file",
        "directory",
        "symlink",
        "fifo",
        "char",
        "file",
        "directory",
        "file",
    ];
    for first in 0..kinds.len() {
        for (second, kind) in kinds.iter().enumerate() {
            let (_fixture, layer) = unpacked(add(add(Tar::new(), first), second));
            assert_eq!(tree(&layer)[&b"x"[..]].kind, *kind, "{first} then {second}");
        }
    }
}
