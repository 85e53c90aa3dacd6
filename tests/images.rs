//! Images: made, listed, shared, removed.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Host, binary, in_lab, tar_of, vm_ways, ways, which};
use sha2::Digest;

/// An archive with a program that runs anywhere: busybox.
fn small_image(marker: &str) -> Vec<u8> {
    let busybox =
        fs::read("/bin/busybox").expect("Debian's busybox-static (make packages installs it)");
    tar_of(&[
        ("bin/busybox", 0o755, &busybox),
        ("marker", 0o644, marker.as_bytes()),
    ])
}

#[test]
fn an_imported_image_runs_with_what_change_told() {
    let host = Host::new();
    let import = [
        "import",
        "--change",
        "ENTRYPOINT [\"/bin/busybox\"]",
        "--change",
        "CMD [\"cat\", \"/marker\"]",
        "--change",
        "ENV FROM=image",
        "--change",
        "WORKDIR /work",
        "--change",
        "USER 12:34",
        "-",
        "small:v1",
    ];
    let id = host
        .plimsoll_with_input(&small_image("hello"), &import)
        .ok()
        .to_owned();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    for way in ways() {
        let run = |image: &str, command: &[&str]| {
            host.plimsoll([&["run", "--rm"], way.as_slice(), &[image], command].concat())
                .ok()
                .to_owned()
        };
        assert_eq!(run("small:v1", &[]), "hello", "{way:?}");
        assert_eq!(run(&id, &["id", "-u"]), "12", "{way:?}");
        assert_eq!(
            run(&id[7..19], &["sh", "-c", "echo $FROM; pwd; id -g"]),
            "image\n/work\n34",
            "{way:?}"
        );
        let replaced = [
            &["run", "--rm"],
            way.as_slice(),
            &["--entrypoint", "/bin/busybox", "small:v1", "echo", "x"],
        ];
        assert_eq!(host.plimsoll(replaced.concat()).ok(), "x", "{way:?}");
    }
}

#[test]
fn compressed_archives_are_recognised_by_their_content() {
    let host = Host::new();
    let archive = small_image("same");
    let plain = host.scratch().join("plain");
    fs::write(&plain, &archive).unwrap();
    let ids: Vec<String> = ["cat", "gzip -c", "zstd -qc"]
        .iter()
        .filter(|program| {
            let there = which(program.split(' ').next().unwrap()).is_some();
            if !there {
                eprintln!("skipped: {program} is not installed");
            }
            there
        })
        .map(|program| {
            let packed = host.scratch().join("packed");
            let script = format!("{program} < {} > {}", plain.display(), packed.display());
            assert!(
                std::process::Command::new("sh")
                    .args(["-c", &script])
                    .status()
                    .unwrap()
                    .success()
            );
            let import = host.plimsoll(["import", packed.to_str().unwrap(), "packed"]);
            assert!(import.ok().starts_with("sha256:"));
            host.plimsoll(["run", "--rm", "packed", "/bin/busybox", "cat", "/marker"])
                .ok()
                .to_owned()
        })
        .collect();
    assert!(
        !ids.is_empty() && ids.iter().all(|marker| marker == "same"),
        "{ids:?}"
    );
}

#[test]
fn a_layer_is_stored_once_however_many_images_have_it() {
    let host = Host::new();
    let archive = small_image("shared");
    host.plimsoll_with_input(&archive, &["import", "-", "one"])
        .ok();
    let size = tree_bytes(&host.root().join("images"));
    host.plimsoll_with_input(&archive, &["import", "--change", "ENV A=b", "-", "two"])
        .ok();
    let grown = tree_bytes(&host.root().join("images")) - size;
    assert!(
        grown < 64 << 10,
        "a second image on the same layer took {grown} bytes more"
    );
    host.plimsoll(["rmi", "one"]).ok();
    assert_eq!(
        host.plimsoll(["run", "--rm", "two", "/bin/busybox", "cat", "/marker"])
            .ok(),
        "shared"
    );
    host.plimsoll(["rmi", "two"]).ok();
    let left = tree_bytes(&host.root().join("images"));
    // What stays is the built-in image, if anything made it.
    assert!(
        left + archive.len() as u64 <= size + (8 << 20),
        "{left} bytes are left of {size}"
    );
}

/// Bytes on disk below a folder.
fn tree_bytes(folder: &std::path::Path) -> u64 {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let meta = entry.path().symlink_metadata().unwrap();
            meta.blocks() * 512
                + if meta.is_dir() {
                    tree_bytes(&entry.path())
                } else {
                    0
                }
        })
        .sum()
}

#[test]
fn images_are_listed_with_their_sizes_and_removed_by_name() {
    let host = Host::new();
    host.plimsoll_with_input(
        &small_image("x"),
        &["import", "-", "example.org/team/app:1.2"],
    )
    .ok();
    let table = host.plimsoll(["images"]);
    let header = table
        .ok()
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(header, "REPOSITORY TAG IMAGE ID CREATED SIZE");
    assert!(
        table.stdout.contains("example.org/team/app") && table.stdout.contains("plimsoll/base")
    );
    let said = host.plimsoll(["rmi", "example.org/team/app:1.2"]);
    assert!(
        said.ok().contains("Untagged: example.org/team/app:1.2")
            && said.stdout.contains("Deleted: sha256:")
    );
    assert!(!host.plimsoll(["images"]).stdout.contains("example.org"));
}

/// An image that was made at that time; its identifier.
fn made_at(host: &Host, seconds: u64, name: &str, labels: &[&str]) -> String {
    let archive = tempfile::NamedTempFile::new().unwrap();
    fs::write(archive.path(), small_image(&seconds.to_string())).unwrap();
    let mut command = host.command();
    command
        .args(["import"])
        .env("SOURCE_DATE_EPOCH", seconds.to_string());
    for label in labels {
        command.args(["--change", &format!("LABEL {label}")]);
    }
    command.arg(archive.path()).arg(name);
    common::finish(command).ok().to_owned()
}

#[test]
fn images_are_filtered_by_name_label_time_and_whether_they_have_a_name() {
    let host = Host::new();
    let old = made_at(&host, 1_500_000_000, "team/old:1", &["tier=back"]);
    // Its name goes to the next one.
    let nameless = made_at(
        &host,
        1_600_000_000,
        "team/new:2",
        &["tier=front", "nameless=yes"],
    );
    made_at(&host, 1_700_000_000, "team/new:2", &["tier=front"]);
    made_at(&host, 1_700_000_001, "plain", &[]);
    let list = |flags: &[&str]| -> Vec<String> {
        let format = ["--format", "{{.Repository}}:{{.Tag}}"];
        let said = host.plimsoll([&["images"], flags, &format].concat());
        let lines = said.ok().lines();
        lines
            .filter(|line| !line.starts_with("plimsoll/"))
            .map(str::to_owned)
            .collect()
    };
    let filtered = |filters: &[&str]| {
        let flags: Vec<&str> = filters
            .iter()
            .flat_map(|filter| ["--filter", *filter])
            .collect();
        list(&flags)
    };
    let (team_old, team_new, plain, none) =
        ("team/old:1", "team/new:2", "plain:latest", "<none>:<none>");
    assert_eq!(
        list(&[]),
        [plain, team_new, none, team_old],
        "the newest first"
    );
    assert_eq!(list(&["team/new"]), [team_new]);
    assert_eq!(list(&["-f", "dangling=true"]), [none]);
    let cases: &[(&[&str], &[&str])] = &[
        (&["dangling=false"], &[plain, team_new, team_old]),
        (&["reference=team/*"], &[team_new, team_old]),
        (&["reference=*"], &[plain]),
        (
            &["reference=team/*:1", "reference=pl[a-m]in"],
            &[plain, team_old],
        ),
        (&["label=tier"], &[team_new, none, team_old]),
        (&["label=tier=front"], &[team_new, none]),
        (&["label=tier=front", "label=nameless"], &[none]),
        (&["label=tier=front", "label!=nameless"], &[team_new]),
        (&["label!=tier"], &[plain]),
        (&["before=plain"], &[team_new, none, team_old]),
        (&["before=team/new:2"], &[none, team_old]),
        (&["since=team/old:1"], &[plain, team_new, none]),
        (
            &["since=team/old:1", "before=plain:latest"],
            &[team_new, none],
        ),
        (&["until=2020-01-01"], &[team_old]),
        (&["until=1600000001"], &[none, team_old]),
        (&["until=1h"], &[plain, team_new, none, team_old]),
        (
            &["label=tier", "dangling=false", "until=2020-01-01T00:00:00Z"],
            &[team_old],
        ),
        (&["label=absent"], &[]),
    ];
    for (filters, wanted) in cases {
        assert_eq!(filtered(filters), *wanted, "{filters:?}");
    }
    // By the beginning of an identifier too, and one without a name.
    let short = &nameless["sha256:".len()..][..12];
    assert_eq!(filtered(&[&format!("since={short}")]), [plain, team_new]);
    assert_eq!(filtered(&[&format!("before={short}")]), [team_old]);
    let all = [
        "image",
        "ls",
        "-q",
        "--no-trunc",
        "--filter",
        "until=2018-01-01",
    ];
    assert_eq!(host.plimsoll(all).ok(), old);
    for (filter, code, words) in [
        ("colour=red", 1, "invalid filter 'colour'"),
        ("dangling=perhaps", 1, "invalid filter 'dangling=perhaps'"),
        ("reference=[", 1, "invalid filter 'reference=['"),
        ("until=yesterday", 1, "invalid filter 'until=yesterday'"),
        ("before=no/such", 1, "no image no/such:latest"),
        ("since=", 1, ""),
        (
            "dangling",
            125,
            "bad format of filter (expected name=value)",
        ),
    ] {
        host.plimsoll(["images", "--filter", filter])
            .fails(code, &[words]);
    }
    host.plimsoll(["images", "["])
        .fails(1, &["invalid filter 'reference=['"]);
}

#[test]
fn image_prune_takes_what_its_filters_say() {
    let host = Host::new();
    made_at(&host, 1_500_000_000, "old", &["tier=back"]);
    made_at(&host, 1_600_000_000, "middle", &["tier=front"]);
    made_at(&host, 1_700_000_000, "new", &["tier=front", "keep=yes"]);
    let prune = |filters: &[&str]| {
        let flags = filters.iter().flat_map(|filter| ["--filter", *filter]);
        let words: Vec<&str> = ["image", "prune", "-af"].into_iter().chain(flags).collect();
        let said = host.plimsoll(words);
        let mut names: Vec<String> = said
            .ok()
            .lines()
            .filter_map(|line| Some(line.strip_prefix("untagged: ")?.to_owned()))
            .filter(|name| !name.starts_with("plimsoll/"))
            .collect();
        names.sort();
        names
    };
    assert!(prune(&["label=tier=none"]).is_empty());
    assert!(prune(&["label=tier", "until=2016-01-01"]).is_empty());
    assert_eq!(prune(&["until=2018-01-01"]), ["old:latest"]);
    assert_eq!(
        prune(&["label=tier=front", "label!=keep"]),
        ["middle:latest"]
    );
    assert_eq!(prune(&["until=1h", "label=keep=yes"]), ["new:latest"]);
    for (filter, words) in [
        ("before=x", "invalid filter 'before'"),
        ("until=soon", "invalid filter 'until=soon'"),
        ("dangling=2", "invalid filter 'dangling=2'"),
    ] {
        host.plimsoll(["image", "prune", "-f", "--filter", filter])
            .fails(1, &[words]);
    }
}

#[test]
fn an_image_that_an_instance_was_made_from_is_kept() {
    let host = Host::new();
    host.plimsoll_with_input(&small_image("x"), &["import", "-", "used"])
        .ok();
    host.plimsoll(["run", "--name", "user", "used", "/bin/busybox", "true"])
        .ok();
    host.plimsoll(["rmi", "used"]).fails(1, &["used", "rm"]);
    host.plimsoll(["rm", "user"]).ok();
    host.plimsoll(["rmi", "used"]).ok();
}

/// A `docker save`-like archive of an image with many layers, each holding one file.
fn layered_archive(layers: usize) -> Vec<u8> {
    let sha256 = |bytes: &[u8]| -> String {
        sha2::Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    };
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).unwrap();
    };
    let busybox = fs::read("/bin/busybox").unwrap();
    let (mut digests, mut paths) = (Vec::new(), Vec::new());
    for number in 0..layers {
        let name = format!("layer-{number:03}");
        let layer = match number {
            0 => tar_of(&[
                ("bin/busybox", 0o755, &busybox),
                ("gone", 0o644, b"below"),
                ("count", 0o644, b"0"),
            ]),
            1 => tar_of(&[(".wh.gone", 0o644, b""), ("count", 0o644, b"1")]),
            _ => tar_of(&[
                (&name, 0o644, name.as_bytes()),
                ("count", 0o644, number.to_string().as_bytes()),
            ]),
        };
        digests.push(format!("sha256:{}", sha256(&layer)));
        paths.push(format!("{number}/layer.tar"));
        add(&paths[number], &layer);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/busybox", "sh", "-c", "cat count; /bin/busybox ls -d gone layer-* | /bin/busybox wc -l"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
    })
    .to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    add(&config_name, config.as_bytes());
    let manifest =
        serde_json::json!([{"Config": config_name, "RepoTags": ["layered:many"], "Layers": paths}]);
    add("manifest.json", manifest.to_string().as_bytes());
    archive.into_inner().unwrap()
}

#[test]
fn an_image_of_127_layers_is_loaded_and_runs_every_way() {
    let host = Host::new();
    let archive = host.scratch().join("layered.tar");
    fs::write(&archive, layered_archive(127)).unwrap();
    assert_eq!(
        host.plimsoll(["load", "-i", archive.to_str().unwrap()])
            .ok(),
        "Loaded image: layered:many"
    );
    for way in ways() {
        let said = host.plimsoll([&["run", "--rm"], way.as_slice(), &["layered:many"]].concat());
        // 125 layers with a file each; the whiteout hides `gone`.
        assert_eq!(said.ok(), "126125", "{way:?}: {said:?}");
    }
}

#[test]
fn an_archive_with_a_wrong_digest_is_refused() {
    let host = Host::new();
    let mut archive = layered_archive(3);
    // A byte of the last layer's file: the tar stays valid, its digest does not.
    let at = archive
        .windows(9)
        .rposition(|window| window == b"layer-002")
        .unwrap();
    archive[at + 8] = b'9';
    host.plimsoll_with_input(&archive, &["load"])
        .fails(1, &["sha256:"]);
    assert!(!host.plimsoll(["images"]).stdout.contains("layered"));
}

#[test]
fn debian_runs_every_way() {
    if in_lab() {
        skip!("the lab has no Debian mirror; the host's run of this test covers it");
    }
    if which("debootstrap").is_none() {
        skip!("debootstrap is not installed (make test installs it)");
    }
    let host = Host::new();
    let archive = common::debian::archive();
    host.plimsoll([
        "import",
        "--change",
        "CMD [\"bash\"]",
        archive.to_str().unwrap(),
        "debian:bookworm",
    ])
    .ok();
    let mut ways = vec![vec!["--backend", "container"]];
    ways.extend(vm_ways());
    for way in ways {
        let run = [
            &["run", "--rm"],
            way.as_slice(),
            &["debian:bookworm", "cat", "/etc/os-release"],
        ]
        .concat();
        let said = host.plimsoll(run);
        assert!(
            said.ok().contains("Debian GNU/Linux 12 (bookworm)"),
            "{way:?}: {said:?}"
        );
    }
}

#[test]
fn doctor_and_version_name_what_this_host_is() {
    let host = Host::new();
    let said = host.plimsoll(["doctor", "--format", "json"]);
    let facility = |name: &str| -> serde_json::Value {
        said.stdout
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("{name} is not in {}", said.stdout))
    };
    said.ok();
    let kvm = facility("kvm")["found"].as_str().unwrap().to_owned();
    let cgroups = facility("cgroups")["found"].as_str().unwrap().to_owned();
    if in_lab() {
        assert!(kvm.contains("svm"), "{kvm}");
        assert!(cgroups.contains("v2"), "{cgroups}");
    } else if common::kvm_is_emulated() {
        assert!(kvm.contains("kvm_pvm"), "{kvm}");
    }
    let v1 = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .any(|line| line.contains(" - cgroup "));
    assert_eq!(v1, !cgroups.starts_with("v2"), "{cgroups}");
    for name in [
        "kernel",
        "64 bit",
        "root",
        "overlay",
        "namespaces",
        "seccomp",
        "tun",
        "nftables",
        "qemu",
        "guest kernel",
    ] {
        facility(name);
    }
    assert!(host.plimsoll(["-v"]).ok().starts_with("plimsoll version "));
    assert!(host.plimsoll(["version"]).ok().contains("Guest kernel:"));
    assert!(binary().is_file());
}

#[test]
fn compare_shows_all_three_ways_side_by_side() {
    let vms = vm_ways();
    let Some(vm) = vms.iter().find(|way| way.contains(&"tcg")).or(vms.first()) else {
        skip!("no VM can be run here");
    };
    let host = Host::new();
    let accel = vm[3];
    let said = host.plimsoll([
        "compare",
        "--rounds",
        "1",
        "--accel",
        accel,
        "--format",
        "json",
        "plimsoll/base",
        "sh",
        "-c",
        "exit 3",
    ]);
    assert_eq!(said.code, Some(3), "{said:?}");
    let rows: Vec<serde_json::Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ways: Vec<_> = rows
        .iter()
        .map(|row| row["way"].as_str().unwrap())
        .collect();
    assert_eq!(ways, ["native", "container", "vm"]);
    for row in &rows {
        assert!(
            row["start_ns"].as_u64().unwrap() > 0 && row["peak_memory_bytes"].as_u64().unwrap() > 0,
            "{row}"
        );
        assert_eq!(row["exit_code"], 3);
    }
    let table = host.plimsoll([
        "compare",
        "--rounds",
        "1",
        "--accel",
        accel,
        "plimsoll/base",
        "true",
    ]);
    assert!(table.ok().contains("PEAK MEMORY"));
    if accel == "tcg" {
        assert!(
            table.stdout.contains("not on hardware virtualization"),
            "{table:?}"
        );
    }
    assert!(host.leftovers().is_empty());
}
