//! Debian's docker-registry on a port of the loopback interface, for as long as the benchmark runs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock;
use crate::launch::{Launch, Running, Trouble};

/// Debian's registry.
const PROGRAM: &str = "/usr/bin/docker-registry";

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is asked whether it has started.
const LOOKS_EVERY: Duration = Duration::from_millis(10);

/// A registry that ends with this.
pub(super) struct Registry {
    running: Running,
    port: u16,
}

impl Registry {
    /// Starts it on what lies in `storage`; its configuration goes into `scratch`.
    pub(super) fn start(storage: &Path, scratch: &Path) -> Result<Self, String> {
        if !Path::new(PROGRAM).exists() {
            return Err(format!(
                "{PROGRAM} is not installed: apt-get install docker-registry"
            ));
        }
        let port = free_port()
            .map_err(|error| format!("no port of the loopback interface is free: {error}"))?;
        let configuration: PathBuf = scratch.join("registry.yml");
        // A log would be counted as bytes that were moved.
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            storage.display()
        );
        fs::write(&configuration, text)
            .map_err(|error| format!("{}: {error}", configuration.display()))?;
        let launch = Launch::new(PROGRAM, [Path::new("serve"), &configuration]);
        let mut registry = Self {
            running: launch.spawn(false).map_err(|trouble| trouble.to_string())?,
            port,
        };
        let deadline = clock::now() + PATIENCE.as_nanos() as u64;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let running = &mut registry.running;
            match running.wait_exit(clock::now(), LOOKS_EVERY) {
                Err(Trouble::TimedOut { .. }) if clock::now() < deadline => {}
                Err(trouble @ Trouble::Interrupted) => return Err(trouble.to_string()),
                _ => {
                    return Err(format!(
                        "{PROGRAM} does not answer: {}",
                        running.stderr().trim()
                    ));
                }
            }
        }
        Ok(registry)
    }

    /// An image's name there.
    pub(super) fn name(&self, image: &str) -> String {
        format!("localhost:{}/{image}:1", self.port)
    }

    /// Bytes that it has written since it began, which are what it has sent (proc(5), `wchar`): it keeps no log, and stores nothing
    /// while it is only asked.
    pub(super) fn sent(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.running.pid())).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
    }

    /// Copies a blob of `image` into `to`, as any client of HTTP does.
    pub(super) fn fetch(
        &self,
        image: &str,
        digest: &str,
        to: &mut dyn Write,
    ) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{image}@{digest} cannot be fetched: {error}");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        write!(
            stream,
            "GET /v2/{image}/blobs/{digest} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n",
            self.port
        )
        .map_err(failed)?;
        let mut answer = BufReader::with_capacity(256 << 10, stream);
        let mut status = String::new();
        answer.read_line(&mut status).map_err(failed)?;
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(format!(
                "{image}@{digest}: the registry answers {:?}",
                status.trim()
            ));
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).map_err(failed)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().unwrap_or(0);
                }
                Some(_) => {}
                None => break,
            }
        }
        match std::io::copy(&mut answer.take(length), to).map_err(failed)? {
            moved if moved == length => Ok(()),
            moved => Err(format!("{image}@{digest}: {moved} of {length} bytes came")),
        }
    }
}

/// A port that nobody has at this moment.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
