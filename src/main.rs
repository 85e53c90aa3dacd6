//! The `plimsoll` command: runs one OCI image as a container or as a microVM, and measures what each way costs.

mod build;
mod cli;
mod commit;
mod compare;
mod completions;
mod cp;
mod create;
mod doctor;
mod exec;
mod filter;
mod format;
mod history;
mod images;
mod import;
mod inspect;
mod lifecycle;
mod load;
mod logs;
mod network;
mod network_flags;
mod oci;
mod output;
mod ports;
mod prune;
mod ps;
mod registry;
mod report;
mod rm;
mod rmi;
mod run;
mod save;
mod system;
mod tag;
mod template;
mod usage;
mod version;
mod vm;
mod volume;
mod watch;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, ContainerVerb, Verb};

/// docker's exit code for whatever is not the command's own failure.
const ENGINE_FAILED: u8 = 125;

/// docker's exit code for a command that cannot be run.
const CANNOT_INVOKE: u8 = 126;

/// docker's exit code for a command that is not there.
const NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    restore_broken_pipes();
    if let Some(arguments) = oci::arguments() {
        return ExitCode::from(oci::main(arguments));
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let parsed = match Cli::quickly(&words) {
        Some(cli) => Ok(cli),
        None => Cli::try_parse_from(&words),
    };
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let words: Vec<String> = words
                .iter()
                .skip(1)
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            if let Some((sentence, code)) = usage::explain(&error, &words) {
                eprintln!("plimsoll: {sentence}");
                return ExitCode::from(code);
            }
            // Help and version are answers, not errors. A terminal that has gone cannot be told anything.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(ENGINE_FAILED)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("plimsoll: {}", sentence(&error));
            ExitCode::from(exit_code(&cli, &error))
        }
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<u8> {
    if cli.version {
        return version::short();
    }
    let Some(verb) = &cli.verb else {
        use clap::CommandFactory;
        Cli::command().print_help()?;
        return Ok(ENGINE_FAILED);
    };
    match verb {
        Verb::Run(arguments) => run::run(&cli.global.root, arguments),
        Verb::Create(arguments) => create::create(&cli.global.root, arguments),
        Verb::Start(arguments) => lifecycle::start(&cli.global.root, arguments),
        Verb::Stop(arguments) => lifecycle::stop(&cli.global.root, arguments),
        Verb::Restart(arguments) => lifecycle::restart(&cli.global.root, arguments),
        Verb::Kill(arguments) => lifecycle::kill(&cli.global.root, arguments),
        Verb::Pause(arguments) => lifecycle::pause(&cli.global.root, arguments),
        Verb::Unpause(arguments) => lifecycle::unpause(&cli.global.root, arguments),
        Verb::Wait(arguments) => lifecycle::wait(&cli.global.root, arguments),
        Verb::Attach(arguments) => lifecycle::attach(&cli.global.root, arguments),
        Verb::Logs(arguments) => logs::logs(&cli.global.root, arguments),
        Verb::Rename(arguments) => lifecycle::rename(&cli.global.root, arguments),
        Verb::Exec(arguments) => exec::exec(&cli.global.root, arguments),
        Verb::Cp(arguments) => cp::cp(&cli.global.root, arguments),
        Verb::Diff(arguments) => cp::diff(&cli.global.root, arguments),
        Verb::Top(arguments) => watch::top(&cli.global.root, arguments),
        Verb::Stats(arguments) => watch::stats(&cli.global.root, arguments),
        Verb::Inspect(arguments) => inspect::inspect(&cli.global.root, arguments),
        Verb::Oci(arguments) => Ok(oci::main(arguments.arguments.clone())),
        Verb::Container { verb } => container(&cli.global.root, verb),
        Verb::Image { verb } => image(&cli.global.root, verb),
        Verb::Images(arguments) => images::images(&cli.global.root, arguments),
        Verb::Build(arguments) => build::build(&cli.global.root, arguments),
        Verb::Commit(arguments) => commit::commit(&cli.global.root, arguments),
        Verb::Export(arguments) => commit::export(&cli.global.root, arguments),
        Verb::History(arguments) => history::history(&cli.global.root, arguments),
        Verb::Save(arguments) => save::save(&cli.global.root, arguments),
        Verb::Tag(arguments) => tag::tag(&cli.global.root, arguments),
        Verb::System(verb) => system::system(&cli.global.root, verb),
        Verb::Import(arguments) => import::import(&cli.global.root, arguments),
        Verb::Load(arguments) => load::load(&cli.global.root, arguments),
        Verb::Rmi(arguments) => rmi::rmi(&cli.global.root, arguments),
        Verb::Pull(arguments) => registry::pull(&cli.global.root, arguments),
        Verb::Push(arguments) => registry::push(&cli.global.root, arguments),
        Verb::Login(arguments) => registry::login(arguments),
        Verb::Logout(arguments) => registry::logout(arguments),
        Verb::Ps(arguments) => ps::ps(&cli.global.root, arguments),
        Verb::Rm(arguments) => rm::rm(&cli.global.root, arguments),
        Verb::Port(arguments) => ports::port(&cli.global.root, arguments),
        Verb::Network(verb) => network::network(&cli.global.root, verb),
        Verb::Vm(verb) => vm::vm(&cli.global.root, verb),
        Verb::Volume(verb) => volume::volume(&cli.global.root, verb),
        Verb::Doctor(arguments) => doctor::doctor(&cli.global.root, arguments),
        Verb::Version => version::long(&cli.global.root),
        Verb::Report(arguments) => report::report(arguments),
        Verb::Compare(arguments) => compare::compare(&cli.global.root, arguments),
        Verb::Completion(arguments) => completions::completion(arguments),
        Verb::Man(arguments) => completions::man(arguments),
    }
}

/// docker's longer names of the same verbs.
fn container(root: &Path, verb: &ContainerVerb) -> anyhow::Result<u8> {
    match verb {
        ContainerVerb::Run(arguments) => run::run(root, arguments),
        ContainerVerb::Create(arguments) => create::create(root, arguments),
        ContainerVerb::Start(arguments) => lifecycle::start(root, arguments),
        ContainerVerb::Stop(arguments) => lifecycle::stop(root, arguments),
        ContainerVerb::Restart(arguments) => lifecycle::restart(root, arguments),
        ContainerVerb::Kill(arguments) => lifecycle::kill(root, arguments),
        ContainerVerb::Pause(arguments) => lifecycle::pause(root, arguments),
        ContainerVerb::Unpause(arguments) => lifecycle::unpause(root, arguments),
        ContainerVerb::Wait(arguments) => lifecycle::wait(root, arguments),
        ContainerVerb::Attach(arguments) => lifecycle::attach(root, arguments),
        ContainerVerb::Logs(arguments) => logs::logs(root, arguments),
        ContainerVerb::Rename(arguments) => lifecycle::rename(root, arguments),
        ContainerVerb::Exec(arguments) => exec::exec(root, arguments),
        ContainerVerb::Cp(arguments) => cp::cp(root, arguments),
        ContainerVerb::Diff(arguments) => cp::diff(root, arguments),
        ContainerVerb::Commit(arguments) => commit::commit(root, arguments),
        ContainerVerb::Export(arguments) => commit::export(root, arguments),
        ContainerVerb::Top(arguments) => watch::top(root, arguments),
        ContainerVerb::Stats(arguments) => watch::stats(root, arguments),
        ContainerVerb::Inspect(arguments) => {
            // `container inspect` finds nothing else.
            let arguments = cli::InspectArguments {
                kind: Some(cli::InspectType::Container),
                format: arguments.format.clone(),
                names: arguments.names.clone(),
                size: arguments.size,
            };
            inspect::inspect(root, &arguments)
        }
        ContainerVerb::Ls(arguments) => ps::ps(root, arguments),
        ContainerVerb::Rm(arguments) => rm::rm(root, arguments),
        ContainerVerb::Port(arguments) => ports::port(root, arguments),
        ContainerVerb::Prune(arguments) => prune::containers(root, arguments),
    }
}

/// docker's longer names of what is done to images.
fn image(root: &Path, verb: &cli::ImageVerb) -> anyhow::Result<u8> {
    match verb {
        cli::ImageVerb::Import(arguments) => import::import(root, arguments),
        cli::ImageVerb::Inspect(arguments) => {
            let arguments = cli::InspectArguments {
                kind: Some(cli::InspectType::Image),
                format: arguments.format.clone(),
                names: arguments.names.clone(),
                size: false,
            };
            inspect::inspect(root, &arguments)
        }
        cli::ImageVerb::Load(arguments) => load::load(root, arguments),
        cli::ImageVerb::Ls(arguments) => images::images(root, arguments),
        cli::ImageVerb::Pull(arguments) => registry::pull(root, arguments),
        cli::ImageVerb::Push(arguments) => registry::push(root, arguments),
        cli::ImageVerb::Rm(arguments) => rmi::rmi(root, arguments),
        cli::ImageVerb::Build(arguments) => build::build(root, arguments),
        cli::ImageVerb::History(arguments) => history::history(root, arguments),
        cli::ImageVerb::Prune(arguments) => prune::images(root, arguments),
        cli::ImageVerb::Save(arguments) => save::save(root, arguments),
        cli::ImageVerb::Tag(arguments) => tag::tag(root, arguments),
    }
}

/// An error and its causes in one sentence, without the causes that the libraries' messages already end with.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The exit code of a failure. For what runs a command it is docker's 125, 126 or 127; elsewhere 1.
fn exit_code(cli: &Cli, error: &anyhow::Error) -> u8 {
    if error.is::<filter::FlagError>() {
        return ENGINE_FAILED;
    }
    let told = error.downcast_ref::<engine::Error>();
    let (runs, executes) = match &cli.verb {
        Some(Verb::Run(_) | Verb::Compare(_)) => (true, false),
        Some(Verb::Exec(_)) => (false, true),
        Some(Verb::Container { verb }) => (
            matches!(**verb, ContainerVerb::Run(_)),
            matches!(**verb, ContainerVerb::Exec(_)),
        ),
        _ => (false, false),
    };
    match told {
        _ if runs => told.map_or(ENGINE_FAILED, engine::Error::exit_code),
        // docker: an instance in which nothing can be run is one thing, a command that cannot be run there another.
        Some(engine::Error::NoSuchInstance(_) | engine::Error::Refused(_)) => 1,
        Some(told) if executes => match told.exit_code() {
            // docker 28 goes by these words too: a working directory that is not there is like a command that is not.
            ENGINE_FAILED if sentence(error).contains("no such file or directory") => NOT_FOUND,
            ENGINE_FAILED => CANNOT_INVOKE,
            code => code,
        },
        // `start -a` ends with the code of what could not be run, as docker's.
        Some(engine::Error::Told { code, .. }) => *code,
        _ => 1,
    }
}

/// Lets `plimsoll images | head -1` end quietly: Rust ignores SIGPIPE, and programs in instances would inherit that.
fn restore_broken_pipes() {
    // SAFETY: the default action is set before any thread is started, and no handler of ours is replaced.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
