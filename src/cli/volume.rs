//! `plimsoll volume …`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Create a volume, or find the one that has the name
    Create(VolumeCreateArguments),
    /// Show volumes as JSON
    Inspect(VolumeInspectArguments),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeLsArguments),
    /// Remove volumes that no instance uses: anonymous ones, or all of them
    Prune(VolumePruneArguments),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(VolumeRmArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArguments {
    /// Name of the volume
    #[arg(long = "name", value_name = "NAME", hide = true)]
    pub(crate) name_flag: Option<String>,

    /// Driver: local is the only one
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    pub(crate) driver: String,

    /// Set a label (KEY=VALUE, or KEY)
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,

    /// Set an option of the driver: type=none, o=bind and device=DIR together keep the content in DIR
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,

    /// Name of the volume [default: 64 hexadecimal digits]
    #[arg(value_name = "VOLUME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeInspectArguments {
    /// json for one object a line, or a template such as {{.Mountpoint}}
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    pub(crate) volumes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeLsArguments {
    /// Print only the names
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Only those that fit: name=PART, label=KEY[=VALUE], dangling=true|false, driver=local
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,

    /// table, json for one object a line, or a template such as {{.Name}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: String,
}

#[derive(Debug, Args)]
pub(crate) struct VolumePruneArguments {
    /// Not only anonymous ones
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Only those that fit: label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeRmArguments {
    /// What is not there is no failure
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    pub(crate) volumes: Vec<String>,
}
