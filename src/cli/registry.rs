//! The flags of what is done with registries.

use clap::{Args, ValueEnum};

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// Also when it is there already: its name may mean something newer
    Always,
    /// When it is not there
    #[default]
    Missing,
    /// Not at all
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// Print only the name
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Platform of an image for several, such as linux/amd64/v3
    #[arg(
        long,
        value_name = "OS/ARCH[/VARIANT]",
        env = "DOCKER_DEFAULT_PLATFORM"
    )]
    pub(crate) platform: Option<String>,

    /// What to fetch, such as debian, debian:12, quay.io/team/app, localhost:5000/app@sha256:…
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushArguments {
    /// Print only the name
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// The image, whose name says where it goes: localhost:5000/app:1
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: Option<String>,

    /// Password or access token (others can see it; better: --password-stdin)
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,

    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,

    /// The registry [default: Docker Hub]
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArguments {
    /// The registry [default: Docker Hub]
    pub(crate) server: Option<String>,
}
