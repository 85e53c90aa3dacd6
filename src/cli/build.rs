//! The flags of `build`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use engine::network::NetworkMode;

#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// Give an ARG of the Dockerfile a value; NAME alone takes it from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,

    /// The Dockerfile, or - for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Write the image's identifier into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,

    /// Set a label on the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,

    /// The network of RUN instructions
    #[arg(long, value_enum, value_name = "NETWORK", default_value = "bridge")]
    pub(crate) network: BuildNetworkArgument,

    /// Do every step anew
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Print only the image's identifier
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Name of the image; several times for several names
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,

    /// Build this stage, and those that it needs
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    /// Directory whose files COPY and ADD see
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: PathBuf,
}

/// The network of RUN instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BuildNetworkArgument {
    /// The default network, as of `run`
    #[default]
    #[value(alias = "default")]
    Bridge,
    /// The host's network
    Host,
    /// A loopback interface and nothing else
    None,
}

impl From<BuildNetworkArgument> for NetworkMode {
    fn from(argument: BuildNetworkArgument) -> Self {
        match argument {
            BuildNetworkArgument::Host => Self::Host,
            BuildNetworkArgument::Bridge => Self::Networks,
            BuildNetworkArgument::None => Self::None,
        }
    }
}
