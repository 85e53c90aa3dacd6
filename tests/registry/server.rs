//! Debian's docker-registry, run for a test on a free port of loopback: what the package starts itself plays no part.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const REGISTRY: &str = "/usr/bin/docker-registry";

/// The user and password that a registry with authentication knows.
pub(crate) const USER: &str = "captain";
pub(crate) const PASSWORD: &str = "load line";

/// How it is run.
#[derive(Default)]
pub(crate) struct Options {
    /// A user name and password are needed.
    pub(crate) password: bool,
    /// It speaks TLS, with a certificate for `registry.test` and localhost.
    pub(crate) tls: bool,
}

pub(crate) struct Registry {
    process: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Registry {
    /// Starts one and waits until it listens. None where it is not installed, aloud.
    pub(crate) fn start(options: &Options) -> Option<Self> {
        for program in [REGISTRY, "/usr/bin/htpasswd", "/usr/bin/openssl"] {
            if !Path::new(program).exists() {
                eprintln!(
                    "skipped: {program} is missing (apt-get install docker-registry apache2-utils openssl)"
                );
                return None;
            }
        }
        if crate::common::in_lab() {
            eprintln!("skipped: the registry is not part of the lab");
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("plimsoll-registry-")
            .tempdir()
            .unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n",
            at("data")
        );
        if options.password {
            succeed(Command::new("/usr/bin/htpasswd").args([
                "-Bbc",
                "-C",
                "4",
                &at("users"),
                USER,
                PASSWORD,
            ]));
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                at("users")
            );
        }
        config += &format!("http:\n  addr: 127.0.0.1:{port}\n");
        if options.tls {
            succeed(Command::new("/usr/bin/openssl").args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=registry.test",
                "-addext",
                "subjectAltName=DNS:registry.test,DNS:localhost",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-keyout",
                &at("key.pem"),
                "-out",
                &at("cert.pem"),
            ]));
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                at("cert.pem"),
                at("key.pem")
            );
        }
        fs::write(at("config.yml"), config).unwrap();
        let log = File::create(at("log")).unwrap();
        let process = Command::new(REGISTRY)
            .args(["serve", &at("config.yml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self {
            process,
            directory,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = registry.process.try_wait().unwrap().is_some();
            assert!(
                !ended && Instant::now() < deadline,
                "docker-registry does not start: {}",
                fs::read_to_string(registry.directory.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    /// `localhost:<port>`.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// The file of a blob, as the registry keeps it.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        let blobs = self
            .directory
            .path()
            .join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
pub(crate) fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
