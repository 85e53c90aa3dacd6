//! Instances and archives that mean harm.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

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
    struct Stop<'s>(&'s AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
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
        // Also when the work fails.
        let _stop = Stop(&done);
        for _ in 0..400 {
            work();
        }
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
