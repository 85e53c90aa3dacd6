//! The command line of `plimsoll oci`: runc's.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where state is kept when nothing else is said.
pub(super) const DEFAULT_ROOT: &str = "/run/plimsoll/oci";

/// Runs containers from OCI bundles, with runc's command line.
///
/// A bundle is a directory with a config.json and a root file system. Container engines such as podman use this as their
/// runtime; under the name plimsoll-oci, the program takes these commands directly.
#[derive(Debug, Parser)]
#[command(
    name = "plimsoll-oci",
    disable_version_flag = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(super) struct Oci {
    #[command(flatten)]
    pub(super) global: Global,

    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Directory for the state of containers; it should be on a tmpfs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub(super) root: PathBuf,

    /// File that messages are written to, besides standard error
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,

    /// Format of that file
    #[arg(long, value_enum, default_value_t)]
    pub(super) log_format: LogFormat,

    /// Write what is done to the log
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub(super) debug: bool,

    /// Have systemd manage cgroups (refused: cgroups are managed directly)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub(super) systemd_cgroup: bool,

    /// Ignore the errors that a user other than root meets: true, false or auto (only false and auto are possible)
    #[arg(long, value_name = "WHEN", hide = true)]
    pub(super) rootless: Option<String>,

    /// Print the version and exit
    #[arg(short = 'v', long)]
    pub(super) version: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// One line of key=value pairs a message
    #[default]
    Text,
    /// One JSON object a message
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a container, whose command waits for start
    Create(CreateArguments),
    /// Have a created container execute its command
    Start(IdArguments),
    /// Create and start a container
    Run(RunArguments),
    /// Print the state of a container
    State(IdArguments),
    /// Send a signal to a container's first process
    Kill(KillArguments),
    /// Delete a container that has stopped, and everything that was made for it
    Delete(DeleteArguments),
    /// Run another process in a container
    Exec(ExecArguments),
    /// List the processes of a container
    Ps(PsArguments),
    /// List containers
    List(ListArguments),
    /// Stop all processes of a container until resume
    Pause(IdArguments),
    /// Let the processes of a paused container run again
    Resume(IdArguments),
    /// Change the limits of a container
    Update(Box<UpdateArguments>),
    /// Write a config.json to begin with
    Spec(SpecArguments),
    /// Print what this runtime can do, as JSON
    Features,
    /// Print what a container uses, as JSON
    Events(EventsArguments),
}

#[derive(Debug, Args)]
pub(super) struct IdArguments {
    /// The container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,

    /// Socket that the terminal's master is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,

    /// Socket that a pidfd of the container's first process is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,

    /// File to write the ID of the first process to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,

    /// Move the root over the old one in place of pivot_root(2), for hosts that run from an initramfs
    #[arg(long)]
    pub(super) no_pivot: bool,

    /// Leave the container in the session keyring of its creator
    #[arg(long)]
    pub(super) no_new_keyring: bool,

    /// Pass on this many descriptors, from 3 on
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) preserve_fds: u32,

    /// The new container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Return when the container runs
    #[arg(short, long)]
    pub(super) detach: bool,

    /// Do not delete the container when it has stopped
    #[arg(long)]
    pub(super) keep: bool,

    /// Accepted and without meaning here: the container is a child of this process anyway
    #[arg(long)]
    pub(super) no_subreaper: bool,

    #[command(flatten)]
    pub(super) create: CreateArguments,
}

#[derive(Debug, Args)]
pub(super) struct KillArguments {
    /// Send the signal to every process of the container
    #[arg(short, long)]
    pub(super) all: bool,

    /// The container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// The signal, by name or number
    #[arg(default_value = "SIGTERM")]
    pub(super) signal: String,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArguments {
    /// Kill the container if it has not stopped; one that does not exist is no error
    #[arg(short, long)]
    pub(super) force: bool,

    /// The container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct ExecArguments {
    /// Socket that the terminal's master is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,

    /// Socket that a pidfd of the process is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,

    /// File to write the process's ID to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,

    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,

    /// Set an environment variable (KEY=VALUE)
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(super) env: Vec<String>,

    /// Give the process a terminal
    #[arg(short, long)]
    pub(super) tty: bool,

    /// User (and group) by number
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(super) user: Option<String>,

    /// Additional group, by number
    #[arg(short = 'g', long, value_name = "GID")]
    pub(super) additional_gids: Vec<u32>,

    /// File with the process in JSON, in place of the other flags
    #[arg(short, long, value_name = "FILE")]
    pub(super) process: Option<PathBuf>,

    /// Return when the process runs
    #[arg(short, long)]
    pub(super) detach: bool,

    /// SELinux label of the process (refused: SELinux is not supported)
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,

    /// AppArmor profile of the process (refused: AppArmor is not supported)
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,

    /// Let the process gain no privileges by execve(2)
    #[arg(long)]
    pub(super) no_new_privs: bool,

    /// Add a capability
    #[arg(short, long, value_name = "CAPABILITY")]
    pub(super) cap: Vec<String>,

    /// Pass on this many descriptors, from 3 on
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) preserve_fds: u32,

    /// Run in a paused container, too, when it is resumed
    #[arg(long)]
    pub(super) ignore_paused: bool,

    /// The container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// JSON
    Json,
}

#[derive(Debug, Args)]
pub(super) struct PsArguments {
    /// table, as ps(1) prints it, or json for the process IDs alone
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) format: Format,

    /// The container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// Options for ps(1) [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// table or json
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) format: Format,

    /// Print only the IDs
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArguments {
    /// File with linux.resources in JSON, or - for standard input, in place of the other flags
    #[arg(short, long, value_name = "FILE")]
    pub(super) resources: Option<PathBuf>,

    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub(super) blkio_weight: Option<u16>,

    /// Period of the processor quota in µs
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_period: Option<u64>,

    /// Processor time in each period in µs; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,

    /// Processor time that may be saved up in µs
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_burst: Option<u64>,

    /// Relative weight against other containers
    #[arg(long, visible_alias = "cpu-shares", value_name = "SHARES")]
    pub(super) cpu_share: Option<u64>,

    /// Period of the real-time budget in µs
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_rt_period: Option<u64>,

    /// Real-time budget in each period in µs
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_rt_runtime: Option<i64>,

    /// 1 for SCHED_IDLE, 0 for not
    #[arg(long, value_name = "0|1")]
    pub(super) cpu_idle: Option<i64>,

    /// Processors, such as 0-3
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,

    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,

    /// Accepted and ignored, as runc does: kernels have dropped this limit
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub(super) kernel_memory: Option<String>,

    /// Memory of TCP buffers in bytes (version 1)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) kernel_memory_tcp: Option<i64>,

    /// Memory in bytes; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory: Option<i64>,

    /// Memory that is left to it under pressure in bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_reservation: Option<i64>,

    /// Memory and swap together in bytes; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_swap: Option<i64>,

    /// Number of processes and threads; 0 or -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,

    /// The container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct SpecArguments {
    /// Directory to write it into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,

    /// For a user namespace in which this user is root
    #[arg(long)]
    pub(super) rootless: bool,
}

#[derive(Debug, Args)]
pub(super) struct EventsArguments {
    /// Print once and end
    #[arg(long)]
    pub(super) stats: bool,

    /// Seconds between two prints
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = parse_seconds)]
    pub(super) interval: u64,

    /// The container's ID
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

/// Seconds, with or without runc's `s`.
fn parse_seconds(text: &str) -> Result<u64, String> {
    match text.trim_end_matches('s').parse() {
        Ok(0) | Err(_) => Err("must be a number of seconds above 0, such as 5s".to_owned()),
        Ok(seconds) => Ok(seconds),
    }
}
