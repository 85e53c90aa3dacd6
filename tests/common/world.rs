//! A host of a test's own: a network namespace in which plimsoll runs, and another one for whoever is outside, with a cable
//! between them. The real host's network is not touched.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::{Host, Said, finish, kill};

/// The world's own addresses, of the block for documentation (RFC 5737), which nobody uses.
pub const HOST_ADDRESS: &str = "198.51.100.1";
pub const OUTSIDE_ADDRESS: &str = "198.51.100.2";

/// A network namespace, held open by a process that sleeps in it.
pub struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("sleep");
        command.arg("100000").stdin(Stdio::null());
        // SAFETY: unshare(2) takes a number, and nothing is allocated between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::unshare(libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Lets a command run in there.
    pub fn enter(&self, command: &mut Command) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        // SAFETY: setns(2) takes numbers, and nothing is allocated between fork and exec; the descriptor is the closure's.
        unsafe {
            command.pre_exec(
                move || match libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            )
        };
    }

    /// Runs a script in there; busybox's tools are enough for all but links.
    pub fn sh(&self, script: &str) -> Said {
        let mut command = Command::new("bash");
        command.args(["-c", script]).stdin(Stdio::null());
        self.enter(&mut command);
        finish(command)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        kill(self.pid(), libc::SIGKILL);
        let _ = self.0.wait();
    }
}

pub struct World {
    pub host: Host,
    pub inside: Namespace,
    pub outside: Namespace,
}

impl World {
    pub fn new() -> Self {
        let world = Self {
            host: Host::new(),
            inside: Namespace::new(),
            outside: Namespace::new(),
        };
        // A process is in its namespace once it sleeps, which its program's name tells.
        for namespace in [&world.inside, &world.outside] {
            super::eventually("the namespace is there", || {
                std::fs::read_to_string(format!("/proc/{}/comm", namespace.pid()))
                    .is_ok_and(|name| name.trim() == "sleep")
            });
        }
        world
            .inside
            .sh(&format!(
                "ip link set lo up && ip link add cable type veth peer name cable netns {} && ip addr add {HOST_ADDRESS}/24 dev cable && ip link set cable up",
                world.outside.pid()
            ))
            .ok();
        world
            .outside
            .sh(&format!(
                "ip link set lo up && ip addr add {OUTSIDE_ADDRESS}/24 dev cable && ip link set cable up"
            ))
            .ok();
        world
    }

    /// The command, on this host.
    pub fn command(&self) -> Command {
        let mut command = self.host.command();
        self.inside.enter(&mut command);
        command
    }

    #[track_caller]
    pub fn plimsoll<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Said {
        let mut command = self.command();
        command.args(arguments);
        finish(command)
    }

    /// A line whose words stand between spaces.
    #[track_caller]
    pub fn line(&self, line: &str) -> Said {
        self.plimsoll(line.split(' '))
    }

    /// Starts an instance in the background; its identifier.
    #[track_caller]
    pub fn detached(&self, way: &[&str], flags: &str, script: &str) -> String {
        let mut words = vec!["run", "-d"];
        words.extend(way);
        words.extend(flags.split(' ').filter(|word| !word.is_empty()));
        words.extend(["plimsoll/base", "sh", "-c", script]);
        self.plimsoll(words).ok().to_owned()
    }

    /// An instance's address on the default network.
    #[track_caller]
    pub fn address(&self, name: &str) -> String {
        let said = self.plimsoll([
            "inspect",
            "--format",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            name,
        ]);
        said.ok().to_owned()
    }

    /// Links, rules and forwarding, as they are now.
    pub fn snapshot(&self) -> String {
        let script = "ip -o link | sed 's/^[0-9]*: //' | sort; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward";
        self.inside.sh(script).ok().to_owned()
    }
}
