//! `plimsoll compare`: the same command, or the same server under a load, natively, in a container and in a VM.

mod command;
mod figure;
mod interrupt;
mod launcher;
mod results;
mod server;
mod table;

use std::path::Path;

use anyhow::{Context, ensure};
use engine::{Home, VM_MEMORY};
use reports::results::arm_id;

use crate::cli::CompareArguments;
use launcher::Launcher;

/// CPUs of every way unless told otherwise: what a VM has, so that all have the same.
const CPUS: &str = "1";

/// One way of running the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// The arm of the result file.
    arm: &'static str,
    /// What `--backend` calls it.
    backend: &'static str,
}

/// In the order of the table. The control is native under another name: whatever differs between the two is noise.
const WAYS: [Way; 4] = [
    Way {
        arm: arm_id::NATIVE,
        backend: "native",
    },
    Way {
        arm: arm_id::CONTAINER,
        backend: "container",
    },
    Way {
        arm: arm_id::VM,
        backend: "vm",
    },
    Way {
        arm: arm_id::NATIVE_CONTROL,
        backend: "native",
    },
];

/// What one run of one way has given.
#[derive(Debug)]
struct Run {
    /// In the order of [`results::measures`]; `None` where there is no figure.
    figures: Vec<Option<f64>>,
    /// The command's exit code; `None` if it was killed.
    code: Option<i32>,
}

pub(crate) fn compare(root: &Path, arguments: &CompareArguments) -> anyhow::Result<u8> {
    // The image is checked first, so that a slip in its name is told once and not three times.
    let store = Home::open(root)?.images()?;
    let image = if engine::base::is_base(&arguments.image) {
        engine::base::ensure(&store)?
    } else {
        store.resolve(&arguments.image)?
    };
    let choice = engine::choose_accelerator(arguments.accel.into())?;
    let launcher = Launcher::new(root, arguments, &choice)?;
    let mut figures = figure::parse_all(&arguments.figures)?;
    if let Some(load) = &arguments.load {
        figures.extend(figure::of_known_tools(load));
    }
    let port = match (&arguments.load, arguments.port) {
        (None, None) => {
            ensure!(
                figures.is_empty(),
                "--figure reads what a load prints: say which with --load"
            );
            None
        }
        (None, Some(_)) => {
            anyhow::bail!("--port is where a server answers: say what it is to answer with --load")
        }
        (Some(_), port) => Some(server::port(port, &image)?),
    };
    let measures = results::measures(arguments, &figures);
    let mut record = results::Record::new(root, arguments, &image, &choice, measures)?;
    interrupt::watch();
    let plan = Plan {
        launcher: &launcher,
        load: arguments.load.as_deref().zip(port),
        figures: &figures,
    };
    let measured = plan.run(arguments.rounds, &mut record);
    if let Some(signal) = interrupt::signal() {
        if let Some(folder) = &arguments.output {
            println!("{}", record.write(folder, Some("interrupted"))?.display());
        }
        eprintln!("plimsoll: interrupted: every instance is gone");
        return Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    measured?;
    let code = record.agreed_exit_code()?;
    table::print(arguments, &choice, &record)?;
    if let Some(folder) = &arguments.output {
        println!("{}", record.write(folder, None)?.display());
    }
    Ok(code)
}

/// What every round does.
struct Plan<'a> {
    launcher: &'a Launcher<'a>,
    /// The load and the port of the server it is for; `None` for a command that ends by itself.
    load: Option<(&'a str, u16)>,
    figures: &'a [figure::Figure],
}

impl Plan<'_> {
    fn run(&self, rounds: u32, record: &mut results::Record) -> anyhow::Result<()> {
        for round in 0..rounds {
            // A B C, C B A, …: a machine that drifts drifts for all.
            let mut order: Vec<Way> = WAYS.to_vec();
            if round % 2 == 1 {
                order.reverse();
            }
            for way in order {
                let run = match self.load {
                    Some((load, port)) => {
                        server::measure(self.launcher, way, load, port, self.figures, round)
                    }
                    None => command::measure(self.launcher, way, round),
                }
                .with_context(|| format!("{} run {} of {rounds}", way.arm, round + 1))?;
                record.add(way, round, &run)?;
            }
        }
        Ok(())
    }
}

/// The memory of every way, bytes.
fn memory(arguments: &CompareArguments) -> u64 {
    arguments.memory.map_or(VM_MEMORY, |size| size.0)
}

/// The CPUs of every way, as `--cpus` takes them.
fn cpus(arguments: &CompareArguments) -> &str {
    arguments.cpus.as_deref().unwrap_or(CPUS)
}

/// Nanoseconds of CLOCK_MONOTONIC, the clock of the timeline.
fn monotonic_now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}
