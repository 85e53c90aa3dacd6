//! What the runs have given: kept as a result file is, from which the table and the report are made.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use engine::{Choice, Image};
use reports::results::{
    Arm, ArmKind, ArmStatus, Completeness, Direction, Group, ImageUnderTest, Metric, Plan, Results,
    Sample, Substrate, Unit, arm_id,
};

use super::figure::Figure;
use super::{Run, WAYS, Way, command, server};
use crate::cli::CompareArguments;

/// What the result file and the report are called in their directory.
const FILE: &str = "results.json";

fn metric(
    id: &str,
    group: Group,
    unit: Unit,
    direction: Direction,
    title: &str,
    description: &str,
) -> Metric {
    Metric {
        id: id.to_owned(),
        group,
        unit,
        direction,
        title: title.to_owned(),
        description: description.to_owned(),
    }
}

/// What is measured, in the order of a run's figures.
pub(super) fn measures(arguments: &CompareArguments, figures: &[Figure]) -> Vec<Metric> {
    let time = |id, group, title, description| {
        metric(
            id,
            group,
            Unit::Nanoseconds,
            Direction::LowerIsBetter,
            title,
            description,
        )
    };
    let memory = metric(
        command::MEMORY,
        Group::Footprint,
        Unit::Bytes,
        Direction::LowerIsBetter,
        "peak memory",
        "The most memory that was charged to the instance's cgroup; a VM's is the monitor's with all that the guest has touched.",
    );
    if arguments.load.is_none() {
        return vec![
            time(
                command::TOTAL,
                Group::Start,
                "start to end",
                "From before the launcher was spawned to its end.",
            ),
            time(
                command::START,
                Group::Start,
                "start",
                "From before the launcher was spawned to the command's exec.",
            ),
            time(
                command::RUN,
                Group::Application,
                "run",
                "From the command's exec to the launcher's end.",
            ),
            memory,
        ];
    }
    let mut all = vec![
        time(
            server::READY,
            Group::Start,
            "ready",
            "From before the launcher was spawned to the first connection that the server accepted.",
        ),
        time(
            server::LOAD,
            Group::Application,
            "load",
            "How long the load command took, run on the host against the server.",
        ),
        memory,
    ];
    all.extend(figures.iter().map(|figure| {
        metric(
            &format!("compare.figure.{}", figure.name.replace(' ', "-")),
            Group::Application,
            figure.unit,
            figure.direction,
            &figure.name,
            "What the load command printed.",
        )
    }));
    all
}

/// The runs so far.
pub(super) struct Record {
    pub(super) results: Results,
    codes: Vec<Option<i32>>,
}

impl Record {
    pub(super) fn new(
        root: &Path,
        arguments: &CompareArguments,
        image: &Image,
        choice: &Choice,
        measures: Vec<Metric>,
    ) -> anyhow::Result<Self> {
        let plan = Plan {
            name: "compare".to_owned(),
            rounds: arguments.rounds,
            instances: arguments.rounds,
            arm_budget_ns: server::READY_WITHIN.as_nanos() as u64,
            run_budget_ns: None,
            filter: None,
        };
        let made_by = concat!("plimsoll ", env!("CARGO_PKG_VERSION"), " compare");
        let mut results = Results::new(made_by, unix_ms()?, plan);
        results.image = Some(ImageUnderTest {
            name: arguments.image.clone(),
            digest: image.manifest.to_string(),
            cpus: Some(super::cpus(arguments).to_owned()),
            memory_bytes: Some(super::memory(arguments)),
        });
        results.fingerprint = fingerprint::collect(root);
        results
            .fingerprint
            .versions
            .insert("plimsoll".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        results.arms = WAYS.iter().map(|way| arm(*way, choice)).collect();
        results.metrics = measures;
        let words = arguments.command.join(" ");
        results.notes.push(match (&arguments.load, words.as_str()) {
            (None, "") => "The image's own command was run to its end.".to_owned(),
            (None, words) => format!("The command was: {words}"),
            (Some(load), "") => format!("The image's own server was loaded by: {load}"),
            (Some(load), words) => format!("The server {words} was loaded by: {load}"),
        });
        Ok(Self {
            results,
            codes: Vec::new(),
        })
    }

    /// Keeps what a run has given.
    pub(super) fn add(&mut self, way: Way, round: u32, run: &Run) -> anyhow::Result<()> {
        ensure!(
            run.figures.len() == self.results.metrics.len(),
            "a run has other figures than were planned"
        );
        self.codes.push(run.code);
        let ids: Vec<String> = self.results.metrics.iter().map(|m| m.id.clone()).collect();
        for (id, figure) in ids.iter().zip(&run.figures) {
            let Some(value) = figure else { continue };
            let sample = Sample {
                arm: way.arm.to_owned(),
                instance: round,
                value: Some(*value),
                iterations: None,
                elapsed_ns: None,
                host_ns: None,
                void: None,
            };
            self.results.record(id, round, sample);
        }
        Ok(())
    }

    /// The median of a metric of a way.
    pub(super) fn median(&self, metric: &str, arm: &str) -> Option<f64> {
        let samples = self.results.rounds(metric).iter().flat_map(|r| &r.samples);
        let mut values: Vec<f64> = samples
            .filter(|sample| sample.arm == arm)
            .filter_map(|sample| sample.value)
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// The exit code that all runs ended with.
    pub(super) fn agreed_exit_code(&self) -> anyhow::Result<u8> {
        let first = self
            .codes
            .first()
            .copied()
            .flatten()
            .context("the first run was killed")?;
        ensure!(
            self.codes.iter().all(|code| *code == Some(first)),
            "the command's exit code differs between runs, so the figures are not of the same work: {:?}",
            self.codes
        );
        Ok(u8::try_from(first).unwrap_or(1))
    }

    /// Writes the result file and the report: the page's path. `broken_off`: why not everything was measured.
    pub(super) fn write(
        mut self,
        folder: &Path,
        broken_off: Option<&str>,
    ) -> anyhow::Result<PathBuf> {
        self.results.completeness = match broken_off {
            None => Completeness::Complete,
            Some(reason) => Completeness::Partial {
                reason: reason.to_owned(),
            },
        };
        self.results.ended_unix_ms = Some(unix_ms()?);
        self.results.fingerprint.load_at_end = fingerprint::load();
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        self.results.write(&folder.join(FILE))?;
        Ok(reports::write_report(&self.results, folder)?)
    }
}

fn arm(way: Way, choice: &Choice) -> Arm {
    let is_vm = way.backend == "vm";
    let (label, kind) = match way.arm {
        arm_id::NATIVE => ("native".to_owned(), ArmKind::Native),
        arm_id::NATIVE_CONTROL => ("native again (control)".to_owned(), ArmKind::Native),
        arm_id::CONTAINER => ("container".to_owned(), ArmKind::Container),
        _ => (format!("VM ({})", choice.substrate), ArmKind::Vm),
    };
    Arm {
        id: way.arm.to_owned(),
        label,
        kind,
        substrate: is_vm.then(|| Substrate {
            name: choice.substrate.clone(),
            hardware: choice.hardware,
        }),
        control_of: (way.arm == arm_id::NATIVE_CONTROL).then(|| arm_id::NATIVE.to_owned()),
        twin_of: None,
        versions: std::collections::BTreeMap::new(),
        omits: Vec::new(),
        status: ArmStatus::Ran,
    }
}

fn unix_ms() -> anyhow::Result<u64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(runs: &[(f64, i32)]) -> Record {
        let plan = Plan {
            name: "compare".into(),
            rounds: 3,
            instances: 3,
            arm_budget_ns: 0,
            run_budget_ns: None,
            filter: None,
        };
        let mut record = Record {
            results: Results::new("test", 0, plan),
            codes: Vec::new(),
        };
        record.results.metrics.push(metric(
            "m",
            Group::Application,
            Unit::Count,
            Direction::LowerIsBetter,
            "",
            "",
        ));
        for (round, (value, code)) in (0..).zip(runs) {
            let run = Run {
                figures: vec![Some(*value)],
                code: Some(*code),
            };
            record.add(WAYS[0], round, &run).unwrap();
        }
        record
    }

    #[test]
    fn the_median_is_the_middle_value_of_one_way() {
        let record = record(&[(3.0, 0), (1.0, 0), (2.0, 0)]);
        assert_eq!(record.median("m", arm_id::NATIVE), Some(2.0));
        assert_eq!(record.median("m", arm_id::VM), None);
        assert_eq!(record.median("other", arm_id::NATIVE), None);
    }

    #[test]
    fn runs_that_end_differently_are_not_compared() {
        assert_eq!(record(&[(1.0, 3), (1.0, 3)]).agreed_exit_code().unwrap(), 3);
        assert!(record(&[(1.0, 0), (1.0, 1)]).agreed_exit_code().is_err());
        assert!(record(&[]).agreed_exit_code().is_err());
    }
}
