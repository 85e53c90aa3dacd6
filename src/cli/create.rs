//! The flags of `run` and `create`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;
use engine::{Bytes, DetachKeys};

use super::{AccelArgument, BackendArgument, PullPolicy};

/// What `run` and `create` share: what to run, and in what.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// How the instance is isolated
    #[arg(long, value_enum, default_value_t, env = "PLIMSOLL_BACKEND")]
    pub(crate) backend: BackendArgument,

    /// What drives a VM: our own monitor on /dev/kvm, or QEMU's software emulation
    ///
    /// auto takes kvm where it is hardware, else tcg when QEMU is installed, else kvm; it says which and why.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) accel: AccelArgument,

    /// Remove the instance and its writable layer when it ends
    #[arg(long)]
    pub(crate) rm: bool,

    /// Pass standard input on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,

    /// Take part in these streams only: stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr"], ignore_case = true)]
    pub(crate) attach: Vec<String>,

    /// Set an environment variable (KEY=VALUE, or KEY to pass on its value here)
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Name of the instance
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: Option<String>,

    /// Working directory inside the instance
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,

    /// User (and group) that the command runs as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// Host name inside the instance
    #[arg(short = 'h', long)]
    pub(crate) hostname: Option<String>,

    /// Program to run in place of the image's entry point
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,

    /// Memory limit, or a VM's memory, such as 512m [VM default: 256m]
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,

    /// Limit on memory and swap together; -1 leaves swap without a limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,

    /// Number of CPUs, such as 0.5; a VM gets as many virtual CPUs as cover it [VM default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<f64>,

    /// CPUs to run on, such as 0-2,4
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,

    /// Limit on the number of processes and threads (-1 for none)
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,

    /// Resource limit, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,

    /// Mount a directory, a file or a volume: /host:/target (with :ro read-only), name:/target, or /target for a new volume
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]")]
    pub(crate) volume: Vec<String>,

    /// Mount something, such as type=bind,source=/host,target=/target,readonly (or type=volume, type=tmpfs)
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) mount: Vec<String>,

    /// Mount memory, such as /run:size=64m,mode=1777
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,

    /// Mount everything that another instance has mounted
    #[arg(long, value_name = "INSTANCE[:ro]")]
    pub(crate) volumes_from: Vec<String>,

    /// Mount the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,

    /// Give root inside almost all rights of the host's root
    #[arg(long)]
    pub(crate) privileged: bool,

    /// Run a small init as PID 1, which passes signals on and reaps orphans
    #[arg(long)]
    pub(crate) init: bool,

    /// Add a capability (ALL for every one)
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    pub(crate) cap_add: Vec<String>,

    /// Take a capability away (ALL for every one)
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    pub(crate) cap_drop: Vec<String>,

    /// Guest kernel of a VM: a vmlinux or a bzImage, such as /boot/vmlinuz-6.1.0-50-cloud-amd64 [default: Plimsoll's own]
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,

    /// Boot the VM, in place of going on from a template of its size
    ///
    /// On KVM, the first VM of a size is saved where it has booted, and later ones go on from there: see `plimsoll vm template`.
    #[arg(long)]
    pub(crate) no_template: bool,

    /// seccomp=unconfined leaves docker's system call filter out; no-new-privileges keeps programs from gaining privileges
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,

    /// Network: a name, none, host or container:NAME (containers only); or name=NET,alias=NAME,ip=ADDRESS [default: bridge]
    #[arg(long, alias = "net", value_name = "NETWORK")]
    pub(crate) network: Vec<String>,

    /// Publish a port on the host: PORT, HOST:PORT or IP:HOST:PORT, with /udp behind it, ranges too; without HOST any that is free
    #[arg(short, long, value_name = "PORTS")]
    pub(crate) publish: Vec<String>,

    /// Publish every exposed port on one of the host's that is free
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,

    /// Say that a port or a range is served, such as 80 or 8000-8010/udp
    #[arg(long, value_name = "PORTS")]
    pub(crate) expose: Vec<String>,

    /// Address on the network, such as 10.5.0.20 (networks with a subnet of the user's own)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<Ipv4Addr>,

    /// Refused: networks carry IPv4 only, so far
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip6: Option<String>,

    /// Hardware address, such as 02:42:0a:05:00:14
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mac_address: Option<String>,

    /// Add a name by which others on the network find the instance
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,

    /// Name server to use in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<String>,

    /// Domain to look names up in
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,

    /// Option of the resolver, such as ndots:2
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,

    /// Add a line to /etc/hosts, such as db:10.5.0.20 or host:host-gateway
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,

    /// Tell the instance of another one: lines in /etc/hosts, and variables such as ALIAS_PORT
    #[arg(long, value_name = "NAME[:ALIAS]")]
    pub(crate) link: Vec<String>,

    /// What happens when the command has ended: no, on-failure (or on-failure:MAX), always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub(crate) restart: String,

    /// Signal that `stop` sends [default: the image's, or SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,

    /// Seconds that `stop` waits before it kills (-1 for ever)
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) stop_timeout: Option<i64>,

    /// Label, as KEY=VALUE
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,

    /// Read labels from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,

    /// Log driver: json-file, or none
    #[arg(long, value_name = "DRIVER", default_value = "json-file")]
    pub(crate) log_driver: String,

    /// Option of the log driver: max-size=10m, max-file=3
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) log_opt: Vec<String>,

    /// Write the instance's identifier to a file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,

    /// When to fetch the image from its registry
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) pull: PullPolicy,

    /// Do not show how the image is fetched
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Platform of an image for several, such as linux/amd64/v3
    #[arg(
        long,
        value_name = "OS/ARCH[/VARIANT]",
        env = "DOCKER_DEFAULT_PLATFORM"
    )]
    pub(crate) platform: Option<String>,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(crate) help: Option<bool>,

    /// Image to run
    pub(crate) image: String,

    /// Command and arguments in place of the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Run in the background and print the instance's identifier
    #[arg(short, long)]
    pub(crate) detach: bool,

    /// Keys that leave the instance running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: DetachKeys,

    /// Pass signals on to the command
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) sig_proxy: bool,

    #[command(flatten)]
    pub(crate) create: CreateArguments,
}
