//! `plimsoll system …`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SystemVerb {
    /// Show what images, instances, volumes and the build cache take
    Df(DfArguments),
    /// Remove what is not used: stopped instances, images without a name, the build cache
    Prune(SystemPruneArguments),
}

#[derive(Debug, Args)]
pub(crate) struct DfArguments {
    /// table, json for one object a line, or a Go template such as '{{.Type}} {{.Size}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Show each image, instance and volume
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SystemPruneArguments {
    /// Also images that have a name, if no instance is made from them
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Only what fits, such as label=tier=front, label!=keep, until=24h
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Also anonymous volumes that no instance uses
    #[arg(long)]
    pub(crate) volumes: bool,
}
