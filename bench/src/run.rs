//! The whole run, from the command line to the report.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::Duration;

use criterion::Criterion;
use reports::Results;
use reports::results::{self, Completeness, ImageUnderTest};

use crate::arm::network::{self, Networks};
use crate::arm::{Candidate, NOT_REACHED, bubblewrap, engine_peer, native, oci, plimsoll};
use crate::benchmark;
use crate::cli::{CommandLine, Mode};
use crate::clock;
use crate::deploy::Deploy;
use crate::error::{Error, Result};
use crate::harness::{Harness, Setup};
use crate::idle::Idle;
use crate::image::Images;
use crate::limits::Limits;
use crate::outcome::{self, Places};
use crate::peers;
use crate::plan::{Plan, ROUNDS_FOR_A_VERDICT};
use crate::processes;
use crate::ratio::Ratio;
use crate::start::{Condition, Starts};
use crate::steady::Steady;
use crate::suite::{self, Sizes, Work};
use crate::versions;

/// The benchmarks beside steady work. They come first: no resident instance is in their way, and no claim is undecided only
/// because time ran out for its few figures.
const DEPLOY: (&str, &str) = ("image", "deploy");
const IDLE: (&str, &str) = ("footprint", "idle");
const STARTS: [((&str, &str), Condition); 2] = [
    (("start", "warm"), Condition::Warm),
    (("start", "cold"), Condition::Cold),
];

/// What `cargo bench` runs.
pub fn main() -> ExitCode {
    let line = CommandLine::parse(std::env::args().skip(1));
    match run(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(line: &CommandLine) -> Result<()> {
    let plan = Plan::from_environment()?;
    let works = suite::all();
    let mut harness = match line.mode {
        Mode::Describe => None,
        mode => Some(prepare(line, plan.clone(), mode == Mode::Measure, &works)?),
    };
    let mut criterion = Criterion::default()
        .with_measurement(Ratio)
        .without_plots()
        .sample_size(ROUNDS_FOR_A_VERDICT as usize)
        // One round warms up; more would only take time.
        .warm_up_time(Duration::from_nanos(1))
        .measurement_time(plan.measurement)
        .configure_from_args();
    // Their rounds take longer; what the user says on the command line comes first.
    let longer = |times| (!line.measurement_time).then(|| plan.measurement * times);
    // First: what it takes of the time is not promised to slow arms then.
    let mut group = criterion.benchmark_group(DEPLOY.0);
    if let Some(time) = longer(4) {
        group.measurement_time(time);
    }
    benchmark::run(&mut group, DEPLOY.1, &mut harness, Deploy::prepare);
    group.finish();
    let mut group = criterion.benchmark_group(STARTS[0].0.0);
    if let Some(time) = longer(2) {
        group.measurement_time(time);
    }
    for ((_, name), condition) in STARTS {
        benchmark::run(&mut group, name, &mut harness, |harness| {
            Starts::prepare(harness, condition)
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group(IDLE.0);
    if let Some(time) = longer(6) {
        group.measurement_time(time);
    }
    benchmark::run(&mut group, IDLE.1, &mut harness, Idle::prepare);
    group.finish();
    // One group of criterion's for each family, in the order of the suite.
    for family in works.chunk_by(|one, next| one.bench.0 == next.bench.0) {
        let mut group = criterion.benchmark_group(family[0].bench.0);
        for work in family {
            benchmark::run(&mut group, work.bench.1, &mut harness, |harness| {
                Steady::prepare(harness, work.clone())
            });
        }
    }
    criterion.final_summary();
    match &mut harness {
        Some(harness) => outcome::finish(harness, Completeness::Complete),
        None => Ok(()),
    }
}

/// Everything before the first round: the command, the images, the arms, and the plan, which is said aloud.
fn prepare(line: &CommandLine, plan: Plan, measure: bool, works: &[Work]) -> Result<Harness> {
    processes::watch();
    let places = Places::find();
    let scratch = places
        .base()
        .join(format!("scratch-{}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(|error| Error::io("create", &scratch, error))?;
    let limits = Limits {
        cpus: fingerprint::cores(),
        memory: Limits::MEMORY,
    };
    let sizes = Sizes::choose(fingerprint::last_level_cache(), limits.memory);
    let command = under_test(&places)?;
    let images = Rc::new(Images::prepare(&command, &scratch)?);
    let rootfs = scratch.join("rootfs");
    images.copy_rootfs(&rootfs)?;
    let candidates = candidates(&command, &images, limits, &scratch, &rootfs)?;

    let takes = |(group, name): &(&str, &str)| line.takes(&format!("{group}/{name}"));
    let steady = works.iter().filter(|work| takes(&work.bench)).count() as u32;
    let others = [DEPLOY, IDLE]
        .into_iter()
        .chain(STARTS.map(|(bench, _)| bench));
    let unsteady = others.filter(takes).count() as u32;
    let chosen = steady + unsteady;
    let mut results = Results::new(
        format!("plimsoll bench {}", env!("CARGO_PKG_VERSION")),
        clock::unix_ms(),
        results::Plan {
            name: plan.name.to_owned(),
            rounds: plan.rounds,
            instances: plan.instances,
            arm_budget_ns: plan.arm.as_nanos() as u64,
            run_budget_ns: Some(plan.run.as_nanos() as u64),
            filter: line.filter.clone(),
        },
    );
    // The report resamples with it; nothing in the measurement itself is drawn at random.
    results.seeds.insert("bootstrap".to_owned(), 1);
    results.image = Some(ImageUnderTest {
        name: images.base.name.clone(),
        digest: images.base.digest.clone(),
        cpus: Some(limits.cpus.to_string()),
        memory_bytes: Some(limits.memory),
    });
    results.fingerprint = fingerprint::collect(&command.root);
    results.fingerprint.versions = versions::of_parts(&command.program, &command.kernel);
    results.notes = notes(limits, &images);
    // Where KVM is emulated two instances take a minute to boot: only the longest plan waits for them.
    let networks = Some(Networks::new(
        &command,
        &images,
        limits,
        plan.name == "full",
    ));
    announce(&plan, &candidates, chosen, measure);
    Ok(Harness::new(Setup {
        plan,
        results,
        candidates,
        command: Some(command),
        networks,
        limits,
        sizes,
        scratch,
        places,
        keeps: measure,
        benches: chosen,
        unsteady,
    }))
}

/// The command under test: `PLIMSOLL_BIN`, else what cargo builds from this tree.
fn under_test(places: &Places) -> Result<plimsoll::Command> {
    let program = match std::env::var_os("PLIMSOLL_BIN") {
        Some(path) => PathBuf::from(path),
        None => build()?,
    };
    if !program.is_file() {
        return Err(Error::NoCommand { path: program });
    }
    let variable =
        |name, otherwise: PathBuf| std::env::var_os(name).map_or(otherwise, PathBuf::from);
    Ok(plimsoll::Command {
        program,
        // A state directory of its own: what the user has in the usual one is not touched, and does not weigh.
        root: variable("PLIMSOLL_ROOT", places.base().join("root")),
        kernel: variable(
            "PLIMSOLL_KERNEL",
            PathBuf::from("/var/cache/plimsoll/kernels/current/vmlinux"),
        ),
    })
}

/// Builds the command as a release: what users run is what is measured, and not what the profile of benchmarks makes of it.
/// (Cargo itself would build it for benchmarks of its own package only, and in that profile.)
fn build() -> Result<PathBuf> {
    // Cargo says where it is to what it runs; a benchmark started by hand takes what has been built before.
    if let Some(cargo) = std::env::var_os("CARGO") {
        eprintln!("  building the plimsoll command");
        let mut command = Command::new(cargo);
        command
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "plimsoll",
                "--bin",
                "plimsoll",
            ])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        peers::output(&mut command).map_err(|message| Error::Program {
            program: "cargo build --release".to_owned(),
            message,
        })?;
    }
    // …/release/deps/plimsoll-0123 → …/release/plimsoll
    let program = std::env::current_exe().unwrap_or_default();
    Ok(program
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new(""))
        .join("plimsoll"))
}

/// All arms in the order of the report, those that cannot run included; `PLIMSOLL_ARMS` (a list with commas) leaves out
/// the others, except for the native ones, without which there are no ratios.
fn candidates(
    command: &plimsoll::Command,
    images: &Rc<Images>,
    limits: Limits,
    scratch: &Path,
    rootfs: &Path,
) -> Result<Vec<Candidate>> {
    let mounts = peers::without_cgroup2().unwrap_or_else(|message| {
        eprintln!("  {message}");
        None
    });
    // Beside what instances write, so that the file system treats it alike.
    let native_scratch = command.root.join("native");
    let native = |control| {
        Candidate::Able(Box::new(native::Native::new(
            control,
            images,
            limits,
            &native_scratch,
        )))
    };
    let mut all = vec![native(false), native(true)];
    all.extend(plimsoll::candidates(command, images, limits));
    all.push(network::toolbox_candidate());
    all.push(bubblewrap::candidate(rootfs));
    all.extend(oci::candidates(rootfs, &scratch.join("bundles"), mounts));
    all.extend(engine_peer::candidates(rootfs));
    let Ok(wanted) = std::env::var("PLIMSOLL_ARMS") else {
        return Ok(all);
    };
    let wanted: Vec<&str> = wanted
        .split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|id| all.iter().all(|arm| arm.about().id != **id))
    {
        return Err(Error::Setting {
            name: "PLIMSOLL_ARMS",
            value: (*unknown).to_owned(),
            expected: "it is a list of arms with commas between them, such as native,container,vm-tcg",
        });
    }
    Ok(all
        .into_iter()
        .map(|arm| {
            match arm.about().kind == results::ArmKind::Native
                || wanted.contains(&arm.about().id.as_str())
            {
                true => arm,
                false => Candidate::unable(arm.about().clone(), "left out by PLIMSOLL_ARMS"),
            }
        })
        .collect())
}

/// The plan, before anything is measured.
fn announce(plan: &Plan, candidates: &[Candidate], benches: u32, measure: bool) {
    for candidate in candidates {
        let about = candidate.about();
        match candidate {
            Candidate::Able(_) => eprintln!("  {:<20} will run", about.id),
            Candidate::Unable(_) => {
                if let results::ArmStatus::NotRun { reason } = &about.status {
                    if reason == NOT_REACHED {
                        eprintln!("  {:<20} will run, in network work", about.id);
                        continue;
                    }
                    eprintln!("  {:<20} not run: {reason}", about.id);
                }
            }
        }
    }
    if measure {
        eprintln!(
            "plan {}: {benches} benchmarks, at most {} (PLIMSOLL_PLAN=quick|default|full). Criterion's lines show how many \
             times native's time the container takes; the report has every arm.",
            plan.name,
            clock::words(plan.run)
        );
    }
}

fn notes(limits: Limits, images: &Images) -> Vec<String> {
    vec![
        format!(
            "Resident arms have {} CPUs and {} MiB of memory each: the native ones by a cgroup of the harness, the others by \
             --cpus and -m. No arm is pinned to a CPU.",
            limits.cpus,
            limits.memory >> 20
        ),
        format!(
            "Steady work runs in {}, which is {} with one file of 16 MiB added. Starts run {} without limits, as a user \
             types it; a VM then has its default size.",
            images.data.name, images.base.name, images.base.name
        ),
        "Cold starts find nothing of the image in the page cache (checked with mincore); the launcher and the guest kernel \
         stay in it."
            .to_owned(),
        "The workload is one static file of baseline x86-64 code with memory functions of its own, so no arm chooses an \
         instruction set at run time."
            .to_owned(),
    ]
}
