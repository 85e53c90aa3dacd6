//! The flags of what is done to images, and of what makes them out of instances.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{BuildArguments, ImagesArguments, ImportArguments, LoadArguments, RmiArguments};

/// docker's longer names: `image ls` is `images`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Build an image from a Dockerfile
    Build(Box<BuildArguments>),
    /// Show the steps that an image was made by
    History(HistoryArguments),
    /// Make an image from a root file system archive
    Import(ImportArguments),
    /// Show everything that is known of images, as JSON
    Inspect(ImageInspectArguments),
    /// Load images from an archive made by `docker save` or in OCI layout
    Load(LoadArguments),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArguments),
    /// Remove images that nothing uses: those without a name, or all of them
    Prune(ImagePruneArguments),
    /// Fetch an image from a registry
    Pull(super::PullArguments),
    /// Send an image to a registry
    Push(super::PushArguments),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RmiArguments),
    /// Write images into an archive
    Save(SaveArguments),
    /// Give an image another name
    Tag(TagArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ImageInspectArguments {
    /// json, or a Go template such as '{{.Config.Cmd}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Names or identifiers
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// table, json for one object a line, or a Go template such as '{{.CreatedBy}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Sizes and times for people; without, in bytes and as RFC 3339
    #[arg(
        short = 'H',
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub(crate) human: bool,

    /// Do not shorten identifiers and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// Print only the identifiers
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Name or identifier
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePruneArguments {
    /// Also images that have a name
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Only those that fit, such as label=tier=front, label!=keep, until=24h
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// An OCI layout with docker's manifest.json beside it: docker, podman and skopeo load it, and all digests stay
    #[default]
    Both,
    /// An OCI layout
    #[value(alias = "oci")]
    OciArchive,
    /// docker's older format, its layers without compression
    #[value(alias = "docker")]
    DockerArchive,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArguments {
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// What the archive looks like
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) format: ArchiveFormat,

    /// Names (without a tag: all tags) or identifiers
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagArguments {
    /// Name or identifier
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub(crate) source: String,

    /// The new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArguments {
    /// Who made the image, such as "Jane Doe <jane@example.org>"
    #[arg(short, long, value_name = "AUTHOR")]
    pub(crate) author: Option<String>,

    /// Apply a Dockerfile instruction to the image: CMD, ENTRYPOINT, ENV, VOLUME, EXPOSE, USER, WORKDIR, LABEL, STOPSIGNAL
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,

    /// What is said of the image
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,

    /// Let the instance stand still meanwhile
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub(crate) pause: bool,

    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,

    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Name or identifier
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
}
