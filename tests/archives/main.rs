//! Archives of images exchanged with docker.io, podman and skopeo: what one saves the other loads, with the same digests, and it runs.

#[path = "../common/mod.rs"]
mod common;
#[path = "../differential/dockerd.rs"]
#[allow(dead_code, reason = "the other test program makes its image too")]
mod dockerd;
mod instances;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Host, Said, finish, in_lab, ways};
use dockerd::Dockerd;

const NAME: &str = "exchange/app:1";

/// Builds an image of a few layers, plain and in gzip, that says something.
fn image(host: &Host) -> String {
    let context = host.scratch().join("context");
    fs::create_dir_all(&context).unwrap();
    fs::write(
        context.join("Dockerfile"),
        "FROM plimsoll/base\n\
         RUN echo exchanged >/said && rm /etc/nsswitch.conf && chown 12:34 /said && mkdir /emptied && echo x >/emptied/x\n\
         RUN rm -r /emptied && mkdir /emptied\n\
         LABEL made=here\n\
         CMD [\"sh\", \"-c\", \"cat /said; stat -c %u:%g /said; ls /emptied; ls /etc/nsswitch.conf 2>&1 | wc -l\"]\n",
    )
    .unwrap();
    let said = host.plimsoll(["build", "-q", "-t", NAME, context.to_str().unwrap()]);
    said.ok().to_owned()
}

const SAYS: &str = "exchanged\n12:34\n1";

fn at(host: &Host, name: &str) -> String {
    host.scratch().join(name).display().to_string()
}

/// The image's ID and its manifest's digest.
fn digests(host: &Host, name: &str) -> (String, String) {
    let said = host.plimsoll([
        "images",
        "--no-trunc",
        "--format",
        "{{.Repository}}:{{.Tag}} {{.ID}} {{.Digest}}",
    ]);
    let line = said
        .ok()
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))
        .unwrap_or_else(|| panic!("{name} is not in {said:?}"));
    let mut words = line.split(' ').skip(1);
    (
        words.next().unwrap().to_owned(),
        words.next().unwrap().to_owned(),
    )
}

/// Loads an archive into a state directory of its own, and runs the image every way.
#[track_caller]
fn loads_and_runs(archive: &str, name: &str, id: &str) -> (Host, String) {
    let host = Host::new();
    let said = host.plimsoll(["load", "-i", archive]);
    assert_eq!(said.ok(), format!("Loaded image: {name}"));
    let (found, manifest) = digests(&host, name);
    assert_eq!(found, id);
    for way in ways() {
        let said = host.plimsoll([&["run", "--rm"], way.as_slice(), &[name]].concat());
        assert_eq!(said.ok(), SAYS, "{way:?}");
    }
    (host, manifest)
}

#[test]
fn docker_loads_what_is_saved_here_and_the_other_way_round() {
    if in_lab() {
        skip!("docker is not part of the lab");
    }
    let dockerd = match Dockerd::start() {
        Ok(dockerd) => dockerd,
        Err(reason) => skip!("the exchange with docker, because {reason}"),
    };
    let docker = |arguments: &[&str]| -> Said {
        let mut command = dockerd.command();
        command.args(arguments);
        finish(command)
    };
    let host = Host::new();
    let id = image(&host);
    for format in ["both", "docker-archive"] {
        let archive = at(&host, format);
        host.plimsoll(["save", "--format", format, "-o", &archive, NAME])
            .ok();
        let said = docker(&["load", "-i", &archive]);
        assert_eq!(said.ok(), format!("Loaded image: {NAME}"), "{format}");
        let found = docker(&["image", "inspect", "--format", "{{.Id}}", NAME]);
        assert_eq!(found.ok(), id, "{format}");
        let said = docker(&["run", "--rm", "--network", "none", NAME]);
        assert_eq!(said.ok(), SAYS, "{format}");
        let back = at(&host, "back");
        docker(&["save", "-o", &back, NAME]).ok();
        loads_and_runs(&back, NAME, &id);
        docker(&["rmi", NAME]).ok();
    }
    // docker takes a root file system that is exported here, and this one takes docker's.
    host.plimsoll(["create", "--name", "plain", NAME]).ok();
    let exported = at(&host, "exported");
    host.plimsoll(["export", "-o", &exported, "plain"]).ok();
    docker(&[
        "import",
        "-c",
        "CMD [\"cat\", \"/said\"]",
        &exported,
        "imported",
    ])
    .ok();
    let said = docker(&["run", "--rm", "--network", "none", "imported"]);
    assert_eq!(said.ok(), "exchanged");
    docker(&["create", "--name", "plain", "--network", "none", "imported"]).ok();
    docker(&["export", "-o", &exported, "plain"]).ok();
    host.plimsoll(["import", &exported, "from-docker"]).ok();
    let said = host.plimsoll(["run", "--rm", "from-docker", "stat", "-c", "%u:%g", "/said"]);
    assert_eq!(said.ok(), "12:34");
    // A layer that docker has committed, with a deletion in it.
    docker(&[
        "run",
        "--name",
        "made",
        "--network",
        "none",
        "imported",
        "sh",
        "-c",
        "rm /etc/passwd; echo more >>/said",
    ])
    .ok();
    docker(&["commit", "made", "committed:1"]).ok();
    let committed = at(&host, "committed");
    docker(&["save", "-o", &committed, "committed:1"]).ok();
    host.plimsoll(["load", "-i", &committed]).ok();
    let wanted = docker(&["image", "inspect", "--format", "{{.Id}}", "committed:1"]);
    assert_eq!(digests(&host, "committed:1").0, wanted.ok());
    let said = host.plimsoll([
        "run",
        "--rm",
        "committed:1",
        "sh",
        "-c",
        "cat /said; ls /etc/passwd",
    ]);
    assert_eq!(said.stdout, "exchanged\nmore\n");
}

/// podman with everything of it below a directory, and our own runtime to run containers with: Debian's needs more than
/// this host has.
struct Podman {
    directory: PathBuf,
    cgroups: BTreeSet<PathBuf>,
}

impl Podman {
    fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let runtime = directory.join("plimsoll-oci");
        std::os::unix::fs::symlink(common::binary(), runtime).unwrap();
        let config = "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=4096:4096\"]\nlog_driver=\"k8s-file\"\n\
                      [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";
        fs::write(directory.join("containers.conf"), config).unwrap();
        Self {
            directory,
            cgroups: libpod_cgroups(),
        }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let at = |name: &str| self.directory.join(name).display().to_string();
        // On a hybrid host podman takes the presence of version 2 for its controllers'.
        let script = "grep -q ' cgroup ' /proc/mounts && awk '$3==\"cgroup2\"{print $2}' /proc/mounts | xargs -r umount -l; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh", "/usr/bin/podman"])
            .args([
                "--root",
                &at("p"),
                "--runroot",
                &at("r"),
                "--tmpdir",
                &at("t"),
            ])
            .args(["--storage-driver", "vfs", "--runtime", &at("plimsoll-oci")])
            .args(["--runtime-flag", &format!("root={}", at("state"))])
            .args(arguments)
            .env("CONTAINERS_CONF", at("containers.conf"));
        finish(command)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // podman leaves the cgroup that held those of its containers and monitors.
        let mut left = libpod_cgroups();
        // The deepest come last in order, and go first.
        while let Some(directory) = left.pop_last() {
            if !self.cgroups.contains(&directory) {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

fn libpod_cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if path.to_string_lossy().contains("libpod_parent") {
                    found.insert(path.clone());
                }
                open.push(path);
            }
        }
    }
    found
}

#[test]
fn podman_loads_what_is_saved_here_and_the_other_way_round() {
    if in_lab() {
        skip!("podman is not part of the lab");
    }
    if !Path::new("/usr/bin/podman").exists() {
        skip!("podman is missing (apt-get install podman)");
    }
    let host = Host::new();
    let id = image(&host);
    let podman = Podman::new(host.scratch().join("podman"));
    for (format, prefix) in [
        ("both", "docker.io/"),
        ("oci-archive", "docker.io/"),
        ("docker-archive", "localhost/"),
    ] {
        let archive = at(&host, format);
        host.plimsoll(["save", "--format", format, "-o", &archive, NAME])
            .ok();
        let said = podman.run(&["load", "-q", "-i", &archive]);
        assert_eq!(said.ok(), format!("Loaded image: {prefix}{NAME}"));
        let found = podman.run(&["image", "inspect", "--format", "{{.Id}} {{.Digest}}", NAME]);
        let (found, digest) = found.ok().split_once(' ').unwrap();
        assert_eq!(format!("sha256:{found}"), id, "{format}");
        if format != "docker-archive" {
            assert_eq!(digest, digests(&host, NAME).1, "{format}");
        }
        let said = podman.run(&["run", "--rm", "--network", "none", "--pull", "never", NAME]);
        assert_eq!(said.ok(), SAYS, "{format}");
        // podman turns what it has into the other format at a price: then it is another image.
        let own = if format == "docker-archive" {
            "docker-archive"
        } else {
            "oci-archive"
        };
        let back = at(&host, "back");
        let name = format!("{prefix}{NAME}");
        podman
            .run(&["save", "-q", "--format", own, "-o", &back, &name])
            .ok();
        let shown = name.trim_start_matches("docker.io/");
        loads_and_runs(&back, shown, &id);
        fs::remove_file(&back).unwrap();
        podman.run(&["rmi", "-f", &name]).ok();
    }
}

#[test]
fn skopeo_carries_archives_both_ways_and_no_digest_is_changed() {
    if in_lab() {
        skip!("skopeo is not part of the lab");
    }
    if !Path::new("/usr/bin/skopeo").exists() {
        skip!("skopeo is missing (apt-get install skopeo)");
    }
    let host = Host::new();
    let id = image(&host);
    let manifest = digests(&host, NAME).1;
    let skopeo = |arguments: &[&str]| {
        let mut command = Command::new("/usr/bin/skopeo");
        command
            .arg("--insecure-policy")
            .args(["--tmpdir", host.scratch().to_str().unwrap()])
            .args(arguments);
        finish(command)
    };
    for format in ["both", "oci-archive"] {
        let archive = at(&host, format);
        host.plimsoll(["save", "--format", format, "-o", &archive, NAME])
            .ok();
        let from = format!("oci-archive:{archive}:docker.io/{NAME}");
        let said = skopeo(&["inspect", "--format", "{{.Digest}}", &from]);
        assert_eq!(said.ok(), manifest);
        let carried = at(&host, "carried");
        let to = format!("oci-archive:{carried}:{NAME}");
        skopeo(&["copy", "-q", "--preserve-digests", &from, &to]).ok();
        let (_other, found) = loads_and_runs(&carried, NAME, &id);
        assert_eq!(found, manifest);
        fs::remove_file(&carried).unwrap();
        // Into docker's format only the manifest is another.
        let to = format!("docker-archive:{carried}:{NAME}");
        skopeo(&["copy", "-q", &from, &to]).ok();
        loads_and_runs(&carried, NAME, &id);
        fs::remove_file(&carried).unwrap();
    }
    let archive = at(&host, "older");
    host.plimsoll(["save", "--format", "docker-archive", "-o", &archive, NAME])
        .ok();
    let carried = at(&host, "carried");
    let said = skopeo(&[
        "copy",
        "-q",
        &format!("docker-archive:{archive}"),
        &format!("docker-archive:{carried}:{NAME}"),
    ]);
    said.ok();
    loads_and_runs(&carried, NAME, &id);
}

#[test]
fn a_whole_repository_is_saved_by_its_name_and_standard_streams_carry_archives() {
    let host = Host::new();
    let id = image(&host);
    host.plimsoll(["tag", NAME, "exchange/app:2"]).ok();
    let mut command = host.command();
    command.args(["save", "exchange/app"]);
    let archive = command.output().unwrap().stdout;
    let other = Host::new();
    let said = other.plimsoll_with_input(&archive, &["load"]);
    assert_eq!(
        said.ok(),
        "Loaded image: exchange/app:1\nLoaded image: exchange/app:2"
    );
    assert_eq!(digests(&other, "exchange/app:2").0, id);
    // By its identifier an image has no name.
    let file = at(&host, "nameless");
    host.plimsoll(["image", "save", "-o", &file, &id]).ok();
    let third = Host::new();
    let said = third.plimsoll(["load", "-i", &file]);
    assert_eq!(said.ok(), format!("Loaded image ID: {id}"));
    host.plimsoll(["save", "-o", &file, "exchange/none"])
        .fails(1, &["exchange/none"]);
    host.plimsoll(["save", "-o", "/no/such/file", NAME])
        .fails(1, &["/no/such"]);
    host.plimsoll(["tag", "nothing", "x"])
        .fails(1, &["nothing"]);
    host.plimsoll(["tag", NAME, "BAD"]).fails(1, &["BAD"]);
}
