//! Starts: from just before the launcher is spawned to the first byte of output and to its end.

use std::path::Path;
use std::time::Duration;

use reports::results::{Direction, Group, Metric, Timeline, Unit, metric_id};

use crate::arm::{Pace, Purpose};
use crate::benchmark::{Ratios, Rounds};
use crate::clock;
use crate::evict;
use crate::harness::{Harness, sample};
use crate::launch::Trouble;
use crate::once::{Started, once, read_timeline};
use crate::order;
use crate::plan::{self, Budget, ROUNDS_FOR_A_VERDICT};
use crate::steady::time_up;

/// Timelines of an arm that starts quickly are taken from starts of their own, so many.
const TIMELINES: u32 = 3;

/// Whether the image is in the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Warm,
    Cold,
}

impl Condition {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }

    fn metrics(self) -> [Metric; 2] {
        let (ids, cache) = match self {
            Self::Warm => (
                [metric_id::START_WARM_FIRST_BYTE, metric_id::START_WARM_EXIT],
                "The image is in the page cache.",
            ),
            Self::Cold => (
                [metric_id::START_COLD_FIRST_BYTE, metric_id::START_COLD_EXIT],
                "Nothing of the image is in the page cache; the launcher and the guest kernel are.",
            ),
        };
        let ends = [
            (
                "to the first byte",
                "until the first byte of the workload's output reaches the harness",
            ),
            (
                "to exit",
                "until the launcher has exited with the workload's code",
            ),
        ];
        std::array::from_fn(|n| Metric {
            id: ids[n].to_owned(),
            group: Group::Start,
            unit: Unit::Nanoseconds,
            direction: Direction::LowerIsBetter,
            title: format!("Start, {}, {}", self.word(), ends[n].0),
            description: format!(
                "From just before the launcher is spawned {}; the workload prints one line and ends. {cache}",
                ends[n].1
            ),
        })
    }
}

/// One benchmark of starts while it runs.
pub(crate) struct Starts {
    condition: Condition,
    metrics: [Metric; 2],
    parts: Vec<Part>,
    rounds: u32,
    ratios: Ratios,
}

struct Part {
    seat: usize,
    budget: Budget,
    twice: Option<bool>,
    valid: u32,
    pace: Pace,
    round: Vec<f64>,
}

impl Starts {
    /// Tries every arm once, which warms caches and shows which arms cannot start at all, and shares out the time.
    pub(crate) fn prepare(harness: &mut Harness, condition: Condition) -> Self {
        // No resident instance may hold the image's pages or the CPU.
        for seat in &mut harness.seats {
            seat.end();
        }
        let metrics = condition.metrics();
        for metric in &metrics {
            harness.begin_metric(metric.clone());
        }
        let mut starts = Self {
            condition,
            metrics,
            parts: Vec::new(),
            rounds: 0,
            ratios: Ratios::default(),
        };
        let mut costs = Vec::new();
        for seat in 0..harness.seats.len() {
            let pace = harness.seats[seat].arm.pace();
            let budget = Budget::new(harness.plan.start_arm);
            let part = Part {
                seat,
                budget,
                twice: None,
                valid: 0,
                pace,
                round: Vec::new(),
            };
            match starts.learn_cost(harness, &part) {
                Ok(Some(cost)) => {
                    starts.parts.push(part);
                    costs.push(cost);
                }
                Ok(None) => {}
                Err(Trouble::Interrupted) => break,
                Err(trouble) => {
                    harness.seats[seat].failed(&trouble);
                    starts.cut_off(harness, &part, &trouble.to_string());
                }
            }
        }
        starts.share_out(harness, &costs);
        starts
    }

    /// Gives the quick arms two samples a round, and slow ones, the quickest first, one in each of as many rounds as a
    /// verdict needs, as long as there is time.
    fn share_out(&mut self, harness: &mut Harness, costs: &[Duration]) {
        let slow: Vec<usize> = (0..self.parts.len())
            .filter(|&at| self.parts[at].pace != Pace::Quick)
            .collect();
        // A tenth more, since no two starts take the same.
        let need = |at: usize| costs[at] * ROUNDS_FOR_A_VERDICT * 11 / 10;
        let needs: Vec<Duration> = slow.iter().map(|&at| need(at)).collect();
        let pool = harness.for_slow_arms();
        let shares = plan::share_out(pool, &needs);
        for part in &mut self.parts {
            part.twice = Some(true);
        }
        for (&at, share) in slow.iter().zip(shares) {
            self.parts[at].budget = Budget::new(share.unwrap_or(pool).min(harness.plan.start_arm));
            let fits = share.is_some_and(|share| share <= harness.plan.start_arm);
            self.parts[at].twice = fits.then_some(false);
            if !fits {
                let left = self.parts[at].budget.limit();
                let reason = format!(
                    "a start takes about {}, {ROUNDS_FOR_A_VERDICT} are needed, and there were {} for them",
                    clock::words(costs[at]),
                    clock::words(left)
                );
                self.cut_off(harness, &self.parts[at], &reason);
            }
        }
    }

    fn cut_off(&self, harness: &mut Harness, part: &Part, reason: &str) {
        // A quick arm is never given up for its budget.
        let budget = (part.pace != Pace::Quick).then_some(part.budget.limit());
        for metric in &self.metrics {
            harness.cut_off(part.seat, &metric.id, budget, reason.to_owned());
        }
    }

    /// What a start of the arm takes; `None` if it takes no part.
    fn learn_cost(&self, harness: &mut Harness, part: &Part) -> Result<Option<Duration>, Trouble> {
        let late = harness.time_left().is_zero().then(|| time_up(0));
        if let Some(reason) = late.or_else(|| harness.why_out(part.seat)) {
            self.cut_off(harness, part, &reason);
            return Ok(None);
        }
        let seat = &harness.seats[part.seat];
        if self.condition == Condition::Cold && seat.arm.image_files().is_empty() {
            let reason = "nothing of its own store can be put out of the page cache with certainty";
            self.cut_off(harness, part, reason);
            return Ok(None);
        }
        // What is known of a slow arm is not found out again.
        if let (false, Some(cost)) = (part.pace == Pace::Quick, seat.start_cost) {
            return Ok(Some(cost));
        }
        if part.pace == Pace::VerySlow
            && Pace::VERY_SLOW_START * ROUNDS_FOR_A_VERDICT > harness.plan.start_arm
        {
            let reason = format!(
                "a start takes more than {} on such a host, and this plan has no time for {ROUNDS_FOR_A_VERDICT}",
                clock::words(Pace::VERY_SLOW_START)
            );
            self.cut_off(harness, part, &reason);
            return Ok(None);
        }
        let limit = Self::limit(harness.plan.patience, part);
        let purpose = Purpose::Start { timeline: None };
        let launch = seat
            .arm
            .launch(&["hello"], &purpose)
            .map_err(Trouble::Answer)?;
        let cost = Duration::from_nanos(once(&launch, limit)?.exit);
        harness.seats[part.seat].start_cost = Some(cost);
        if part.pace == Pace::Quick && self.condition == Condition::Warm {
            self.timelines(harness, part.seat);
        }
        Ok(Some(cost))
    }

    fn limit(patience: Duration, part: &Part) -> Duration {
        match part.pace {
            Pace::Quick => patience,
            Pace::Slow => part.budget.limit().max(patience),
            Pace::VerySlow => part.budget.limit().max(patience),
        }
    }

    /// Timelines of starts that are not samples: writing the file takes its time too.
    fn timelines(&self, harness: &mut Harness, seat: usize) {
        for _ in 0..TIMELINES {
            let path = harness.scratch.join("timeline.json");
            let _ = std::fs::remove_file(&path);
            let purpose = Purpose::Start {
                timeline: Some(path.clone()),
            };
            let Ok(launch) = harness.seats[seat].arm.launch(&["hello"], &purpose) else {
                return;
            };
            match once(&launch, harness.plan.patience) {
                Ok(started) => self.keep_timeline(harness, seat, &path, started),
                Err(_) => return,
            }
        }
    }

    fn keep_timeline(&self, harness: &mut Harness, seat: usize, path: &Path, started: Started) {
        let Some(stages) = read_timeline(path, started.t0) else {
            return;
        };
        let instance = harness.seats[seat].count_instance();
        let arm = harness.seats[seat].id().to_owned();
        harness.results.timelines.push(Timeline {
            arm,
            instance,
            condition: self.condition.word().to_owned(),
            stages,
            first_byte_ns: Some(started.first_byte),
            exit_ns: Some(started.exit),
        });
    }

    fn sample(&mut self, harness: &mut Harness, at: usize, record: bool) -> Result<(), Trouble> {
        let (seat, pace) = (self.parts[at].seat, self.parts[at].pace);
        let limit = Self::limit(harness.plan.patience, &self.parts[at]);
        let mut cached = 0;
        if self.condition == Condition::Cold {
            for path in harness.seats[seat].arm.image_files() {
                cached += evict::drop_cached(&path)
                    .map_err(|error| Trouble::Answer(format!("{}: {error}", path.display())))?;
            }
        }
        // For a start of seconds, writing a timeline is nothing.
        let timeline =
            (pace != Pace::Quick && record).then(|| harness.scratch.join("timeline.json"));
        if let Some(path) = &timeline {
            let _ = std::fs::remove_file(path);
            let id = harness.seats[seat].id().to_owned();
            harness.progress(&format!(
                "start/{}: round {}, waiting for {id}",
                self.condition.word(),
                self.rounds + 1
            ));
        }
        let launch = harness.seats[seat]
            .arm
            .launch(
                &["hello"],
                &Purpose::Start {
                    timeline: timeline.clone(),
                },
            )
            .map_err(Trouble::Answer)?;
        let begun = clock::now();
        let started = once(&launch, limit)?;
        self.parts[at]
            .budget
            .spend(Duration::from_nanos(clock::now() - begun));
        if !record {
            return Ok(());
        }
        if let Some(path) = &timeline {
            self.keep_timeline(harness, seat, path, started);
        }
        let instance = harness.seats[seat].count_instance();
        let void =
            (cached > 0).then(|| format!("{cached} pages of the image stayed in the page cache"));
        if void.is_none() {
            self.parts[at].round.push(started.first_byte as f64);
        }
        for (metric, time) in [started.first_byte, started.exit].into_iter().enumerate() {
            let mut taken = sample(harness.seats[seat].id(), instance);
            taken.value = Some(time as f64);
            taken.void = void.clone();
            let metric = self.metrics[metric].id.clone();
            harness.record(seat, &metric, self.rounds, taken);
        }
        Ok(())
    }

    fn close_round(&mut self, harness: &mut Harness) {
        let mean = |part: &Part| {
            (!part.round.is_empty())
                .then(|| part.round.iter().sum::<f64>() / part.round.len() as f64)
        };
        let is_native = |part: &&Part| {
            harness.seats[part.seat].arm.about().kind == reports::results::ArmKind::Native
        };
        let native = self.parts.iter().find(is_native).and_then(mean);
        let lead = self
            .parts
            .iter()
            .filter(|part| !is_native(part))
            .find_map(mean);
        let lead = lead.or_else(|| self.parts.iter().filter(is_native).nth(1).and_then(mean));
        self.ratios.push(lead, native);
        for at in 0..self.parts.len() {
            let part = &mut self.parts[at];
            part.valid += u32::from(!part.round.is_empty());
            part.round.clear();
            if part.twice.is_none() || part.pace == Pace::Quick {
                continue;
            }
            let enough = part.valid >= ROUNDS_FOR_A_VERDICT;
            let spent = part.budget.is_exhausted();
            if enough {
                part.twice = None;
            } else if spent {
                part.twice = None;
                let reason = format!(
                    "its time for this metric was up after {} of {ROUNDS_FOR_A_VERDICT} rounds",
                    part.valid
                );
                self.cut_off(harness, &self.parts[at], &reason);
            }
        }
    }
}

impl Rounds for Starts {
    /// One whole round; `record` is false for the one that warms up.
    fn round(&mut self, harness: &mut Harness, record: bool) {
        let places: Vec<Option<bool>> = self
            .parts
            .iter()
            .map(|part| part.twice.filter(|_| record || part.pace == Pace::Quick))
            .collect();
        for at in order::of_round(self.rounds, &places) {
            if self.parts[at].twice.is_none() {
                continue;
            }
            match self.sample(harness, at, record) {
                Ok(()) => {}
                Err(Trouble::Interrupted) => return,
                Err(trouble) => {
                    harness.seats[self.parts[at].seat].failed(&trouble);
                    self.parts[at].twice = None;
                    self.cut_off(harness, &self.parts[at], &trouble.to_string());
                }
            }
        }
        if record {
            self.rounds += 1;
            self.close_round(harness);
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.ratios.last()
    }

    fn done(&self) -> u32 {
        self.rounds
    }

    fn finish(&mut self, harness: &mut Harness) {
        for part in &self.parts {
            if part.twice.is_some()
                && self.rounds < ROUNDS_FOR_A_VERDICT
                && harness.time_left().is_zero()
            {
                self.cut_off(harness, part, &time_up(self.rounds));
            }
        }
    }
}
