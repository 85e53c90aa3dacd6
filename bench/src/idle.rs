//! Memory of idle instances: points for 1, 2, 4, 8 of them, through which the report lays a line. Its slope is what one
//! instance more takes, with what they share counted once.

use std::time::Duration;

use reports::results::{ArmKind, MEMORY_PER_INSTANCE, MemoryPoint, MemorySeries};

use crate::arm::{Pace, Purpose};
use crate::benchmark::{Ratios, Rounds};
use crate::clock;
use crate::harness::Harness;
use crate::launch::{Running, Trouble};
use crate::plan::Budget;
use crate::processes;
use crate::session::Session;
use crate::steady::time_up;

/// An instance that has just said `ready` still frees and faults; after this its memory stands still.
const SETTLE: Duration = Duration::from_millis(150);

/// One benchmark of idle memory while it runs.
pub(crate) struct Idle {
    parts: Vec<Part>,
    rounds: u32,
    ratios: Ratios,
}

struct Part {
    seat: usize,
    pace: Pace,
    budget: Budget,
    series: Vec<MemoryPoint>,
    /// What the last slope took.
    cost: Option<Duration>,
    out: bool,
}

/// Numbers of instances: doubling for arms that start quickly, one by one for those that do not.
fn counts(pace: Pace) -> &'static [u32] {
    match pace {
        Pace::Quick => &[1, 2, 4, 8],
        Pace::Slow | Pace::VerySlow => &[1, 2, 3],
    }
}

impl Idle {
    /// Ends all resident instances, so that nothing else shares pages with the ones that are counted.
    pub(crate) fn prepare(harness: &mut Harness) -> Self {
        for seat in &mut harness.seats {
            seat.end();
        }
        let mut pool = harness.for_slow_arms();
        let mut parts = Vec::new();
        for seat in 0..harness.seats.len() {
            if harness.seats[seat].places().is_none() {
                continue;
            }
            let late = harness.time_left().is_zero().then(|| time_up(0));
            if let Some(reason) = late.or_else(|| harness.why_out(seat)) {
                harness.cut_off(seat, MEMORY_PER_INSTANCE, None, reason);
                continue;
            }
            let pace = harness.seats[seat].arm.pace();
            let mut limit = harness.plan.idle_arm;
            if pace != Pace::Quick {
                limit = limit.min(pool);
                let instances = counts(pace).last().copied().unwrap_or(1);
                let guess = (pace == Pace::VerySlow).then_some(Pace::VERY_SLOW_START);
                let start = harness.seats[seat].start_cost.or(guess);
                if let Some(cost) = start.map(|cost| cost * instances)
                    && cost > limit
                {
                    let reason = format!("{instances} starts take about {}", clock::words(cost));
                    harness.cut_off(seat, MEMORY_PER_INSTANCE, Some(limit), reason);
                    continue;
                }
                pool -= limit;
            }
            parts.push(Part {
                seat,
                pace,
                budget: Budget::new(limit),
                series: Vec::new(),
                cost: None,
                out: false,
            });
        }
        Self {
            parts,
            rounds: 0,
            ratios: Ratios::default(),
        }
    }
}

impl Rounds for Idle {
    /// One slope of every arm that is still in; the arms take turns at being first.
    fn round(&mut self, harness: &mut Harness, record: bool) {
        let number = self.parts.len().max(1);
        let mut slopes = vec![None; self.parts.len()];
        for turn in 0..self.parts.len() {
            let at = (turn + self.rounds as usize) % number;
            let part = &mut self.parts[at];
            let too_long = part.cost.is_some_and(|cost| cost > part.budget.left());
            if part.out || too_long || (!record && part.pace != Pace::Quick) {
                continue;
            }
            let begun = clock::now();
            match climb(harness, part) {
                Ok(points) => {
                    slopes[at] = slope(&points);
                    if record {
                        part.series.extend(points);
                        harness.seats[part.seat].ran();
                    }
                }
                Err(Trouble::Interrupted) => return,
                Err(trouble) => {
                    part.out = true;
                    harness.seats[part.seat].failed(&trouble);
                    let limit = part.budget.limit();
                    harness.cut_off(
                        part.seat,
                        MEMORY_PER_INSTANCE,
                        Some(limit),
                        trouble.to_string(),
                    );
                }
            }
            let took = Duration::from_nanos(clock::now() - begun);
            part.budget.spend(took);
            part.cost = Some(took);
        }
        if !record {
            return;
        }
        self.rounds += 1;
        let is_native =
            |at: &usize| harness.seats[self.parts[*at].seat].arm.about().kind == ArmKind::Native;
        let every = 0..self.parts.len();
        let native = every.clone().find(is_native).and_then(|at| slopes[at]);
        let lead = every
            .clone()
            .filter(|at| !is_native(at))
            .find_map(|at| slopes[at]);
        self.ratios.push(lead, native);
    }

    fn ratio(&self) -> Option<f64> {
        self.ratios.last()
    }

    fn done(&self) -> u32 {
        self.rounds
    }

    // Each round is a whole line through four points.
    fn enough(&self, harness: &Harness) -> u32 {
        harness.plan.idle_rounds
    }

    /// Hands the points to the results.
    fn finish(&mut self, harness: &mut Harness) {
        for part in &mut self.parts {
            let points = std::mem::take(&mut part.series);
            if !points.is_empty() && !part.out {
                let arm = harness.seats[part.seat].id().to_owned();
                harness.results.memory.push(MemorySeries { arm, points });
            }
        }
    }
}

/// Starts one instance after the other and measures at each of the counts.
fn climb(harness: &mut Harness, part: &mut Part) -> Result<Vec<MemoryPoint>, Trouble> {
    let limit = match part.pace {
        Pace::Quick => harness.plan.patience,
        _ => harness.plan.slow_start,
    };
    let mut up: Vec<Session> = Vec::new();
    let mut points = Vec::new();
    let result = (|| {
        for &count in counts(part.pace) {
            // All that are still missing at once: slow ones start side by side.
            let mut starting: Vec<Running> = Vec::new();
            while up.len() + starting.len() < count as usize {
                let arm = &harness.seats[part.seat].arm;
                let launch = arm
                    .launch(&["serve"], &Purpose::Resident)
                    .map_err(Trouble::Answer)?;
                starting.push(launch.spawn(true)?);
                harness.seats[part.seat].count_instance();
            }
            if part.pace != Pace::Quick {
                let id = harness.seats[part.seat].id().to_owned();
                harness.progress(&format!(
                    "idle memory: waiting for instance {count} of {id}"
                ));
            }
            for running in starting {
                up.push(Session::begin(running, limit)?);
            }
            std::thread::sleep(SETTLE);
            // Everything below the harness: launchers, monitors, and what they have left behind.
            let found = processes::footprint(&processes::descendants(std::process::id() as i32));
            points.push(MemoryPoint {
                instances: count,
                pss_bytes: found.pss,
                kernel_bytes: found.kernel,
            });
        }
        Ok(())
    })();
    let ended = end(up);
    result.and(ended).map(|()| points)
}

/// Ends all of them; the first failure counts.
fn end(sessions: Vec<Session>) -> Result<(), Trouble> {
    let mut result = Ok(());
    for session in sessions {
        let ended = session.end();
        if result.is_ok() {
            result = ended;
        }
    }
    let ours = Vec::new();
    processes::reap_orphans(&ours);
    result
}

/// The least-squares slope, bytes an instance. (The report works it out again, with an interval.)
fn slope(points: &[MemoryPoint]) -> Option<f64> {
    let points: Vec<(f64, f64)> = points
        .iter()
        .map(|point| (f64::from(point.instances), point.bytes() as f64))
        .collect();
    reports::stats::least_squares(&points).map(|line| line.slope)
}
