//! docker's grammar and its words.

use super::*;

fn here() -> &'static Path {
    Path::new("/home/me")
}

fn volume(text: &str) -> MountSpec {
    parse_volume(text, here()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn mount(text: &str) -> MountSpec {
    parse_mount(text, here()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn volume_error(text: &str) -> String {
    parse_volume(text, here()).unwrap_err().to_string()
}

fn mount_error(text: &str) -> String {
    parse_mount(text, here()).unwrap_err().to_string()
}

fn bind(mount: &MountSpec) -> &BindMount {
    match &mount.kind {
        MountKind::Bind(bind) => bind,
        other => panic!("{other:?}"),
    }
}

fn named(mount: &MountSpec) -> &VolumeMount {
    match &mount.kind {
        MountKind::Volume(volume) => volume,
        other => panic!("{other:?}"),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn a_target_alone_is_an_anonymous_volume_that_gives_way() {
    let mount = volume("/data/");
    assert_eq!(mount.target, "/data");
    assert_eq!(mount.origin, Origin::Implied);
    assert!(named(&mount).anonymous && named(&mount).name.is_none());
}

#[test]
fn a_name_before_the_colon_is_a_volume_and_a_path_a_bind() {
    let mount = volume("db:/var/lib//db:ro,nocopy");
    assert_eq!(mount.target, "/var/lib/db");
    assert!(mount.read_only && named(&mount).nocopy && !named(&mount).anonymous);
    assert_eq!(named(&mount).name.as_deref(), Some("db"));
    let mount = volume("/srv/:/x:rw,z,rslave,cached");
    assert_eq!(bind(&mount).source, "/srv");
    assert_eq!(bind(&mount).propagation, Propagation::RSlave);
    assert!(bind(&mount).create_missing && !mount.read_only);
}

#[test]
fn sources_that_begin_with_a_dot_are_taken_from_the_working_directory() {
    for (text, source) in [
        (".:/y", "/home/me"),
        ("./x:/y", "/home/me/x"),
        ("../x:/y", "/home/x"),
        (".hidden:/y", "/home/me/.hidden"),
        ("../../../..:/y", "/"),
    ] {
        assert_eq!(bind(&volume(text)).source, source, "{text}");
    }
    assert_eq!(
        bind(&mount("type=bind,src=./x,dst=/y")).source,
        "/home/me/x"
    );
    assert!(mount_error("type=bind,src=../x,dst=/y").contains("mount path must be absolute"));
}

#[test]
fn volume_flags_that_mean_nothing_get_dockers_words() {
    for (text, words) in [
        ("", "invalid empty volume spec"),
        (":/x", "invalid spec: :/x: empty section between colons"),
        ("a::/x", "invalid spec: a::/x: empty section between colons"),
        ("aa:/x:", "empty section between colons"),
        ("aa:/x:ro:z", "invalid spec: aa:/x:ro:z: too many colons"),
        ("/x:ro", "invalid volume specification: '/x:ro'"),
        ("aa:/x:rx", "invalid mode: rx"),
        ("aa:/x:ro,rw", "invalid mode: ro,rw"),
        ("aa:/x:ro,", "invalid mode: ro,"),
        (
            "aa:/",
            "invalid volume specification: 'aa:/': invalid mount config for type \"volume\": invalid specification: destination can't be '/'",
        ),
        ("/a:/b/..", "destination can't be '/'"),
        ("/", "destination can't be '/'"),
        ("x", "invalid mount path: 'x' mount path must be absolute"),
        (
            "aa:x",
            "invalid mount path: 'x' mount path must be absolute",
        ),
        (
            "a/b:/x",
            "create a/b: \"a/b\" includes invalid characters for a local volume name",
        ),
        ("~/x:/y", "includes invalid characters"),
        ("-a:/y", "includes invalid characters"),
        ("a:/y", "create a: volume name is too short"),
        ("/a:/x:nocopy", "field VolumeOptions must not be specified"),
        ("aa:/x:rshared", "field BindOptions must not be specified"),
    ] {
        let told = volume_error(text);
        assert!(told.contains(words), "{text}: {told}");
    }
    assert!(volume_error(&format!("{}:/x", "n".repeat(256))).contains("too long"));
}

#[test]
fn mount_knows_all_its_keys() {
    let bound = mount(
        "type=bind,source=/a,destination=/b,readonly,bind-propagation=rprivate,bind-recursive=readonly,consistency=cached",
    );
    assert_eq!(bind(&bound).recursion, Recursion::ReadOnly);
    assert!(bound.read_only && !bind(&bound).create_missing);
    assert_eq!(bound.options(), ["rbind", "rprivate", "rro"]);
    let flat = mount("type=bind,src=/a,dst=/b,ro=true,bind-nonrecursive");
    assert_eq!(flat.options(), ["bind", "rprivate", "ro"]);
    assert!(bind(&mount("type=bind,src=/a,dst=/b,bind-create-src")).create_missing);

    let full = mount(
        "Type=Volume,src=vv,target=/b,volume-nocopy=1,volume-subpath=a/b,volume-label=k=v,volume-label=l,volume-driver=local,\"volume-opt=o=bind,ro\",volume-opt=type=none,volume-opt=device=/srv",
    );
    let full = named(&full);
    assert_eq!(full.name.as_deref(), Some("vv"));
    assert_eq!(full.subpath.as_deref(), Some("a/b"));
    assert!(full.nocopy && full.labels["k"] == "v" && full.labels["l"].is_empty());
    assert_eq!(full.options["o"], "bind,ro");

    let memory = mount("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770,ro");
    assert_eq!(
        memory.options(),
        [
            "noexec",
            "nosuid",
            "nodev",
            "rprivate",
            "size=67108864",
            "mode=1770",
            "ro"
        ]
    );
    assert!(named(&mount("target=/x")).anonymous);
}

#[test]
fn mount_flags_with_slips_get_dockers_words() {
    for (text, words) in [
        // The notes' `--mount type=volume, source=v, target=/x`, as the shell splits it and in quotes.
        (
            "type=volume,",
            "invalid argument \"type=volume,\" for \"--mount\" flag: invalid field '' must be a key=value pair",
        ),
        (
            "type=volume, source=v, target=/x",
            "unexpected key ' source' in ' source=v'",
        ),
        (" target=/x", "unexpected key ' target' in ' target=/x'"),
        (
            "type=bind,src=/a,dst=/b,frobnicate=1",
            "unexpected key 'frobnicate'",
        ),
        (
            "type=bind,src=/a,dst=/b,frobnicate",
            "invalid field 'frobnicate' must be",
        ),
        ("type=,dst=/b", "type is required"),
        ("type=bind,src=/a", "target is required"),
        ("", "value is empty"),
        ("type=\"bind\"", "bare \" in non-quoted-field"),
        ("dst=/b,ro=yes", "invalid value for ro: yes"),
        (
            "dst=/b,volume-nocopy=x",
            "invalid value for volume-nocopy: x",
        ),
        (
            "type=tmpfs,dst=/b,tmpfs-size=x",
            "invalid value for tmpfs-size: x",
        ),
        (
            "type=tmpfs,dst=/b,tmpfs-mode=999",
            "invalid value for tmpfs-mode: 999",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=no",
            "invalid value for bind-recursive: no (must be \"enabled\"",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=writable",
            "option 'bind-recursive=writable' requires 'readonly'",
        ),
        (
            "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly",
            "requires 'bind-propagation=rprivate'",
        ),
        (
            "type=bind,src=/a,dst=/b,volume-nocopy",
            "cannot mix 'volume-*' options with mount type 'bind'",
        ),
        (
            "src=vv,dst=/b,bind-propagation=slave",
            "cannot mix 'bind-*' options",
        ),
        ("src=vv,dst=/b,tmpfs-size=1", "cannot mix 'tmpfs-*' options"),
        (
            "type=tmpfs,src=/a,dst=/b",
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ),
        ("type=bind,dst=/b", "field Source must not be empty"),
        (
            "type=bind,src=a,dst=/b",
            "invalid mount path: 'a' mount path must be absolute",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-propagation=odd",
            "invalid propagation mode: odd",
        ),
        (
            "dst=/b,ro",
            "must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            "dst=/b,volume-subpath=a",
            "must not set Subpath when using anonymous volumes",
        ),
        (
            "src=vv,dst=/b,volume-subpath=../a",
            "subpath must be a relative path",
        ),
        (
            "src=a/b,dst=/b",
            "includes invalid characters for a local volume name",
        ),
        (
            "src=vv,dst=/b,volume-driver=nfs",
            "plugin \"nfs\" not found",
        ),
        (
            "src=vv,dst=/b,volume-opt=type=tmpfs",
            "missing required option: \"device\"",
        ),
        ("src=vv,dst=/b,volume-opt=odd=1", "invalid option: \"odd\""),
        (
            "type=image,src=x,dst=/b",
            "plimsoll does not have this type",
        ),
        (
            "type=odd,dst=/b",
            "invalid mount config for type \"odd\": mount type unknown",
        ),
        ("src=vv,dst=/", "destination can't be '/'"),
        ("src=vv,dst=b", "mount path must be absolute"),
    ] {
        let told = mount_error(text);
        assert!(told.contains(words), "{text}: {told}");
    }
}

#[test]
fn tmpfs_takes_its_own_options_only() {
    let memory = parse_tmpfs("/run:rw,size=64m,mode=1777,exec").unwrap();
    assert_eq!(
        memory.options(),
        [
            "noexec",
            "nosuid",
            "nodev",
            "rprivate",
            "size=64m",
            "mode=1777",
            "exec"
        ]
    );
    assert!(parse_tmpfs("/run:ro").unwrap().read_only);
    assert!(parse_tmpfs("/run:").is_ok());
    for (text, words) in [
        ("/run:odd", "invalid tmpfs option \"odd\""),
        ("/run:size", "invalid tmpfs option \"size\""),
        ("/run:size=", "invalid tmpfs option"),
        ("/run:upperdir=/", "invalid tmpfs option"),
        ("/run:,", "invalid tmpfs option"),
        ("run", "mount path must be absolute"),
        ("/", "destination can't be '/'"),
        ("", "mount path must be absolute"),
    ] {
        let told = parse_tmpfs(text).unwrap_err().to_string();
        assert!(told.contains(words), "{text}: {told}");
    }
}

#[test]
fn volumes_from_takes_a_mode_for_reading_and_writing_only() {
    let from = parse_volumes_from("other:ro").unwrap();
    assert!(from.instance == "other" && from.read_only);
    assert!(!parse_volumes_from("other").unwrap().read_only);
    for (text, words) in [
        ("", "cannot be an empty string"),
        (":ro", "cannot be an empty string"),
        ("other:nocopy", "invalid mode: nocopy"),
        ("other:rslave", "invalid mode: rslave"),
        ("other:ro:z", "invalid mode: ro:z"),
    ] {
        let told = parse_volumes_from(text).unwrap_err().to_string();
        assert!(told.contains(words), "{text}: {told}");
    }
}

#[test]
fn two_mounts_at_one_target_are_refused() {
    let parse_flags = |volumes: &[&str], mounts: &[&str], tmpfs: &[&str]| {
        let (volumes, mounts, tmpfs) = (owned(volumes), owned(mounts), owned(tmpfs));
        let flags = MountFlags {
            volumes: &volumes,
            mounts: &mounts,
            tmpfs: &tmpfs,
            volumes_from: &[],
        };
        parse(&flags, here()).map(|asked| asked.mounts.len())
    };
    for (volumes, mounts, tmpfs) in [
        (&["aa:/x", "bb:/x/"][..], &[][..], &[][..]),
        (&["aa:/x"], &["src=bb,dst=/y/../x"], &[]),
        (&["/a:/x"], &[], &["/x"]),
        (&[], &["dst=/x", "dst=/x"], &[]),
    ] {
        let told = parse_flags(volumes, mounts, tmpfs).unwrap_err().to_string();
        assert_eq!(told, "duplicate mount point: /x");
    }
    // The same words twice, a tmpfs given again and an anonymous volume are none.
    assert_eq!(parse_flags(&["aa:/x", "aa:/x", "/x"], &[], &[]).unwrap(), 2);
    assert_eq!(parse_flags(&[], &[], &["/x", "/x:ro"]).unwrap(), 1);
}

#[test]
fn what_was_asked_for_wins_over_what_is_inherited_and_that_over_the_image() {
    let asked = [volume("mine:/a"), volume("/b"), volume("/c")];
    let first = [
        volume("theirs:/a"),
        volume("theirs:/b:ro"),
        volume("theirs:/d/e"),
    ];
    let second = [volume("others:/d/e"), volume("/srv:/f")];
    let inherited = [
        Inherited {
            read_only: false,
            mounts: &first,
        },
        Inherited {
            read_only: true,
            mounts: &second,
        },
    ];
    let memory = [parse_tmpfs("/g").unwrap()];
    let third = Inherited {
        read_only: false,
        mounts: &memory,
    };
    let all = [inherited[0], inherited[1], third];
    let merged = merge(&asked, &all, &owned(&["/a", "b/", "/d", "/d/e", "/z/y/x"])).unwrap();
    let told: Vec<String> = merged
        .iter()
        .map(|mount| {
            let what = match &mount.kind {
                MountKind::Volume(volume) => volume.name.clone().unwrap_or_default(),
                MountKind::Bind(bind) => bind.source.clone(),
                MountKind::Tmpfs(_) => "tmpfs".into(),
            };
            let mode = if mount.read_only { "ro" } else { "rw" };
            format!("{}={what} {mode}", mount.target)
        })
        .collect();
    assert_eq!(
        told,
        [
            "/a=mine rw",
            "/b=theirs ro",
            "/c= rw",
            "/d= rw",
            "/f=/srv ro",
            "/d/e=others ro",
            "/z/y/x= rw",
        ]
    );
}

#[test]
fn an_image_cannot_have_volumes_where_none_can_be_or_too_many() {
    for volume in ["/", "..", "", "/a\0b"] {
        assert!(merge(&[], &[], &owned(&[volume])).is_err(), "{volume:?}");
    }
    let many: Vec<String> = (0..5000).map(|n| format!("/v{n}")).collect();
    let told = merge(&[], &[], &many).unwrap_err().to_string();
    assert!(told.contains("5000") && told.contains("1024"), "{told}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic_or_a_target_relative(text in "(type=|src=|dst=|ro|,|\"|:|/|\\.|[a-z]|\\PC|\0){0,24}") {
        let parsed = [
            parse_volume(&text, here()),
            parse_mount(&text, here()),
            parse_tmpfs(&text),
        ];
        for mount in parsed.into_iter().flatten() {
            let components: Vec<&str> = mount.target.split('/').skip(1).collect();
            assert!(mount.target.starts_with('/') && mount.target != "/", "{mount:?}");
            assert!(components.iter().all(|c| !["", ".", ".."].contains(c)), "{mount:?}");
            if let MountKind::Bind(bind) = &mount.kind {
                assert!(bind.source.starts_with('/'), "{mount:?}");
            }
        }
        let _ = parse_volumes_from(&text);
        let _ = merge(&[], &[], &[text]);
    }
}

#[test]
fn a_mount_survives_its_record() {
    for spec in [
        volume("/x"),
        volume("db:/x:ro,nocopy"),
        volume("/a:/x:ro"),
        mount("type=bind,src=/a,dst=/b,ro,bind-recursive=writable"),
        mount("src=vv,dst=/x,volume-label=a=b,volume-subpath=s"),
        mount("type=tmpfs,dst=/t,tmpfs-size=1m"),
    ] {
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            serde_json::from_str::<MountSpec>(&json).unwrap(),
            spec,
            "{json}"
        );
    }
}
