//! The flags of what is done to instances that exist.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use engine::DetachKeys;

use super::{CreateArguments, PortArguments, PsArguments, RmArguments, RunArguments};

/// docker's longer names: `container ls` is `ps`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerVerb {
    /// Create and run a new instance from an image
    #[command(disable_help_flag = true)]
    Run(Box<RunArguments>),
    /// Create a new instance without starting it
    #[command(disable_help_flag = true)]
    Create(Box<CreateArguments>),
    /// Start instances that do not run
    Start(StartArguments),
    /// Stop instances: their stop signal, and SIGKILL after a while
    Stop(StopArguments),
    /// Stop instances and start them again
    Restart(RestartArguments),
    /// Send instances a signal
    Kill(KillArguments),
    /// Stop all processes of instances in their tracks
    Pause(InstancesArguments),
    /// Let paused instances go on
    Unpause(InstancesArguments),
    /// Wait until instances have ended, and print their exit codes
    Wait(InstancesArguments),
    /// Join the streams of a running instance
    Attach(AttachArguments),
    /// Show what an instance has written
    Logs(LogsArguments),
    /// Give an instance another name
    Rename(RenameArguments),
    /// Run another command in a running instance
    Exec(ExecArguments),
    /// Copy files between an instance and the host
    Cp(CpArguments),
    /// Show what an instance has changed of its image
    Diff(DiffArguments),
    /// Show the processes of an instance
    Top(TopArguments),
    /// Show what instances use of processor and memory
    Stats(StatsArguments),
    /// Show everything that is known of instances, as JSON
    Inspect(InspectArguments),
    /// List instances
    #[command(visible_alias = "list", visible_alias = "ps")]
    Ls(PsArguments),
    /// Remove instances
    #[command(visible_alias = "remove")]
    Rm(RmArguments),
    /// Show where an instance's ports are published
    Port(PortArguments),
    /// Remove all instances that do not run
    Prune(PruneArguments),
}

/// Verbs that take instances and nothing else.
#[derive(Debug, Args)]
pub(crate) struct InstancesArguments {
    /// Names or identifiers
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    /// Join its output and pass signals on
    #[arg(short, long)]
    pub(crate) attach: bool,

    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// Keys that leave the instance running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: DetachKeys,

    /// Names or identifiers
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Signal to send [default: the instance's own]
    #[arg(short, long, value_name = "SIGNAL")]
    pub(crate) signal: Option<String>,

    /// Seconds to wait before killing (-1 for ever) [default: the instance's own, or 10]
    #[arg(
        short,
        long = "timeout",
        alias = "time",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    pub(crate) time: Option<i64>,

    /// Names or identifiers
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
}

/// `restart` takes what `stop` takes.
pub(crate) type RestartArguments = StopArguments;

#[derive(Debug, Args)]
pub(crate) struct KillArguments {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(crate) signal: String,

    /// Names or identifiers
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// Keys that leave the instance running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: DetachKeys,

    /// Do not pass standard input on
    #[arg(long)]
    pub(crate) no_stdin: bool,

    /// Pass signals on to the command
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) sig_proxy: bool,

    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArguments {
    /// Go on as long as the instance runs
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,

    /// Show extra details (labels and environment are not logged, so that there are none)
    #[arg(long)]
    pub(crate) details: bool,

    /// Number of lines to show from the end, or all
    #[arg(
        short = 'n',
        long,
        value_name = "NUMBER",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) tail: String,

    /// Show what was written since a moment (2026-01-02T03:04:05Z) or within a time (42m)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// Show what was written before a moment, or longer ago than a time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,

    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,

    /// The new name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Only those that fit, such as label=tier=front, label!=keep, until=24h
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Do not wait for it
    #[arg(short, long)]
    pub(crate) detach: bool,

    /// Pass standard input on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,

    /// Set an environment variable (KEY=VALUE, or KEY to pass on its value here)
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Working directory inside the instance
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,

    /// User (and group) that the command runs as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// Give the command almost all rights of the host's root
    #[arg(long)]
    pub(crate) privileged: bool,

    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,

    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CpArguments {
    /// Keep owners
    #[arg(short, long)]
    pub(crate) archive: bool,

    /// Follow a symbolic link that is the source
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,

    /// Say nothing of what was copied
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// INSTANCE:PATH, a path on the host, or - for a tar archive on standard input
    #[arg(allow_hyphen_values = true)]
    pub(crate) source: String,

    /// INSTANCE:PATH, a path on the host, or - for a tar archive on standard output
    #[arg(allow_hyphen_values = true)]
    pub(crate) destination: String,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
}

#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,

    /// Options of ps [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArguments {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Show the first result and end
    #[arg(long)]
    pub(crate) no_stream: bool,

    /// Do not shorten identifiers
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Names or identifiers [default: all that run]
    #[arg(value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
}

/// What `inspect` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectType {
    /// An instance
    Container,
    /// An image
    Image,
    /// A volume
    Volume,
    /// A network
    Network,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Look only for this kind of thing
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<InspectType>,

    /// json, or a Go template such as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Show what instances have written
    #[arg(short, long)]
    pub(crate) size: bool,

    /// Names or identifiers
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}
