//! What the user asked for: one instance's specification, the same for both backends.

use std::collections::BTreeMap;
use std::str::FromStr;

use image_core::Image;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::logs::LogOptions;
use crate::mount::{MountSpec, VolumesFrom};
use crate::network::{Exposed, NetworkSpec, parse_expose};
use crate::signals;

/// How an instance is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Namespaces and cgroups.
    #[default]
    Container,
    /// A microVM.
    Vm,
    /// A container inside a microVM of its own.
    Toolbox,
    /// Nothing but a chroot (and a cgroup that only counts): what the other two are compared with.
    Native,
}

impl BackendKind {
    /// Whether it runs in a machine with a kernel of its own.
    pub fn is_machine(self) -> bool {
        matches!(self, Self::Vm | Self::Toolbox)
    }

    /// The word for it on the command line and in `ps`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Vm => "vm",
            Self::Toolbox => "toolbox",
            Self::Native => "native",
        }
    }
}

/// What drives a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware KVM where it is there, else tcg, else KVM without hardware.
    #[default]
    Auto,
    /// Our VMM on /dev/kvm.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

/// Limits on what an instance may use. `None`: no limit (for a VM: its default size).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Memory and swap together, bytes; -1 for no bound on swap.
    #[serde(default)]
    pub memory_swap: Option<i64>,
    /// CPUs; fractions are time slices.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A resource limit of the instance's processes (`--ulimit`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The kernel's name in docker's spelling: `nofile`.
    pub name: String,
    /// The limit in force; `u64::MAX` for none.
    pub soft: u64,
    /// What it may be raised to.
    pub hard: u64,
}

/// What happens when an instance has ended (`--restart`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again after a failure, so many times at the most (0: without a bound).
    OnFailure(u32),
    /// It is started again.
    Always,
    /// It is started again unless the user has stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure(_) => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }
}

/// How long `stop` waits before SIGKILL unless told otherwise, seconds: docker's.
pub const STOP_TIMEOUT: i64 = 10;

/// Everything that `run` is told about one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSpec {
    /// The image, as typed.
    pub image: String,
    /// The command and its arguments after the image's name; empty: the image's own.
    pub command: Vec<String>,
    /// How it is isolated.
    pub backend: BackendKind,
    /// What drives it when it is a VM.
    pub accel: Accel,
    /// Its name; `None`: one is made up.
    pub name: Option<String>,
    /// Whether everything of it goes when it ends.
    pub auto_remove: bool,
    /// Whether standard input is passed on.
    pub interactive: bool,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// `-e`, in order: `K=V`, or `K` to take the command's own value.
    pub env: Vec<String>,
    /// Working directory; `None`: the image's.
    pub workdir: Option<String>,
    /// `user[:group]`, names or numbers; `None`: the image's.
    pub user: Option<String>,
    /// Host name; `None`: the short identifier.
    pub hostname: Option<String>,
    /// Entry point in place of the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Limits.
    pub limits: Limits,
    /// The guest kernel of a VM; `None`: Plimsoll's own.
    pub kernel: Option<std::path::PathBuf>,
    /// Whether a VM boots, in place of going on from a template.
    pub no_template: bool,
    /// Whether docker's default seccomp filter is left out.
    pub seccomp_unconfined: bool,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Networks, ports, names.
    pub network: NetworkSpec,
    /// Root inside is root of the host in almost every respect.
    pub privileged: bool,
    /// A small init is PID 1: it passes signals on and reaps orphans.
    pub init: bool,
    /// Capabilities beyond docker's default ones (`ALL` for every one).
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// Programs cannot gain privileges.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// CPUs it may run on, as `0-2,4`.
    pub cpuset: Option<String>,
    /// What happens when it has ended.
    pub restart: RestartPolicy,
    /// The signal of `stop`.
    pub stop_signal: i32,
    /// The patience of `stop`, seconds; negative for ever.
    pub stop_timeout: i64,
    /// Labels, the image's among them.
    pub labels: BTreeMap<String, String>,
    /// Its log.
    pub log: LogOptions,
    /// What is mounted in it, as the user asks; in an instance's record, everything that is mounted.
    pub mounts: Vec<MountSpec>,
    /// Other instances whose mounts it gets; settled before an instance has a record.
    #[serde(skip)]
    pub volumes_from: Vec<VolumesFrom>,
}

impl Default for InstanceSpec {
    fn default() -> Self {
        Self {
            image: String::new(),
            command: Vec::new(),
            backend: BackendKind::default(),
            accel: Accel::default(),
            name: None,
            auto_remove: false,
            interactive: false,
            terminal: false,
            env: Vec::new(),
            workdir: None,
            user: None,
            hostname: None,
            entrypoint: None,
            limits: Limits::default(),
            kernel: None,
            no_template: false,
            seccomp_unconfined: false,
            read_only: false,
            network: NetworkSpec::default(),
            privileged: false,
            init: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            no_new_privileges: false,
            ulimits: Vec::new(),
            cpuset: None,
            restart: RestartPolicy::default(),
            stop_signal: 0,
            stop_timeout: STOP_TIMEOUT,
            labels: BTreeMap::new(),
            log: LogOptions::default(),
            mounts: Vec::new(),
            volumes_from: Vec::new(),
        }
    }
}

/// A VM's memory unless `-m` says otherwise, bytes: 256 MiB.
pub const VM_MEMORY: u64 = 256 << 20;

/// The least that a guest kernel, the agent and a small program run in, bytes: 64 MiB.
pub(crate) const VM_MEMORY_MIN: u64 = 64 << 20;

impl InstanceSpec {
    /// Refuses what the chosen backend cannot mean, in words that say so.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::InvalidValue`].
    pub fn check(&self) -> Result<()> {
        if self.auto_remove && self.restart != RestartPolicy::No {
            return Err(Error::Unsupported(
                "conflicting options: cannot specify both --restart and --rm".into(),
            ));
        }
        if let Some(cpus) = self.limits.cpus {
            // docker's own lower bound is one hundredth of a CPU.
            if !(0.01..=4096.0).contains(&cpus) {
                return Err(Error::InvalidValue {
                    flag: "--cpus",
                    value: cpus.to_string(),
                    reason: "a number of CPUs from 0.01 up is needed".into(),
                });
            }
        }
        self.network.check(self.backend)?;
        match self.backend {
            BackendKind::Vm => self.check_vm(),
            BackendKind::Toolbox => self.check_toolbox(),
            BackendKind::Container | BackendKind::Native => self.check_container(),
        }
    }

    /// Settles what the image has a say in, and what depends on this very moment: it is written down once, so that every
    /// later start is the same.
    pub(crate) fn take_from_image(&mut self, image: &Image) {
        let config = image.config.config().as_ref();
        if self.stop_signal == 0 {
            let named = config.and_then(|config| config.stop_signal().clone());
            self.stop_signal = named
                .and_then(|name| signals::number(&name))
                .unwrap_or(libc::SIGTERM);
        }
        let mut labels: BTreeMap<String, String> = config
            .and_then(|config| config.labels().clone())
            .unwrap_or_default()
            .into_iter()
            .collect();
        labels.append(&mut self.labels);
        self.labels = labels;
        self.expose(config.and_then(|config| config.exposed_ports().clone()));
        // `-e KEY` means the value that KEY has here and now; without one, that the image's is taken away.
        for entry in &mut self.env {
            if !entry.contains('=')
                && let Ok(value) = std::env::var(&entry)
            {
                *entry = format!("{entry}={value}");
            }
        }
    }

    /// The ports that are served: the image's, the user's, and those that are published.
    fn expose(&mut self, of_image: Option<Vec<String>>) {
        let exposed = &mut self.network.exposed;
        for text in of_image.unwrap_or_default() {
            // An image may say anything; what is no port is served by nobody.
            exposed.extend(parse_expose(&text).unwrap_or_default());
        }
        exposed.extend(self.network.publish.iter().map(|publish| Exposed {
            port: publish.port,
            protocol: publish.protocol,
        }));
        exposed.sort_unstable();
        exposed.dedup();
    }

    fn check_vm(&self) -> Result<()> {
        let refused = [
            (
                self.init,
                "--init is refused for a VM: its agent is PID 1 of the machine and reaps orphans already",
            ),
            (
                self.limits.memory_swap.is_some(),
                "--memory-swap is refused for a VM: its kernel has no swap; use --memory",
            ),
            (
                self.limits.pids.is_some(),
                "--pids-limit is refused for a VM: its processes are its own kernel's, and --memory bounds them",
            ),
            (
                !self.cap_add.is_empty(),
                "--cap-add is refused for a VM: root in it has every capability of a kernel of its own",
            ),
        ];
        if let Some((_, sentence)) = refused.into_iter().find(|(asked, _)| *asked) {
            return Err(Error::Unsupported(sentence.to_owned()));
        }
        if self.seccomp_unconfined {
            return Err(Error::Unsupported(
                "--security-opt seccomp=unconfined is refused for a VM: its programs face the guest's own kernel, which runs them without a seccomp filter"
                    .into(),
            ));
        }
        self.check_machine_memory()
    }

    fn check_toolbox(&self) -> Result<()> {
        if self.limits.memory_swap.is_some() {
            return Err(Error::Unsupported(
                "--memory-swap is refused for a toolbox: its machine's kernel has no swap; use --memory"
                    .into(),
            ));
        }
        if self.cpuset.is_some() {
            return Err(Error::Unsupported(
                "--cpuset-cpus is refused for a toolbox: its machine has CPUs of its own; use --cpus"
                    .into(),
            ));
        }
        self.check_machine_memory()
    }

    fn check_machine_memory(&self) -> Result<()> {
        match self.limits.memory {
            Some(memory) if memory < VM_MEMORY_MIN => Err(Error::InvalidValue {
                flag: "--memory",
                value: memory.to_string(),
                reason: format!(
                    "a VM needs at least {} MiB for its kernel and agent",
                    VM_MEMORY_MIN >> 20
                ),
            }),
            _ => Ok(()),
        }
    }

    fn check_container(&self) -> Result<()> {
        if self.kernel.is_some() {
            return Err(Error::Unsupported(format!(
                "--kernel is refused for --backend {}: it runs on the host's kernel; use --backend vm",
                self.backend.as_str()
            )));
        }
        if self.accel != Accel::Auto {
            return Err(Error::Unsupported(format!(
                "--accel is refused for --backend {}: nothing is accelerated; use --backend vm",
                self.backend.as_str()
            )));
        }
        if let Some(memory) = self.limits.memory.filter(|memory| *memory < MEMORY_MIN) {
            return Err(Error::InvalidValue {
                flag: "--memory",
                value: memory.to_string(),
                reason: "the minimum memory limit is 6 MiB".into(),
            });
        }
        match (self.limits.memory, self.limits.memory_swap) {
            (None, Some(0..)) => {
                return Err(Error::Unsupported(
                    "you should always set the memory limit when using --memory-swap: give --memory as well".into(),
                ));
            }
            (Some(memory), Some(both @ 0..)) if both.cast_unsigned() < memory => {
                return Err(Error::InvalidValue {
                    flag: "--memory-swap",
                    value: both.to_string(),
                    reason: "the minimum memory-swap limit should be larger than the memory limit: it counts both together".into(),
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// docker's least memory limit, bytes.
const MEMORY_MIN: u64 = 6 << 20;

/// A number of bytes as docker's flags take it: `64m`, `1.5g`, `512kb`, `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a size: write a number with b, k, m, g or t behind it, such as 256m"
            )
        };
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let shift = match unit.trim_start() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * (1_u64 << shift) as f64;
        // Below 2^63, which every kernel interface behind this takes.
        if !(0.0..9.2e18).contains(&bytes) {
            return Err(wrong());
        }
        Ok(Self(bytes as u64))
    }
}

/// Merges the image's environment with the user's, the later winning, in the order of first mention.
///
/// Of the user's, `K` alone takes the variable away: what had a value has been given it before
/// (see [`InstanceSpec::take_from_image`]).
pub(crate) fn merge_env(
    image: &[String],
    user: &[String],
    defaults: &[(&str, &str)],
) -> Vec<String> {
    let mut merged: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: Option<&str>| {
        let known = merged.iter().position(|(name, _)| name == key);
        match (known, value) {
            (Some(place), Some(value)) => value.clone_into(&mut merged[place].1),
            (Some(place), None) => drop(merged.remove(place)),
            (None, Some(value)) => merged.push((key.to_owned(), value.to_owned())),
            (None, None) => {}
        }
    };
    for (key, value) in defaults {
        set(key, Some(value));
    }
    for entry in image {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(key, Some(value));
    }
    for entry in user {
        match entry.split_once('=') {
            Some((key, value)) => set(key, Some(value)),
            None => set(entry, None),
        }
    }
    merged
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("64m", 64 << 20),
            ("1.5g", 3 << 29),
            ("512kb", 512 << 10),
            ("7B", 7),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "m", "1q", "-1m", "1e9", "99999999999t", "1 . 5m", "NaN"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_users_environment_wins_over_the_images_and_keeps_its_place() {
        let merged = merge_env(
            &["A=1".into(), "PATH=/x".into(), "GONE=1".into()],
            &["A=2".into(), "B=a=b".into(), "GONE".into()],
            &[("PATH", "/bin"), ("HOSTNAME", "h")],
        );
        assert_eq!(merged, ["PATH=/x", "HOSTNAME=h", "A=2", "B=a=b"]);
    }

    #[test]
    fn what_a_vm_cannot_mean_is_refused_by_name() {
        let vm = InstanceSpec {
            backend: BackendKind::Vm,
            ..InstanceSpec::default()
        };
        let small = InstanceSpec {
            limits: Limits {
                memory: Some(1 << 20),
                ..Limits::default()
            },
            ..vm
        };
        assert!(small.check().unwrap_err().to_string().contains("64 MiB"));
    }

    #[test]
    fn what_a_container_cannot_mean_is_refused_by_name() {
        let kernel = InstanceSpec {
            kernel: Some("/vmlinux".into()),
            ..InstanceSpec::default()
        };
        assert!(
            kernel
                .check()
                .unwrap_err()
                .to_string()
                .contains("--kernel is refused")
        );
        let accel = InstanceSpec {
            accel: Accel::Kvm,
            ..InstanceSpec::default()
        };
        assert!(
            accel
                .check()
                .unwrap_err()
                .to_string()
                .contains("--accel is refused")
        );
        for cpus in [0.0, -1.0, f64::NAN] {
            let spec = InstanceSpec {
                limits: Limits {
                    cpus: Some(cpus),
                    ..Limits::default()
                },
                ..InstanceSpec::default()
            };
            assert!(spec.check().is_err(), "{cpus}");
        }
    }
}
