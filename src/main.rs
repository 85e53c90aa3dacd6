//! The `plimsoll` command: runs one OCI image as a container or as a microVM, and measures what each way costs.

mod cli;
mod compare;
mod doctor;
mod images;
mod import;
mod load;
mod oci;
mod output;
mod ps;
mod report;
mod rm;
mod rmi;
mod run;
mod version;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Verb};

/// docker's exit code for whatever is not the command's own failure.
const ENGINE_FAILED: u8 = 125;

fn main() -> ExitCode {
    restore_broken_pipes();
    if let Some(arguments) = oci::arguments() {
        return ExitCode::from(oci::main(arguments));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
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
        Verb::Run(arguments) => run::run(&cli.root, arguments),
        Verb::Images(arguments) => images::images(&cli.root, arguments),
        Verb::Import(arguments) => import::import(&cli.root, arguments),
        Verb::Load(arguments) => load::load(&cli.root, arguments),
        Verb::Rmi(arguments) => rmi::rmi(&cli.root, arguments),
        Verb::Ps(arguments) => ps::ps(&cli.root, arguments),
        Verb::Rm(arguments) => rm::rm(&cli.root, arguments),
        Verb::Doctor(arguments) => doctor::doctor(&cli.root, arguments),
        Verb::Version => version::long(&cli.root),
        Verb::Report(arguments) => report::report(arguments),
        Verb::Compare(arguments) => compare::compare(&cli.root, arguments),
        Verb::Oci(arguments) => Ok(oci::main(arguments.arguments.clone())),
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
    match cli.verb {
        Some(Verb::Run(_) | Verb::Compare(_)) => error
            .downcast_ref::<engine::Error>()
            .map_or(ENGINE_FAILED, engine::Error::exit_code),
        _ => 1,
    }
}

/// Lets `plimsoll images | head -1` end quietly: Rust ignores SIGPIPE, and programs in instances would inherit that.
fn restore_broken_pipes() {
    // SAFETY: the default action is set before any thread is started, and no handler of ours is replaced.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
