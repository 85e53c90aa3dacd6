//! What a pull costs: a Debian-sized image out of a registry on loopback, by plimsoll and its peers turn by turn; a second image that
//! shares all but a small layer; and the memory while 1 GiB comes.
//!
//! `cargo run --release -p bench --example pull [-- ROUNDS]` as root, after `cargo build --release` and with docker-registry, skopeo,
//! podman and docker.io installed (those that are missing are left out). `PLIMSOLL_BIN` names another command than the built one.
//! It works on a fresh file system (`fresh`), where nothing is removed between the rounds; each round has a dockerd with a store of its own.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

mod fresh;

use fresh::dockerd::{self, Dockerd};
use fresh::{Outcome, succeed};

/// What tests/common makes with debootstrap.
const DEBIAN: &str = "/var/cache/plimsoll/test/debian-bookworm-minbase.tar";

/// The layer that only the second image has.
const SMALL: usize = 64 << 10;

/// Bytes of the file system for a peer's round, and of memory for a pull.
const ROOM: u64 = 1 << 30;

/// Bytes of the large image, in as many layers as are moved at once and one.
const LARGE: usize = 1 << 30;
const LARGE_LAYERS: usize = 4;

fn main() -> Outcome<()> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(7), |word| word.parse::<usize>())?;
    let bytes = ROOM * (rounds as u64 * 5 + 8);
    let Some(place) = fresh::place("pull", bytes)? else {
        return Ok(());
    };
    let bench = Bench::new(&place)?;
    bench.publish()?;

    let mut peers: Vec<Peer> = vec![Peer::Plimsoll];
    for (peer, program) in [
        (Peer::SkopeoLayout, "/usr/bin/skopeo"),
        (Peer::SkopeoStorage, "/usr/bin/skopeo"),
        (Peer::Podman, "/usr/bin/podman"),
    ] {
        if Path::new(program).exists() {
            peers.push(peer);
        } else {
            println!("left out: {program} is missing");
        }
    }
    if Path::new(dockerd::PROGRAM).exists() {
        peers.push(Peer::Docker);
    } else {
        println!("left out: {} is missing", dockerd::PROGRAM);
    }
    let mut first: Vec<Vec<Duration>> = vec![Vec::new(); peers.len()];
    let mut second: Vec<Vec<Duration>> = vec![Vec::new(); peers.len()];
    for round in 0..rounds {
        for (index, peer) in peers.iter().enumerate() {
            let state = bench.folder.join(format!("{round}-{index}"));
            fs::create_dir(&state)?;
            let docker = match peer {
                Peer::Docker => Some(Dockerd::start(&state)?),
                _ => None,
            };
            // What earlier turns have written is not to be waited for in this one.
            nix::unistd::sync();
            fresh::touch_memory(ROOM)?;
            first[index].push(timed(&mut peer.pull(
                &bench,
                &state,
                "first",
                docker.as_ref(),
            )?)?);
            second[index].push(timed(&mut peer.pull(
                &bench,
                &state,
                "second",
                docker.as_ref(),
            )?)?);
        }
    }
    let ours = median(&mut first[0].clone());
    println!("medians of {rounds} rounds:");
    for (index, peer) in peers.iter().enumerate() {
        let (whole, more) = (median(&mut first[index]), median(&mut second[index]));
        println!(
            "{:<28} {:>7.0} ms ({:.2} × ours)   the second image {:>5.0} ms",
            peer.name(),
            whole * 1e3,
            whole / ours,
            more * 1e3
        );
    }
    let state = bench.folder.join("state-large");
    fs::create_dir(&state)?;
    let (took, memory) = bench.memory(&mut Peer::Plimsoll.pull(&bench, &state, "large", None)?)?;
    println!(
        "plimsoll pull of 1 GiB: {:.1} s, at most {:.1} MiB resident",
        took.as_secs_f64(),
        memory as f64 / 1024.0
    );
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Plimsoll,
    /// Blobs only: nothing is inflated or unpacked.
    SkopeoLayout,
    /// The same work as ours: blobs are unpacked into overlay's layers.
    SkopeoStorage,
    Podman,
    Docker,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Plimsoll => "plimsoll pull",
            Self::SkopeoLayout => "skopeo, not unpacked (oci:)",
            Self::SkopeoStorage => "skopeo, unpacked (overlay)",
            Self::Podman => "podman pull (overlay)",
            Self::Docker => "docker pull (dockerd runs)",
        }
    }

    fn pull(
        self,
        bench: &Bench,
        state: &Path,
        image: &str,
        docker: Option<&Dockerd>,
    ) -> Outcome<Command> {
        let name = format!("localhost:{}/{image}:1", bench.port);
        let at = |name: &str| state.join(name).display().to_string();
        let mut command = match self {
            Self::Plimsoll => {
                let mut command = Command::new(&bench.plimsoll);
                command
                    .args(["pull", "-q", &name])
                    .env("PLIMSOLL_ROOT", state);
                command
            }
            Self::SkopeoLayout => {
                let mut command = Command::new("/usr/bin/skopeo");
                let to = format!("oci:{}:{image}", at("layout"));
                command.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"]);
                command.args([format!("docker://{name}"), to]);
                command
            }
            Self::SkopeoStorage => {
                let mut command = Command::new("unshare");
                let to = format!("containers-storage:[overlay@{}+{}]{name}", at("p"), at("r"));
                command.args(["-m", "/usr/bin/skopeo", "--insecure-policy", "copy", "-q"]);
                command.args(["--src-tls-verify=false", &format!("docker://{name}"), &to]);
                command
            }
            Self::Podman => {
                let mut command = Command::new("unshare");
                let policy = bench.folder.join("policy.json");
                command.args([
                    "-m",
                    "/usr/bin/podman",
                    "--root",
                    &at("p"),
                    "--runroot",
                    &at("r"),
                    "--tmpdir",
                    &at("t"),
                ]);
                command.args([
                    "--storage-driver",
                    "overlay",
                    "pull",
                    "-q",
                    "--tls-verify=false",
                ]);
                command.arg("--signature-policy").arg(policy).arg(&name);
                command
            }
            Self::Docker => {
                let mut command = docker.ok_or("there is no dockerd")?.client();
                command.args(["pull", "-q", &name]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }
}

struct Bench {
    plimsoll: PathBuf,
    folder: PathBuf,
    registry: Child,
    port: u16,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

impl Bench {
    fn new(place: &Path) -> Outcome<Self> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/x86_64-unknown-linux-gnu/release/plimsoll");
        let plimsoll = std::env::var_os("PLIMSOLL_BIN").map_or(built, PathBuf::from);
        if !plimsoll.exists() {
            return Err(format!("{} is missing: cargo build --release", plimsoll.display()).into());
        }
        let folder = place.join("bench");
        fs::create_dir(&folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("registry.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
                folder.join("registry").display()
            ),
        )?;
        fs::write(
            folder.join("policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )?;
        let registry = Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let bench = Self {
            plimsoll,
            folder,
            registry,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err("docker-registry does not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(bench)
    }

    /// Makes the images and pushes them.
    fn publish(&self) -> Outcome<()> {
        let debian = self.layer("debian", Path::new(DEBIAN))?;
        let small = self.noise("small", SMALL)?;
        self.push("first", &[&debian])?;
        self.push("second", &[&debian, &small])?;
        let mut large = Vec::new();
        for number in 0..LARGE_LAYERS {
            large.push(self.noise(&format!("large{number}"), LARGE / LARGE_LAYERS)?);
        }
        self.push("large", &large.iter().collect::<Vec<_>>())
    }

    /// A layer of one file that gzip does not make smaller.
    fn noise(&self, name: &str, bytes: usize) -> Outcome<Layer> {
        let tree = self.folder.join(format!("{name}.tree"));
        fs::create_dir(&tree)?;
        let mut random = std::io::Read::take(File::open("/dev/urandom")?, bytes as u64);
        std::io::copy(&mut random, &mut File::create(tree.join(name))?)?;
        let tar = self.folder.join(format!("{name}.tar"));
        succeed(
            Command::new("tar")
                .arg("-C")
                .arg(&tree)
                .arg("-cf")
                .arg(&tar)
                .arg(name),
        )?;
        fs::remove_dir_all(&tree)?;
        let layer = self.layer(name, &tar)?;
        fs::remove_file(&tar)?;
        Ok(layer)
    }

    fn layer(&self, name: &str, tar: &Path) -> Outcome<Layer> {
        let sum = Command::new("sha256sum").arg(tar).output()?;
        let diff_id = String::from_utf8(sum.stdout)?
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        let file = self.folder.join(format!("{name}.tar.gz"));
        let mut gzip = Command::new("gzip");
        gzip.arg("-6c").arg(tar).stdout(File::create(&file)?);
        if !gzip.status()?.success() {
            return Err(format!("cannot compress {}", tar.display()).into());
        }
        Ok(Layer { file, diff_id })
    }

    /// Loads an image of layers from an archive as docker writes it, and pushes it.
    fn push(&self, image: &str, layers: &[&Layer]) -> Outcome<()> {
        let name = format!("localhost:{}/{image}:1", self.port);
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|l| format!("sha256:{}", l.diff_id))
            .collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let files: Vec<String> = layers
            .iter()
            .map(|l| format!("{}.tar.gz", l.diff_id))
            .collect();
        let manifest =
            serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": files}]);
        let archive = self.folder.join("archive.tar");
        let mut tar = tar::Builder::new(File::create(&archive)?);
        for (layer, file) in layers.iter().zip(&files) {
            tar.append_path_with_name(&layer.file, file)?;
        }
        for (file, document) in [("config.json", config), ("manifest.json", manifest)] {
            let bytes = serde_json::to_vec(&document)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, file, bytes.as_slice())?;
        }
        tar.finish()?;
        let state = self.folder.join("publisher");
        let plimsoll = |arguments: &[&str]| {
            let mut command = Command::new(&self.plimsoll);
            succeed(command.args(arguments).env("PLIMSOLL_ROOT", &state))
        };
        plimsoll(&["load", "-i", &archive.display().to_string()])?;
        plimsoll(&["push", "-q", &name])?;
        plimsoll(&["rmi", &name])?;
        fs::remove_file(archive)?;
        Ok(())
    }

    /// Runs a command to its end; the most memory that it had, in KiB.
    fn memory(&self, command: &mut Command) -> Outcome<(Duration, i64)> {
        let begun = Instant::now();
        let child = command.spawn()?;
        let mut status = 0;
        // SAFETY: a zeroed rusage is one that the kernel may fill, and both pointers are to locals that outlive the call.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the process is our child, which nothing else waits for.
        let waited = unsafe { libc::wait4(child.id().try_into()?, &mut status, 0, &mut usage) };
        if waited < 0 || status != 0 {
            return Err(format!("{command:?} failed").into());
        }
        Ok((begun.elapsed(), usage.ru_maxrss))
    }
}

struct Layer {
    file: PathBuf,
    diff_id: String,
}

fn timed(command: &mut Command) -> Outcome<Duration> {
    let begun = Instant::now();
    succeed(command)?;
    Ok(begun.elapsed())
}

/// Seconds.
fn median(durations: &mut [Duration]) -> f64 {
    durations.sort_unstable();
    durations
        .get(durations.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
}
