//! The flags of what is done to instances that exist.

use clap::{Args, Subcommand};
use engine::DetachKeys;

use super::{CreateArguments, PsArguments, RmArguments, RunArguments};

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
    /// List instances
    #[command(visible_alias = "list", visible_alias = "ps")]
    Ls(PsArguments),
    /// Remove instances
    #[command(visible_alias = "remove")]
    Rm(RmArguments),
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
}
