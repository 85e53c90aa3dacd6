//! Volumes in a state directory of their own.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::mount::{MountSpec, parse_mount, parse_volume};

fn home() -> (tempfile::TempDir, Home) {
    let temporary = tempfile::Builder::new()
        .prefix("plimsoll-volume-")
        .tempdir()
        .unwrap();
    let home = Home::open(&temporary.path().join("state")).unwrap();
    (temporary, home)
}

fn named(name: &str) -> NewVolume {
    NewVolume {
        name: Some(name.to_owned()),
        ..NewVolume::default()
    }
}

fn mount(text: &str) -> MountSpec {
    parse_volume(text, Path::new("/")).unwrap()
}

/// A record of an instance, with what matters here.
fn record(home: &Home, id: &str, mounts: &[MountSpec]) {
    let directory = home.instance(id);
    fs::create_dir_all(&directory).unwrap();
    let json = serde_json::json!({"version": 1, "spec": {"image": "x", "mounts": mounts}});
    fs::write(directory.join("instance.json"), json.to_string()).unwrap();
}

/// Names in the volumes' folder, unfinished ones too.
fn left(home: &Home) -> Vec<String> {
    let names = |path: PathBuf| -> Vec<String> {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let mut all = names(home.volumes());
    all.retain(|name| name != ".tmp");
    all.extend(names(home.volumes().join(".tmp")));
    all.sort();
    all
}

/// A layer's directory with a file at `data/file`.
fn layer(at: &Path) -> PathBuf {
    let data = at.join("layer/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "from the image").unwrap();
    std::os::unix::fs::chown(&data, Some(33), Some(44)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).unwrap();
    at.join("layer")
}

fn content(home: &Home, name: &str) -> PathBuf {
    home.volumes().join(name).join("_data")
}

#[test]
fn the_same_name_again_finds_the_volume() {
    let (_temporary, home) = home();
    let mut new = named("db");
    new.labels.insert("a".into(), "b".into());
    let made = create(&home, &new).unwrap();
    assert_eq!(made.labels["a"], "b");
    assert!(!made.is_anonymous());
    assert_eq!(
        fs::metadata(&made.mountpoint).unwrap().mode() & 0o777,
        0o755
    );
    fs::write(made.mountpoint.join("x"), "kept").unwrap();
    // docker: labels of a volume that exists stay what they are.
    assert_eq!(create(&home, &named("db")).unwrap(), made);
    assert_eq!(inspect(&home, "db").unwrap(), made);
    let mut other = named("db");
    for (key, value) in [("type", "none"), ("o", "bind"), ("device", "/srv")] {
        other.options.insert(key.into(), value.into());
    }
    let told = create(&home, &other).unwrap_err().to_string();
    assert!(told.contains("conflict"), "{told}");
    assert_eq!(left(&home), ["db"]);
}

#[test]
fn a_volume_without_a_name_is_marked_as_docker_marks_it() {
    let (_temporary, home) = home();
    let made = create(&home, &NewVolume::default()).unwrap();
    assert_eq!(made.name.len(), 64);
    assert!(made.is_anonymous());
    assert_eq!(made.labels[ANONYMOUS_LABEL], "");
}

#[test]
fn names_that_are_none_are_refused_and_never_used_as_paths() {
    let (_temporary, home) = home();
    fs::create_dir_all(home.volumes().join(".tmp")).unwrap();
    for name in [
        "", ".", "..", "../x", "a/b", "/etc", ".tmp", "a b", "ä", "x", "-v",
    ] {
        assert!(check_name(name).is_err(), "{name:?}");
        assert!(create(&home, &named(name)).is_err(), "{name:?}");
        assert!(inspect(&home, name).is_err(), "{name:?}");
        let told = remove(&home, name).unwrap_err().to_string();
        assert!(told.ends_with("no such volume"), "{name:?}: {told}");
    }
    assert!(list(&home).unwrap().is_empty());
}

#[test]
fn what_is_in_use_is_not_removed_by_anybody() {
    let (_temporary, home) = home();
    create(&home, &named("db")).unwrap();
    record(&home, "0123", &[mount("db:/x")]);
    record(&home, "4567", &[mount("/srv:/x")]);
    let told = remove(&home, "db").unwrap_err().to_string();
    assert_eq!(told, "remove db: volume is in use - [0123]");
    assert!(prune(&home, &|_| true).unwrap().names.is_empty());
    fs::remove_dir_all(home.instance("0123")).unwrap();
    remove(&home, "db").unwrap();
    assert!(left(&home).is_empty());
    assert!(matches!(
        remove(&home, "db"),
        Err(Error::Volume(VolumeError::NotFound(_)))
    ));
}

#[test]
fn a_record_that_cannot_be_read_protects_every_volume() {
    let (_temporary, home) = home();
    create(&home, &named("db")).unwrap();
    record(&home, "0123", &[]);
    fs::write(home.instance("0123").join("instance.json"), "{").unwrap();
    for error in [
        remove(&home, "db").unwrap_err(),
        prune(&home, &|_| true).unwrap_err(),
    ] {
        assert!(matches!(error, Error::DamagedState { .. }), "{error}");
    }
    // An instance in the course of being made has no record yet.
    fs::remove_file(home.instance("0123").join("instance.json")).unwrap();
    remove(&home, "db").unwrap();
}

#[test]
fn a_volume_is_not_removed_between_its_preparation_and_the_record() {
    let (_temporary, home) = home();
    let prepared = prepare(&home, &[mount("db:/x")], None).unwrap();
    let told = remove(&home, "db").unwrap_err().to_string();
    assert!(told.contains("volume is in use"), "{told}");
    assert!(prune(&home, &|_| true).unwrap().names.is_empty());
    record(&home, "0123", &prepared.specs());
    drop(prepared);
    assert!(
        remove(&home, "db")
            .unwrap_err()
            .to_string()
            .contains("0123")
    );
}

#[test]
fn prune_takes_what_is_picked_and_tells_its_bytes() {
    let (_temporary, home) = home();
    let anonymous = create(&home, &NewVolume::default()).unwrap();
    let kept = create(&home, &named("kept")).unwrap();
    fs::write(anonymous.mountpoint.join("a"), "12345").unwrap();
    fs::create_dir(anonymous.mountpoint.join("sub")).unwrap();
    fs::write(anonymous.mountpoint.join("sub/b"), "1234567").unwrap();
    fs::hard_link(
        anonymous.mountpoint.join("a"),
        anonymous.mountpoint.join("again"),
    )
    .unwrap();
    let pruned = prune(&home, &Volume::is_anonymous).unwrap();
    assert_eq!((pruned.names, pruned.bytes), (vec![anonymous.name], 12));
    assert_eq!(list(&home).unwrap(), [kept]);
}

#[test]
fn anonymous_volumes_go_with_the_last_instance_that_has_them() {
    let (_temporary, home) = home();
    let mounts = [mount("/a"), mount("db:/b")];
    let specs = prepare(&home, &mounts, None).unwrap().specs();
    record(&home, "0123", &specs);
    // --volumes-from 0123
    let mut inherited = specs.clone();
    for spec in &mut inherited {
        spec.origin = crate::mount::Origin::Inherited;
    }
    let inherited = prepare(&home, &inherited, None).unwrap().specs();
    record(&home, "4567", &inherited);
    remove_anonymous(&home, "0123", &specs).unwrap();
    assert_eq!(left(&home).len(), 2);
    fs::remove_dir_all(home.instance("0123")).unwrap();
    remove_anonymous(&home, "4567", &inherited).unwrap();
    assert_eq!(left(&home), ["db"]);
    remove_anonymous(&home, "4567", &inherited).unwrap();
}

#[test]
fn an_anonymous_volume_that_somebody_has_named_stays_for_them() {
    let (_temporary, home) = home();
    let specs = prepare(&home, &[mount("/a")], None).unwrap().specs();
    record(&home, "0123", &specs);
    let name = left(&home).remove(0);
    let named = prepare(&home, &[mount(&format!("{name}:/b"))], None).unwrap();
    record(&home, "4567", &named.specs());
    drop(named);
    remove_anonymous(&home, "0123", &specs).unwrap();
    assert_eq!(left(&home), [name]);
}

#[test]
fn a_damaged_record_does_not_keep_the_anonymous_volumes_of_others() {
    let (_temporary, home) = home();
    let specs = prepare(&home, &[mount("/a")], None).unwrap().specs();
    record(&home, "4567", &[]);
    fs::write(home.instance("4567").join("instance.json"), "{").unwrap();
    remove_anonymous(&home, "0123", &specs).unwrap();
    assert!(left(&home).is_empty());
}

#[test]
fn preparing_names_anonymous_volumes_and_finds_them_again() {
    let (_temporary, home) = home();
    let specs = prepare(&home, &[mount("/a"), mount("/b")], None)
        .unwrap()
        .specs();
    assert_eq!(left(&home).len(), 2);
    let again = prepare(&home, &specs, None).unwrap();
    assert_eq!(again.specs(), specs);
    assert_eq!(left(&home).len(), 2);
    // Only what a preparation has made itself goes with it.
    again.discard(&home).unwrap();
    assert_eq!(left(&home).len(), 2);
    let fresh = prepare(&home, &[mount("/c"), mount("db:/d")], None).unwrap();
    fresh.discard(&home).unwrap();
    assert_eq!(left(&home).len(), 3);
}

#[test]
fn a_preparation_that_fails_leaves_no_anonymous_volume() {
    let (_temporary, home) = home();
    let missing = parse_mount("type=bind,src=/no/such,dst=/b", Path::new("/")).unwrap();
    let told = prepare(&home, &[mount("/a"), missing], None)
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "invalid mount config for type \"bind\": bind source path does not exist: /no/such"
    );
    assert!(left(&home).is_empty());
}

#[test]
fn a_missing_source_is_made_for_v_and_files_are_told_from_directories() {
    let (temporary, home) = home();
    let at = |name: &str| temporary.path().join(name).display().to_string();
    fs::write(at("file"), "x").unwrap();
    symlink(at("file"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    let mounts = [
        mount(&format!("{}:/a", at("new/deep"))),
        mount(&format!("{}:/b:ro", at("file"))),
        mount(&format!("{}:/c", at("link"))),
    ];
    let prepared = prepare(&home, &mounts, None).unwrap();
    let told: Vec<(bool, bool)> = prepared
        .mounts
        .iter()
        .map(|mount| (mount.is_directory, mount.read_only))
        .collect();
    assert_eq!(told, [(true, false), (false, true), (false, false)]);
    let path = prepared.mounts[2].source_path().unwrap();
    assert_eq!(fs::read(path).unwrap(), b"x");
    for wrong in ["dangling", "file/below"] {
        let told = prepare(&home, &[mount(&format!("{}:/a", at(wrong)))], None)
            .unwrap_err()
            .to_string();
        assert!(told.contains(&at(wrong)), "{told}");
    }
}

#[test]
fn an_empty_volume_takes_the_images_files_and_a_used_one_keeps_its_own() {
    let (temporary, home) = home();
    let layers = [layer(temporary.path())];
    prepare(&home, &[mount("db:/data")], Some(&layers)).unwrap();
    let file = content(&home, "db").join("file");
    assert_eq!(fs::read(&file).unwrap(), b"from the image");
    let metadata = fs::metadata(content(&home, "db")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (33, 44));
    assert_eq!(metadata.mode() & 0o7777, 0o750);
    fs::write(&file, "changed").unwrap();
    prepare(&home, &[mount("db:/data")], Some(&layers)).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"changed");
    assert!(!home.volumes().join("db/copying").exists());
}

#[test]
fn nothing_is_copied_where_docker_copies_nothing() {
    let (temporary, home) = home();
    let layers = [layer(temporary.path())];
    let bind = temporary.path().join("bind");
    fs::create_dir(&bind).unwrap();
    let mut inherited = mount("inherited:/data");
    inherited.origin = crate::mount::Origin::Inherited;
    let mounts = [
        mount("nocopy:/data:nocopy"),
        mount("elsewhere:/none"),
        mount(&format!("{}:/data", bind.display())),
        inherited,
    ];
    prepare(&home, &mounts, Some(&layers)).unwrap();
    prepare(&home, &[mount("later:/data")], None).unwrap();
    for name in ["nocopy", "elsewhere", "inherited", "later"] {
        assert_eq!(
            fs::read_dir(content(&home, name)).unwrap().count(),
            0,
            "{name}"
        );
    }
    assert_eq!(fs::read_dir(&bind).unwrap().count(), 0);
    let told = prepare(&home, &[mount("file:/data/file")], Some(&layers))
        .unwrap_err()
        .to_string();
    assert!(told.contains("file exists /data/file"), "{told}");
}

#[test]
fn a_copy_that_was_cut_off_is_finished_by_the_next() {
    let (temporary, home) = home();
    let layers = [layer(temporary.path())];
    create(&home, &named("db")).unwrap();
    // As a kill in mid-copy leaves it: the mark, and a part of a file.
    fs::write(home.volumes().join("db/copying"), "").unwrap();
    fs::write(content(&home, "db").join("file"), "from").unwrap();
    prepare(&home, &[mount("db:/data")], Some(&layers)).unwrap();
    let file = content(&home, "db").join("file");
    assert_eq!(fs::read(file).unwrap(), b"from the image");
    assert!(!home.volumes().join("db/copying").exists());
}

#[test]
fn many_at_once_make_one_volume_and_fill_it_once() {
    let (temporary, home) = home();
    let root = layer(temporary.path());
    let large = File::create(root.join("data/large")).unwrap();
    for block in 0..64 {
        large.write_all_at(&[7; 4096], block * 65_536).unwrap();
    }
    let layers = [root];
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (home, layers) = (&home, &layers);
            scope.spawn(move || {
                let prepared = prepare(home, &[mount("db:/data")], Some(layers)).unwrap();
                // Whoever is ready finds everything there, and may change it.
                let data = prepared.mounts[0].source_path().unwrap();
                assert_eq!(
                    fs::metadata(data.join("large")).unwrap().len(),
                    64 * 65_536 - 61_440
                );
                fs::write(data.join(format!("own-{n}")), "x").unwrap();
            });
        }
    });
    assert_eq!(left(&home), ["db"]);
    assert_eq!(fs::read_dir(content(&home, "db")).unwrap().count(), 10);
}

#[test]
fn making_and_removing_at_once_ends_in_a_volume_or_none() {
    let (_temporary, home) = home();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    create(&home, &named("db")).unwrap();
                }
            });
            scope.spawn(|| {
                for _ in 0..20 {
                    match remove(&home, "db") {
                        Ok(()) | Err(Error::Volume(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let _ = remove(&home, "db");
    assert!(left(&home).is_empty(), "{:?}", left(&home));
}

#[test]
fn what_killed_processes_left_is_swept() {
    let (_temporary, home) = home();
    let unfinished = home.volumes().join(".tmp/0123");
    fs::create_dir_all(unfinished.join("volume/_data/deep/down")).unwrap();
    create(&home, &named("db")).unwrap();
    assert_eq!(left(&home), ["db"]);
}

#[test]
fn a_damaged_volume_json_hides_neither_the_volume_nor_its_content() {
    let (_temporary, home) = home();
    let made = create(&home, &named("db")).unwrap();
    fs::write(home.volumes().join("db/volume.json"), "{").unwrap();
    assert_eq!(list(&home).unwrap().len(), 1);
    assert_eq!(inspect(&home, "db").unwrap().mountpoint, made.mountpoint);
    remove(&home, "db").unwrap();
    // After a loss of power it may be empty: what was anonymous still is.
    let name = create(&home, &NewVolume::default()).unwrap().name;
    fs::write(home.volumes().join(&name).join("volume.json"), "").unwrap();
    assert!(inspect(&home, &name).unwrap().is_anonymous());
}

#[test]
fn a_subpath_never_leaves_the_volume() {
    let (temporary, home) = home();
    let data = create(&home, &named("db")).unwrap().mountpoint;
    fs::create_dir_all(data.join("a/b")).unwrap();
    fs::write(data.join("a/file"), "x").unwrap();
    symlink("a/b", data.join("inside")).unwrap();
    symlink("/etc", data.join("absolute")).unwrap();
    symlink("../../..", data.join("climbing")).unwrap();
    symlink("/proc/self/root", data.join("magic")).unwrap();
    let try_path = |subpath: &str| {
        let text = format!("src=db,dst=/x,volume-subpath={subpath}");
        let spec = parse_mount(&text, temporary.path()).unwrap();
        prepare(&home, &[spec], None).map(|prepared| prepared.mounts[0].is_directory)
    };
    for (subpath, directory) in [
        ("a/b", true),
        ("a/file", false),
        ("inside", true),
        ("a/../a", true),
    ] {
        assert_eq!(try_path(subpath).unwrap(), directory, "{subpath}");
    }
    for subpath in ["absolute", "climbing", "climbing/state", "magic", "none"] {
        let told = try_path(subpath).unwrap_err().to_string();
        assert!(
            told.contains(&format!("cannot access path {subpath}")),
            "{told}"
        );
    }
}

#[test]
fn a_volume_can_keep_its_content_in_a_directory_of_the_hosts() {
    let (temporary, home) = home();
    let layers = [layer(temporary.path())];
    let device = temporary.path().join("device");
    let options = |o: &str| -> BTreeMap<String, String> {
        [
            ("type", "none"),
            ("o", o),
            ("device", device.to_str().unwrap()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    };
    let mut new = named("bound");
    new.options = options("bind");
    create(&home, &new).unwrap();
    let told = prepare(&home, &[mount("bound:/data")], Some(&layers)).unwrap_err();
    assert!(told.to_string().contains("device"), "{told}");
    fs::create_dir(&device).unwrap();
    let prepared = prepare(&home, &[mount("bound:/data")], Some(&layers)).unwrap();
    assert!(!prepared.mounts[0].read_only);
    // It is a volume: what the image has goes there.
    assert_eq!(fs::read(device.join("file")).unwrap(), b"from the image");
    drop(prepared);
    let mut locked = named("locked");
    locked.options = options("bind,ro");
    create(&home, &locked).unwrap();
    assert!(prepare(&home, &[mount("locked:/x")], None).unwrap().mounts[0].read_only);
    // And its content is the host's, which stays.
    remove(&home, "bound").unwrap();
    assert!(device.join("file").exists());
    for (o, kind) in [
        ("bind", "tmpfs"),
        ("addr=1.2.3.4", "nfs"),
        ("", "none"),
        ("bind,odd", "none"),
    ] {
        let mut wrong = options(o);
        wrong.insert("type".into(), kind.into());
        assert!(check_options("v", &wrong).is_err(), "{kind} {o}");
    }
}

#[test]
fn a_container_sees_its_mounts() {
    use container_core::{ExitStatus, Launch, Rootfs, Stdio, Teardown, default_spec, start};
    let (temporary, home) = home();
    let store = home.images().unwrap();
    let image = crate::base::ensure(&store).unwrap();
    let layers = store.layer_dirs(&image).unwrap();
    let at = |name: &str| temporary.path().join(name);
    for directory in ["upper", "work", "bind/sub"] {
        fs::create_dir_all(at(directory)).unwrap();
    }
    fs::write(at("bind/sub/file"), "from the host").unwrap();
    fs::write(at("single"), "one file").unwrap();
    let mut mounts = vec![
        mount("db:/etc"),
        mount("db:/ro:ro"),
        mount(&format!("{}:/new/deep:ro", at("bind").display())),
        mount(&format!("{}:/new/deep/sub/file", at("single").display())),
        crate::mount::parse_tmpfs("/tmp:size=1m,mode=1770").unwrap(),
    ];
    let part = parse_mount("src=parts,dst=/part,volume-subpath=a", Path::new("/")).unwrap();
    let parts = create(&home, &named("parts")).unwrap().mountpoint;
    fs::create_dir(parts.join("a")).unwrap();
    fs::write(parts.join("a/inner"), "inner").unwrap();
    mounts.push(part);
    mounts.sort_by_key(|mount| mount.target.matches('/').count());
    let prepared = prepare(&home, &mounts, Some(&layers)).unwrap();
    // A program with the whole volume puts a link to the host's files in the place of the part.
    fs::rename(parts.join("a"), parts.join("b")).unwrap();
    symlink(at("bind"), parts.join("a")).unwrap();
    let script = "
        set -e
        grep -q root /etc/passwd        # copied up
        echo written > /etc/new
        cat /ro/new
        ! touch /ro/x 2> /dev/null
        ! touch /new/deep/x 2> /dev/null
        test \"$(cat /new/deep/sub/file)\" = 'one file'
        test \"$(stat -c %a /tmp)\" = 1770
        test \"$(cat /part/inner)\" = inner
        dd if=/dev/zero of=/tmp/x bs=64k count=17 2> /dev/null && exit 9
        exit 7
    ";
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let mut spec = default_spec(command);
    let mut all = spec.mounts().clone().unwrap_or_default();
    all.extend(prepared.mounts.iter().map(ResolvedMount::oci));
    spec.set_mounts(Some(all));
    let mut container = start(Launch::new(
        &names::new_id().unwrap(),
        &spec,
        Rootfs::Overlay {
            lower: &layers,
            upper: &at("upper"),
            work: &at("work"),
            volatile: true,
        },
        Stdio::Inherit { stdin: false },
    ))
    .unwrap();
    let exit = container.wait().unwrap();
    container.release(Teardown::Wait).unwrap();
    assert_eq!(exit.status, ExitStatus::Exited(7));
    assert_eq!(
        fs::read(content(&home, "db").join("new")).unwrap(),
        b"written\n"
    );
    assert_eq!(fs::read(at("single")).unwrap(), b"one file");
}
