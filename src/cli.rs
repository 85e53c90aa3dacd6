//! The command line: every verb and flag, documented here once.

mod build;
mod container;
mod create;
mod image;
mod network;
mod registry;
mod system;
mod vm;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use engine::{Accel, BackendKind, Bytes};

pub(crate) use build::BuildArguments;
pub(crate) use container::{
    AttachArguments, ContainerVerb, CpArguments, DiffArguments, ExecArguments, InspectArguments,
    InspectType, InstancesArguments, KillArguments, LogsArguments, PruneArguments, RenameArguments,
    RestartArguments, StartArguments, StatsArguments, StopArguments, TopArguments,
};
pub(crate) use create::{CreateArguments, RunArguments};
pub(crate) use image::{
    ArchiveFormat, CommitArguments, ExportArguments, HistoryArguments, ImagePruneArguments,
    ImageVerb, SaveArguments, TagArguments,
};
pub(crate) use network::{
    NetworkCreateArguments, NetworkInspectArguments, NetworkLsArguments, NetworkPruneArguments,
    NetworkRmArguments, NetworkVerb, PortArguments,
};
pub(crate) use registry::{
    LoginArguments, LogoutArguments, PullArguments, PullPolicy, PushArguments,
};
pub(crate) use system::{DfArguments, SystemPruneArguments, SystemVerb};
pub(crate) use vm::{VmTemplateLsArguments, VmTemplateRmArguments, VmTemplateVerb, VmVerb};
pub(crate) use volume::{
    VolumeCreateArguments, VolumeInspectArguments, VolumeLsArguments, VolumePruneArguments,
    VolumeRmArguments, VolumeVerb,
};

/// Runs one OCI image as a container or as a microVM, and measures what each way costs.
///
/// The commands and flags are docker's. `plimsoll run plimsoll/base echo hi` needs nothing but this program;
/// `--backend vm` runs the same in a virtual machine with a kernel of its own.
#[derive(Debug, Parser)]
#[command(
    name = "plimsoll",
    disable_version_flag = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArguments,

    /// Print the version and exit
    #[arg(short = 'v', long)]
    pub(crate) version: bool,

    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub(crate) struct GlobalArguments {
    /// Directory for images and instances
    #[arg(long, global = true, value_name = "DIR", env = "PLIMSOLL_ROOT", default_value = engine::DEFAULT_ROOT)]
    pub(crate) root: PathBuf,
}

impl Cli {
    /// Reads a command line of one of the verbs that are to be fast, without making the flags of all the others first: that
    /// takes longer than a tenth of a container's start. `None` for every other command line, and for one that is wrong or
    /// asks for help, about which the whole parser has more to say.
    pub(crate) fn quickly(words: &[OsString]) -> Option<Self> {
        let name = words.get(1)?.to_str()?;
        let words = words.get(1..)?;
        let (global, verb) = match name {
            "run" => one(words, |run| Verb::Run(Box::new(run))),
            "create" => one(words, |create| Verb::Create(Box::new(create))),
            "exec" => one(words, Verb::Exec),
            "start" => one(words, Verb::Start),
            "stop" => one(words, Verb::Stop),
            "kill" => one(words, Verb::Kill),
            "rm" => one(words, Verb::Rm),
            "ps" => one(words, Verb::Ps),
            "logs" => one(words, Verb::Logs),
            "inspect" => one(words, Verb::Inspect),
            _ => None,
        }?;
        Some(Self {
            global,
            version: false,
            verb: Some(verb),
        })
    }
}

/// Reads the words of one verb, the verb itself first.
fn one<A: Args>(
    words: &[OsString],
    verb: impl FnOnce(A) -> Verb,
) -> Option<(GlobalArguments, Verb)> {
    let command = clap::Command::new("plimsoll").disable_help_flag(true);
    let command = GlobalArguments::augment_args(A::augment_args(command));
    let matches = command.try_get_matches_from(words).ok()?;
    let arguments = A::from_arg_matches(&matches).ok()?;
    let global = GlobalArguments::from_arg_matches(&matches).ok()?;
    Some((global, verb(arguments)))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
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
    /// Show everything that is known of instances, images or volumes, as JSON
    Inspect(InspectArguments),
    /// Manage instances (docker's longer names of the same commands)
    Container {
        /// What to do
        #[command(subcommand)]
        verb: Box<ContainerVerb>,
    },
    /// List images
    Images(ImagesArguments),
    /// Manage images (docker's longer names of the same commands)
    Image {
        #[command(subcommand)]
        verb: ImageVerb,
    },
    /// Build an image from a Dockerfile
    Build(Box<BuildArguments>),
    /// Make an image of an instance with what it has written
    Commit(CommitArguments),
    /// Write all files of an instance into an archive
    Export(ExportArguments),
    /// Show the steps that an image was made by
    History(HistoryArguments),
    /// Make an image from a root file system archive
    Import(ImportArguments),
    /// Load images from an archive made by `docker save` or in OCI layout
    Load(LoadArguments),
    /// Remove images
    Rmi(RmiArguments),
    /// Write images into an archive that docker, podman and skopeo load
    Save(SaveArguments),
    /// Give an image another name
    Tag(TagArguments),
    /// Show and free what is used of the disk
    #[command(subcommand)]
    System(SystemVerb),
    /// Fetch an image from a registry
    Pull(PullArguments),
    /// Send an image to a registry
    Push(PushArguments),
    /// Keep the user name and password for a registry
    Login(LoginArguments),
    /// Forget the user name and password for a registry
    Logout(LogoutArguments),
    /// List instances
    Ps(PsArguments),
    /// Remove instances
    Rm(RmArguments),
    /// Show where an instance's ports are published
    Port(PortArguments),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkVerb),
    /// Manage what VMs are started from
    #[command(subcommand)]
    Vm(VmVerb),
    /// Manage volumes
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Check this host for everything that Plimsoll uses, and say how to mend what is missing
    Doctor(DoctorArguments),
    /// Show the versions of Plimsoll and of what it runs on
    Version,
    /// Make an HTML report from a result file of `cargo bench`
    Report(ReportArguments),
    /// Run a command natively, in a container and in a VM, and print what each way costs
    Compare(CompareArguments),
    /// Print a completion script for a shell
    Completion(CompletionArguments),
    /// Write the man pages, one for each command
    Man(ManArguments),
    /// Run OCI bundles with runc's command line, as an engine's runtime (`plimsoll oci --help`)
    #[command(disable_help_flag = true)]
    Oci(OciArguments),
}

#[derive(Debug, Args)]
pub(crate) struct OciArguments {
    /// What `plimsoll oci --help` lists
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// The shell: source <(plimsoll completion bash)
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Directory for the pages, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum BackendArgument {
    /// Namespaces and cgroups
    #[default]
    Container,
    /// A microVM with a kernel of its own
    Vm,
    /// A container inside a microVM: the engine is in there too, as in Docker Toolbox
    Toolbox,
    /// A chroot and nothing else: what the others are compared with
    #[value(hide = true)]
    Native,
}

impl From<BackendArgument> for BackendKind {
    fn from(argument: BackendArgument) -> Self {
        match argument {
            BackendArgument::Container => Self::Container,
            BackendArgument::Vm => Self::Vm,
            BackendArgument::Toolbox => Self::Toolbox,
            BackendArgument::Native => Self::Native,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, ValueEnum)]
pub(crate) enum AccelArgument {
    /// The best that this host has
    #[default]
    Auto,
    /// Our own monitor on /dev/kvm
    Kvm,
    /// QEMU's software emulation
    Tcg,
}

impl From<AccelArgument> for Accel {
    fn from(argument: AccelArgument) -> Self {
        match argument {
            AccelArgument::Auto => Self::Auto,
            AccelArgument::Kvm => Self::Kvm,
            AccelArgument::Tcg => Self::Tcg,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArguments {
    /// Print only the identifiers
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// All images (there are none that are only parts of others)
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Also the digests
    #[arg(long)]
    pub(crate) digests: bool,

    /// Do not shorten identifiers
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// table, json for one object a line, or a Go template such as '{{.Repository}}' or 'table {{.ID}}\t{{.Size}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Only those for which this holds: before, dangling, label, reference, since or until
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,

    /// Only those of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) repository: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Apply a Dockerfile instruction to the image: CMD, ENTRYPOINT, ENV, VOLUME, EXPOSE, USER, WORKDIR, LABEL, STOPSIGNAL
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,

    /// What is said of the image in its history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,

    /// The platform of the image: linux/amd64 is the only one
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,

    /// The archive (tar, plain or compressed by gzip or zstd), or - for standard input
    #[arg(value_name = "TAR|-")]
    pub(crate) archive: PathBuf,

    /// Name of the image, such as debian or debian:bookworm
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// The archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// Print only the names
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArguments {
    /// Remove also what instances were made from, and identifiers with several names
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Names or identifiers
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArguments {
    /// Also those that have ended
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Print only the identifiers
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Do not shorten identifiers and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// Only the newest, also when it has ended
    #[arg(short, long)]
    pub(crate) latest: bool,

    /// Only so many of the newest, also those that have ended
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) last: u32,

    /// Show what each has written
    #[arg(short, long)]
    pub(crate) size: bool,

    /// Only those that fit, such as status=exited, name=web, label=tier=front
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,

    /// table, json, or a Go template such as '{{.ID}} {{.Names}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArguments {
    /// Kill those that run
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Remove their anonymous volumes too
    #[arg(short, long)]
    pub(crate) volumes: bool,

    /// Names or identifiers
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// table, or json for one object a line
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Settle what killed processes left behind
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// Result file, such as target/plimsoll/results/latest.json
    #[arg(value_name = "RESULTS.json")]
    pub(crate) results: PathBuf,

    /// Directory to write index.html into
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// What drives the VM
    #[arg(long, value_enum, default_value_t)]
    pub(crate) accel: AccelArgument,

    /// How often each way is run; the ways take turns
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// Memory limit, the same for all; also the VM's memory
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,

    /// CPUs of each way
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<String>,

    /// Set an environment variable, the same for all
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,

    /// Command for the host's shell that loads the image's server, started anew for each run: {ip} and {port} are where it answers
    #[arg(long, value_name = "COMMAND")]
    pub(crate) load: Option<String>,

    /// TCP port on which the server answers [default: the one that the image exposes]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,

    /// Figure in what the load prints, more being better (NAME<=PATTERN: less); those of redis-benchmark, wrk, ab and pgbench are known
    #[arg(long = "figure", value_name = "NAME=PATTERN")]
    pub(crate) figures: Vec<String>,

    /// Directory for a report (index.html) and the results it is made from (results.json)
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Guest kernel of the VM: a vmlinux or a bzImage [default: Plimsoll's own]
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,

    /// table, or json for one object a line
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Image to run
    pub(crate) image: String,

    /// Command and arguments in place of the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}
