//! `plimsoll oci`: an OCI runtime with runc's command line.
//!
//! It is the container backend's own way of running ([`container_core`]), with the state of a container kept in a
//! directory between the commands. The program takes these commands directly when it is called plimsoll-oci, which
//! is what container engines want of a runtime.

mod arguments;
mod bundle;
mod console;
mod exec;
mod features;
mod info;
mod lifecycle;
mod log;
mod signal;
mod spec;
mod state;
mod time;
mod update;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Parser;

use self::arguments::{Oci, Verb};
use self::log::Log;

/// The newest version of the runtime specification that is understood.
const SPEC_VERSION: &str = "1.2.1";

/// The name under which the program is this runtime and nothing else.
const NAME: &str = "plimsoll-oci";

/// runc's exit codes: of whatever fails, and of an exec that does.
const FAILED: u8 = 1;
const EXEC_FAILED: u8 = 255;

/// What all verbs need to know.
struct Runtime {
    root: PathBuf,
    log: Log,
}

/// The arguments of the OCI runtime, if that is what the program was called as: by its name, or with `oci` first.
pub(crate) fn arguments() -> Option<Vec<OsString>> {
    let mut arguments = std::env::args_os();
    let program = arguments.next()?;
    if Path::new(&program).file_name()? == NAME {
        return Some(arguments.collect());
    }
    (arguments.next()? == "oci").then(|| arguments.collect())
}

/// Runs the OCI runtime, and returns its exit code.
pub(crate) fn main(arguments: Vec<OsString>) -> u8 {
    let name = OsString::from(NAME);
    let oci = match Oci::try_parse_from(std::iter::once(name).chain(arguments)) {
        Ok(oci) => oci,
        Err(error) => {
            // Help is an answer, not an error. A terminal that has gone cannot be told anything.
            let _ = error.print();
            return if error.use_stderr() { FAILED } else { 0 };
        }
    };
    if oci.global.version {
        return version();
    }
    let log = match Log::open(
        oci.global.log.as_deref(),
        oci.global.log_format,
        oci.global.debug,
    ) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("plimsoll: {}", crate::sentence(&error));
            return FAILED;
        }
    };
    let runtime = Runtime {
        root: oci.global.root.clone(),
        log,
    };
    match runtime.dispatch(&oci) {
        Ok(code) => code,
        Err(error) => {
            let message = told(&error);
            runtime.log.error(&message);
            eprintln!("plimsoll: {message}");
            match oci.verb {
                Some(Verb::Exec(_)) => EXEC_FAILED,
                _ => FAILED,
            }
        }
    }
}

/// The message of a failure. Engines look for the words that runc's messages have: 126 is what they make of a command
/// without permission, and to the older ones a directory is one only in these words.
fn told(error: &anyhow::Error) -> String {
    let message = crate::sentence(error);
    match error.downcast_ref::<container_core::Error>() {
        Some(container_core::Error::NotExecutable { .. })
            if !message.contains("permission denied") =>
        {
            format!("{message}: permission denied")
        }
        _ => message,
    }
}

/// In the form that engines look for in a runtime's answer.
fn version() -> u8 {
    let version = env!("CARGO_PKG_VERSION");
    match info::print(&format!("{NAME} version {version}\nspec: {SPEC_VERSION}")) {
        Ok(code) => code,
        Err(_) => FAILED,
    }
}

impl Runtime {
    fn dispatch(&self, oci: &Oci) -> Result<u8> {
        if oci.global.systemd_cgroup {
            bail!(
                "--systemd-cgroup: cgroups are managed directly here; use the cgroupfs manager (podman: --cgroup-manager cgroupfs)"
            );
        }
        if oci.global.rootless.as_deref() == Some("true") {
            bail!("--rootless: this runtime takes root");
        }
        let Some(verb) = &oci.verb else {
            use clap::CommandFactory;
            Oci::command().print_help()?;
            return Ok(FAILED);
        };
        self.log.debug(&format!("{verb:?}"));
        match verb {
            Verb::Create(arguments) => self.create(arguments),
            Verb::Start(arguments) => self.start(arguments),
            Verb::Run(arguments) => self.run(arguments),
            Verb::State(arguments) => self.state(arguments),
            Verb::Kill(arguments) => self.kill(arguments),
            Verb::Delete(arguments) => self.delete(arguments),
            Verb::Exec(arguments) => self.exec(arguments),
            Verb::Ps(arguments) => self.ps(arguments),
            Verb::List(arguments) => self.list(arguments),
            Verb::Pause(arguments) => self.pause(arguments),
            Verb::Resume(arguments) => self.resume(arguments),
            Verb::Update(arguments) => self.update(arguments),
            Verb::Spec(arguments) => self.spec(arguments),
            Verb::Features => self.features(),
            Verb::Events(arguments) => self.events(arguments),
        }
    }
}
