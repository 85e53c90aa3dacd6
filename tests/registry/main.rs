//! Images on their way to and from Debian's docker-registry, with skopeo and podman at the other end.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod login;
mod peers;
mod server;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Host, Said, finish};
use peers::{podman, skopeo, skopeo_as_user};
use server::{Options, PASSWORD, Registry, USER};

/// A host whose docker configuration is its own.
struct Station {
    host: Host,
}

impl Station {
    fn new() -> Self {
        let host = Host::new();
        fs::create_dir(host.scratch().join("docker")).unwrap();
        Self { host }
    }

    fn command(&self) -> Command {
        let mut command = self.host.command();
        command.env("DOCKER_CONFIG", self.host.scratch().join("docker"));
        for variable in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs the words of a line.
    #[track_caller]
    fn run(&self, line: &str) -> Said {
        let mut command = self.command();
        command.args(line.split(' '));
        finish(command)
    }

    /// Makes an image of an archive, whose command shows `/text`.
    #[track_caller]
    fn import(&self, archive: &Path, name: &str) {
        let mut command = self.command();
        command
            .args(["import", "-c", r#"CMD ["/bin/cat","/text"]"#])
            .arg(archive)
            .arg(name);
        finish(command).ok();
    }

    /// Makes an image of two programs and `text`, under `name`.
    #[track_caller]
    fn image(&self, name: &str, text: &str) {
        let tree = self.host.scratch().join("tree");
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(tree.join("bin")).unwrap();
        for program in ["sh", "cat"] {
            fs::copy("/bin/busybox", tree.join("bin").join(program)).unwrap();
        }
        fs::write(tree.join("text"), text).unwrap();
        let archive = self.host.scratch().join("tree.tar.gz");
        server::succeed(
            Command::new("tar")
                .arg("-C")
                .arg(&tree)
                .arg("-czf")
                .arg(&archive)
                .arg("."),
        );
        self.import(&archive, name);
    }

    /// The digest that `images` shows for a name.
    fn digest(&self, name: &str) -> String {
        let said = self.run(&format!("images --format {{{{.Digest}}}} {name}"));
        said.ok().to_owned()
    }

    fn scratch(&self) -> &Path {
        self.host.scratch()
    }
}

fn registry() -> Option<Registry> {
    if !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: busybox-static is missing");
        return None;
    }
    Registry::start(&Options::default())
}

#[test]
fn what_is_pushed_is_pulled_with_the_same_digest_and_runs() {
    let Some(registry) = registry() else { return };
    let (sender, receiver) = (Station::new(), Station::new());
    let name = format!("{}/team/app:1", registry.host());
    sender.image(&name, "hello");
    let said = sender.run(&format!("push {name}"));
    let digest = sender.digest(&name);
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "The push refers to repository [{}/team/app]",
            registry.host()
        )
    );
    assert!(
        lines[1].ends_with(": Preparing") && lines[2].ends_with(": Pushed"),
        "{lines:?}"
    );
    assert!(
        lines[3].starts_with(&format!("1: digest: {digest} size: ")),
        "{lines:?}"
    );
    let again = sender.run(&format!("push {name}"));
    assert!(again.ok().contains(": Layer already exists"), "{again:?}");

    let said = receiver.run(&format!("pull {name}"));
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(lines[0], "1: Pulling from team/app");
    assert!(lines[1].ends_with(": Pulling fs layer"), "{lines:?}");
    assert_eq!(lines[lines.len() - 3], format!("Digest: {digest}"));
    assert_eq!(
        lines[lines.len() - 2],
        format!("Status: Downloaded newer image for {name}")
    );
    assert_eq!(lines[lines.len() - 1], name);
    assert_eq!(receiver.digest(&name), digest);
    assert_eq!(
        receiver
            .run(&format!("run --rm --network none {name}"))
            .ok(),
        "hello"
    );
    let said = receiver.run(&format!("pull {name}"));
    assert!(
        said.ok()
            .contains(&format!("Status: Image is up to date for {name}"))
    );
    assert_eq!(receiver.run(&format!("pull -q {name}")).ok(), name);

    // By its digest it is called by that.
    let third = Station::new();
    let by_digest = format!("{}/team/app@{digest}", registry.host());
    assert_eq!(third.run(&format!("pull -q {by_digest}")).ok(), by_digest);
    assert_eq!(
        third
            .run(&format!("run --rm --pull never --network none {by_digest}"))
            .ok(),
        "hello"
    );
    let listed = third.run("images --format {{.Repository}}|{{.Tag}}");
    assert!(
        listed
            .ok()
            .contains(&format!("{}/team/app|<none>", registry.host())),
        "{listed:?}"
    );
}

#[test]
fn run_pulls_what_is_missing_and_says_so_on_standard_error() {
    let Some(registry) = registry() else { return };
    let (sender, receiver) = (Station::new(), Station::new());
    let name = format!("{}/app:latest", registry.host());
    let short = format!("{}/app", registry.host());
    sender.image(&name, "first");
    sender.run(&format!("push {short}")).ok();

    receiver
        .run(&format!("run --rm --pull never {short}"))
        .fails(125, &["no image", &name]);
    receiver
        .run(&format!("create --pull never {short}"))
        .fails(1, &["no image"]);
    let said = receiver.run(&format!("run --rm --network none {short}"));
    assert_eq!(said.ok(), "first");
    for line in [
        &format!("Unable to find image '{name}' locally"),
        "latest: Pulling from app",
        &format!("Status: Downloaded newer image for {name}"),
    ] {
        assert!(said.stderr.contains(line), "{}", said.stderr);
    }
    sender.image(&name, "second");
    sender.run(&format!("push {short}")).ok();
    let missing = receiver.run(&format!("run --rm --network none {short}"));
    assert_eq!((missing.ok(), missing.stderr.as_str()), ("first", ""));
    let always = receiver.run(&format!("run --rm --pull always --network none {short}"));
    assert_eq!(always.ok(), "second");
    let quiet = receiver.run(&format!(
        "run --rm --quiet --pull=always --network none {short}"
    ));
    assert_eq!((quiet.ok(), quiet.stderr.as_str()), ("second", ""));
    // What is built in is nowhere else.
    receiver
        .run("run --rm --pull always --network none plimsoll/base true")
        .ok();
    receiver
        .run("pull plimsoll/base")
        .fails(1, &["plimsoll/base", "no registry"]);
    receiver
        .run("push plimsoll/base")
        .fails(1, &["plimsoll/base", "no registry"]);
    receiver
        .run(&format!("run --rm {short}:other"))
        .fails(125, &["manifest for", ":other", "not found"]);
    receiver
        .run(&format!("pull {short}:other"))
        .fails(1, &["not found"]);
    receiver
        .run(&format!("push {short}:other"))
        .fails(1, &["does not exist locally"]);
    assert!(receiver.host.leftovers().is_empty());
}

#[test]
fn what_plimsoll_pushes_skopeo_and_podman_pull() {
    let Some(registry) = registry() else { return };
    let station = Station::new();
    let name = format!("{}/app:1", registry.host());
    station.image(&name, "carried");
    station.run(&format!("push {name}")).ok();
    let digest = station.digest(&name);
    let layout = station.scratch().join("layout");
    let copied = skopeo(&format!(
        "copy --src-tls-verify=false docker://{name} oci:{}:1",
        layout.display()
    ));
    if copied.is_some() {
        let index = fs::read_to_string(layout.join("index.json")).unwrap();
        assert!(index.contains(&digest), "{digest} is not in {index}");
    }
    let lines = [
        format!("pull -q --tls-verify=false {name}"),
        format!("image inspect --format {{{{.Digest}}}} {name}"),
    ];
    if let Some(said) = podman(station.scratch(), &lines) {
        assert!(said.contains(&digest), "{digest} is not in {said}");
    }
}

#[test]
fn what_skopeo_and_podman_push_plimsoll_pulls() {
    let Some(registry) = registry() else { return };
    let station = Station::new();
    let host = registry.host();
    station.image("local:1", "brought");
    station
        .run(&format!("push {host}/seed:1"))
        .fails(1, &["does not exist"]);
    let seed = format!("{host}/seed:1");
    station.image(&seed, "brought");
    station.run(&format!("push {seed}")).ok();
    for (form, tag) in [("v2s2", "docker"), ("oci", "oci")] {
        let to = format!("{host}/skopeo:{tag}");
        let line = format!(
            "copy --src-tls-verify=false --dest-tls-verify=false --format {form} docker://{seed} docker://{to}"
        );
        if skopeo(&line).is_some() {
            station.run(&format!("pull {to}")).ok();
            assert_eq!(
                station.run(&format!("run --rm --network none {to}")).ok(),
                "brought"
            );
        }
    }
    // zstd, as newer tools write it.
    let zstd = format!("{host}/skopeo:zstd");
    let line = format!(
        "copy --src-tls-verify=false --dest-tls-verify=false --dest-compress-format zstd --format oci docker://{seed} docker://{zstd}"
    );
    if skopeo(&line).is_some() {
        station.run(&format!("pull {zstd}")).ok();
        assert_eq!(
            station.run(&format!("run --rm --network none {zstd}")).ok(),
            "brought"
        );
    }
    let to = format!("{host}/podman:1");
    let lines = [
        format!("pull -q --tls-verify=false {seed}"),
        format!("tag {seed} {to}"),
        format!("push -q --tls-verify=false {to}"),
    ];
    if podman(station.scratch(), &lines).is_some() {
        station.run(&format!("pull {to}")).ok();
        assert_eq!(
            station.run(&format!("run --rm --network none {to}")).ok(),
            "brought"
        );
    }
}

#[test]
fn of_an_index_for_several_platforms_ours_is_pulled() {
    let Some(registry) = registry() else { return };
    let station = Station::new();
    let host = registry.host();
    let lines: Vec<String> = vec![
        format!("manifest create {host}/many:1"),
        format!(
            "manifest add --os linux --arch arm64 --tls-verify=false {host}/many:1 docker://{host}/other:1"
        ),
        format!(
            "manifest add --os linux --arch amd64 --tls-verify=false {host}/many:1 docker://{host}/ours:1"
        ),
        format!("manifest push --all --tls-verify=false {host}/many:1 docker://{host}/many:1"),
        format!("manifest create {host}/foreign:1"),
        format!(
            "manifest add --os linux --arch arm64 --tls-verify=false {host}/foreign:1 docker://{host}/other:1"
        ),
        format!(
            "manifest push --all --tls-verify=false {host}/foreign:1 docker://{host}/foreign:1"
        ),
    ];
    for (name, text) in [("ours", "ours"), ("other", "other")] {
        station.image(&format!("{host}/{name}:1"), text);
        station.run(&format!("push {host}/{name}:1")).ok();
    }
    if podman(station.scratch(), &lines).is_none() {
        return;
    }
    let fresh = Station::new();
    assert_eq!(
        fresh
            .run(&format!("run --rm -q --network none {host}/many:1"))
            .ok(),
        "ours"
    );
    fresh
        .run(&format!("pull --platform linux/amd64/v3 {host}/many:1"))
        .ok();
    fresh
        .run(&format!("pull --platform linux/arm64 {host}/many:1"))
        .fails(1, &["linux/arm64", "runs linux/amd64"]);
    fresh
        .run(&format!("pull --platform a/b/c/d {host}/many:1"))
        .fails(1, &["not a platform"]);
    fresh
        .run(&format!("pull {host}/foreign:1"))
        .fails(1, &["foreign:1", "linux/arm64"]);
    // Docker's Digest line is the index's; by that digest the image is found too.
    let said = fresh.run(&format!("pull {host}/many:1"));
    let digest = said
        .ok()
        .lines()
        .find_map(|line| line.strip_prefix("Digest: "))
        .unwrap()
        .to_owned();
    assert_ne!(digest, fresh.digest(&format!("{host}/many:1")));
    fresh.run(&format!("pull -q {host}/many@{digest}")).ok();
    let line = format!("run --rm --pull never --network none {host}/many@{digest}");
    assert_eq!(fresh.run(&line).ok(), "ours");
}

#[test]
fn layers_that_a_registry_has_elsewhere_are_mounted() {
    let Some(registry) = registry() else { return };
    let station = Station::new();
    let (first, second) = (
        format!("{}/a/one:1", registry.host()),
        format!("{}/b/two:1", registry.host()),
    );
    station.image(&first, "same");
    station.run(&format!("push {first}")).ok();
    // The same content gives the same layer, under another name.
    let archive = station.scratch().join("tree.tar.gz");
    station
        .run(&format!("import {} {second}", archive.display()))
        .ok();
    let said = station.run(&format!("push {second}"));
    assert!(said.ok().contains(": Mounted from a/one"), "{said:?}");
}

#[test]
fn with_a_password_all_of_it_works_after_login_and_nothing_before() {
    let Some(registry) = Registry::start(&Options {
        password: true,
        ..Options::default()
    }) else {
        return;
    };
    let station = Station::new();
    let name = format!("{}/private:1", registry.host());
    station.image(&name, "secret");
    for line in [format!("push {name}"), format!("pull {name}")] {
        station.run(&line).fails(1, &["access denied", "login"]);
    }
    login::log_in(&station, &registry.host());
    station.run(&format!("push {name}")).ok();
    let inspect = format!("inspect --tls-verify=false docker://{name}");
    if let Some(said) = skopeo_as_user(&inspect, &["--creds"]) {
        let digest = station.digest(&name);
        assert!(said.contains(&digest), "{digest} is not in {said}");
    }
    let brought = format!("{}/skopeo:1", registry.host());
    let copy = format!(
        "copy -q --preserve-digests --src-tls-verify=false --dest-tls-verify=false docker://{name} docker://{brought}"
    );
    let has_skopeo = skopeo_as_user(&copy, &["--src-creds", "--dest-creds"]).is_some();
    let other = Station::new();
    other
        .run(&format!("pull {name}"))
        .fails(1, &["access denied"]);
    login::log_in(&other, &registry.host());
    assert_eq!(
        other
            .run(&format!("run --rm -q --network none {name}"))
            .ok(),
        "secret"
    );
    if has_skopeo {
        other.run(&format!("pull {brought}")).ok();
        assert_eq!(other.digest(&brought), station.digest(&name));
        let said = other.run(&format!("run --rm --network none {brought}"));
        assert_eq!(said.ok(), "secret");
    }
    let lines = [
        format!(
            "login --tls-verify=false -u {USER} -p '{PASSWORD}' {}",
            registry.host()
        ),
        format!("pull -q --tls-verify=false {name}"),
        format!("tag {name} {}/podman:1", registry.host()),
        format!("push -q --tls-verify=false {}/podman:1", registry.host()),
    ];
    if podman(station.scratch(), &lines).is_some() {
        let said = other.run(&format!(
            "run --rm -q --network none {}/podman:1",
            registry.host()
        ));
        assert_eq!(said.ok(), "secret");
    }
    assert!(
        other
            .run(&format!("logout {}", registry.host()))
            .ok()
            .contains("Removing login credentials")
    );
    other
        .run(&format!("pull {name}"))
        .fails(1, &["access denied"]);
}
