//! A run: its arms, its results so far, and its time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use reports::Results;
use reports::results::{ArmKind, ArmStatus, CutOff, Metric, Sample};

use crate::arm::network::{Client, Networks};
use crate::arm::{Candidate, NOT_REACHED, plimsoll};
use crate::clock;
use crate::launch::Trouble;
use crate::limits::Limits;
use crate::outcome::Places;
use crate::plan::Plan;
use crate::processes;
use crate::seat::Seat;
use crate::suite::Sizes;

/// What a run is made of before it begins.
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) results: Results,
    pub(crate) candidates: Vec<Candidate>,
    /// `None` where no image is deployed.
    pub(crate) command: Option<plimsoll::Command>,
    /// `None` where there is no network work.
    pub(crate) networks: Option<Networks>,
    pub(crate) limits: Limits,
    pub(crate) sizes: Sizes,
    pub(crate) scratch: PathBuf,
    pub(crate) places: Places,
    /// Whether results are kept at all.
    pub(crate) keeps: bool,
    /// How many benchmarks will run.
    pub(crate) benches: u32,
    /// How many of them, the first ones, are not steady work.
    pub(crate) unsteady: u32,
}

/// Everything that the benchmarks share.
pub(crate) struct Harness {
    pub(crate) plan: Plan,
    pub(crate) seats: Vec<Seat>,
    pub(crate) results: Results,
    pub(crate) sizes: Sizes,
    /// For files of the harness's own; it goes with the run.
    pub(crate) scratch: PathBuf,
    pub(crate) places: Places,
    pub(crate) keeps: bool,
    /// The command under test.
    pub(crate) command: Option<plimsoll::Command>,
    limits: Limits,
    networks: Option<Networks>,
    /// Whose seats these are, once it is network work's turn.
    client: Option<Client>,
    /// Arms that have been looked into.
    seen: BTreeSet<String>,
    begun: u64,
    /// Benchmarks that have not begun.
    benches_left: u32,
    /// How many of them are not steady work.
    unsteady_left: u32,
    /// Whether the one that runs is steady work.
    in_steady: bool,
    /// When the benchmark that runs has had its share of the time.
    bench_until: u64,
    last_progress: u64,
}

impl Harness {
    /// A run that begins now.
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup {
            plan,
            mut results,
            candidates,
            command,
            networks,
            limits,
            sizes,
            scratch,
            places,
            keeps,
            benches,
            unsteady,
        } = setup;
        let (seats, entries) = Seat::all(candidates);
        results.arms = entries;
        Self {
            plan,
            seats,
            results,
            sizes,
            scratch,
            places,
            keeps,
            command,
            limits,
            networks,
            client: None,
            seen: BTreeSet::new(),
            begun: clock::now(),
            benches_left: benches,
            unsteady_left: unsteady,
            in_steady: unsteady == 0,
            bench_until: u64::MAX,
            last_progress: 0,
        }
    }

    /// A benchmark begins. Those that are not steady work come first.
    pub(crate) fn next_bench(&mut self) {
        self.benches_left = self.benches_left.saturating_sub(1);
        self.in_steady = self.unsteady_left == 0;
        self.unsteady_left = self.unsteady_left.saturating_sub(1);
        self.last_progress = 0;
        // Some benchmarks take less than their share of what is left, so each may have more than that.
        let share = match self.in_steady {
            true => self.time_left() / (self.benches_left + 1) * 3 / 2,
            false => self.plan.bench * 3,
        };
        self.bench_until = clock::now() + share.as_nanos() as u64;
    }

    /// Puts the arms of network work into the seats, where they are not there yet. It comes last: the others do not come back.
    pub(crate) fn enter_networks(&mut self, client: Client) {
        if self.client == Some(client) {
            return;
        }
        for seat in &mut self.seats {
            seat.end();
        }
        take_status(&self.seats, &mut self.results);
        self.client = Some(client);
        let candidates = match &mut self.networks {
            Some(networks) => networks.candidates(client),
            None => Err("this run has none".to_owned()),
        };
        self.seats = match candidates {
            Ok(candidates) => Seat::all(candidates).0,
            Err(reason) => {
                self.say(&format!("network work cannot be measured: {reason}"));
                self.results
                    .notes
                    .push(format!("Network work was not measured: {reason}."));
                Vec::new()
            }
        };
        // Arms that are left out here, or by PLIMSOLL_ARMS, have an entry that says so.
        let results = &self.results;
        self.seats.retain(|seat| {
            results.arm(seat.id()).is_some_and(|arm| match &arm.status {
                ArmStatus::Ran => true,
                ArmStatus::NotRun { reason } => reason == NOT_REACHED,
            })
        });
    }

    /// What is left of the run's time.
    pub(crate) fn time_left(&self) -> Duration {
        self.plan
            .run
            .saturating_sub(Duration::from_nanos(clock::now() - self.begun))
    }

    /// Whether the benchmark that runs has had its time: the run's is up, or its own share of it is and `enough` rounds are
    /// `done`.
    pub(crate) fn is_over(&self, done: u32, enough: u32) -> bool {
        self.time_left().is_zero() || (done >= enough && clock::now() > self.bench_until)
    }

    /// What all slow arms together may take of the benchmark that runs: of what the quick arms do not need, and steady work
    /// does not keep, most; all of it where nothing of the sort follows.
    pub(crate) fn for_slow_arms(&self) -> Duration {
        let free = self
            .time_left()
            .saturating_sub(self.plan.bench * (self.benches_left + 1));
        if self.in_steady {
            return free / (self.benches_left + 1);
        }
        let steady_follows = self.benches_left > self.unsteady_left;
        let reserve = if steady_follows {
            self.plan.reserve
        } else {
            Duration::ZERO
        };
        let pool = free.saturating_sub(reserve);
        if self.unsteady_left > 0 {
            pool * 4 / 5
        } else {
            pool
        }
    }

    /// What one of the slow arms may take of the steady work that begins.
    pub(crate) fn steady_share(&self, slow_arms: u32) -> Duration {
        self.plan.arm.min(self.for_slow_arms() / slow_arms.max(1))
    }

    /// Puts a metric into the results, unless it is there.
    pub(crate) fn begin_metric(&mut self, metric: Metric) {
        if self.results.metric(&metric.id).is_none() {
            self.results.metrics.push(metric);
        }
    }

    /// Keeps a sample.
    pub(crate) fn record(&mut self, seat: usize, metric: &str, round: u32, sample: Sample) {
        if sample.void.is_none() {
            self.seats[seat].ran();
        }
        self.results.record(metric, round, sample);
    }

    /// Notes that an arm is given up for a metric.
    pub(crate) fn cut_off(
        &mut self,
        seat: usize,
        metric: &str,
        budget: Option<Duration>,
        reason: String,
    ) {
        let arm = self.seats[seat].id().to_owned();
        if self.results.cut_off(metric, &arm).is_none() {
            self.say(&format!("{arm} is cut off: {reason}"));
            self.results.cut_offs.push(CutOff {
                metric: metric.to_owned(),
                arm,
                budget_ns: budget.map(|budget| budget.as_nanos() as u64),
                reason,
            });
        }
    }

    /// A line for the user.
    pub(crate) fn say(&self, line: &str) {
        eprintln!("  {line}");
    }

    /// A line about what is left, at most every few seconds.
    pub(crate) fn progress(&mut self, what: &str) {
        const OFTEN: u64 = 5_000_000_000;
        if clock::now() - self.last_progress >= OFTEN {
            self.last_progress = clock::now();
            eprintln!("  {what}; {}", self.left());
        }
    }

    /// `12 benchmarks and at most 7 min 3 s left`.
    pub(crate) fn left(&self) -> String {
        let benches = match self.benches_left {
            0 => "the last benchmark".to_owned(),
            1 => "1 more benchmark".to_owned(),
            n => format!("{n} more benchmarks"),
        };
        format!("{benches}, at most {} left", clock::words(self.time_left()))
    }

    /// Ends every instance, kills what is left below the harness, and takes over what the seats know.
    pub(crate) fn end(&mut self) {
        for seat in &mut self.seats {
            match processes::interrupted() {
                Some(_) => seat.kill(),
                None => seat.end(),
            }
        }
        processes::end_all();
        take_status(&self.seats, &mut self.results);
        // The cgroups of the native arms go with them.
        self.seats.clear();
    }

    /// Asks an arm's first instance what it sees: that it has the CPUs that all arms have, and for a VM its kernel and the
    /// mitigations in force there.
    pub(crate) fn look_inside(&mut self, seat: usize, limit: Duration) -> Result<(), Trouble> {
        let arm = self.seats[seat].arm.about().clone();
        if !self.seats[seat].arm.asks_from_inside() {
            return Ok(());
        }
        let Some(session) = self.seats[seat].session() else {
            return Ok(());
        };
        if !self.seen.insert(arm.id.clone()) {
            return Ok(());
        }
        let threads = session.ask("threads 1", limit)?.checksum;
        let cpus = u64::from_str_radix(&threads, 16).unwrap_or(0);
        if cpus != u64::from(self.limits.cpus) {
            self.results.notes.push(format!(
                "{} sees {cpus} CPUs instead of {}.",
                arm.label, self.limits.cpus
            ));
        }
        if arm.kind == ArmKind::Vm {
            let release = session.show("/proc/sys/kernel/osrelease", limit)?;
            let version = session.show("/proc/sys/kernel/version", limit)?;
            // A kernel without sysfs entries for them, or without sysfs, has nothing to say.
            let mitigations = session
                .show("/sys/devices/system/cpu/vulnerabilities", limit)
                .unwrap_or_default();
            let split = mitigations.lines().filter_map(|line| line.split_once(": "));
            let print = &mut self.results.fingerprint;
            print
                .guest_kernels
                .insert(arm.id.clone(), format!("{release} {version}"));
            print.guest_mitigations.insert(
                arm.id,
                split
                    .map(|(name, state)| (name.to_owned(), state.to_owned()))
                    .collect(),
            );
        }
        Ok(())
    }

    /// Whether an arm is still in, and if not, why.
    pub(crate) fn why_out(&self, seat: usize) -> Option<String> {
        let seat = &self.seats[seat];
        seat.given_up().map(|reason| match &seat.status {
            ArmStatus::Ran => reason.to_owned(),
            ArmStatus::NotRun { .. } => format!("it did not start: {reason}"),
        })
    }
}

/// Puts into the results what the seats know of their arms.
pub(crate) fn take_status(seats: &[Seat], results: &mut Results) {
    for seat in seats {
        if let Some(entry) = results.arms.iter_mut().find(|arm| arm.id == seat.id())
            && entry.status != ArmStatus::Ran
        {
            entry.status = seat.status.clone();
        }
    }
}

/// A sample without anything but its place.
pub(crate) fn sample(arm: &str, instance: u32) -> Sample {
    Sample {
        arm: arm.to_owned(),
        instance,
        value: None,
        iterations: None,
        elapsed_ns: None,
        host_ns: None,
        void: None,
    }
}
