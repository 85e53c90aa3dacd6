//! One benchmark in criterion's hands.

use std::panic::{self, AssertUnwindSafe};

use criterion::{BenchmarkGroup, SamplingMode};

use crate::harness::Harness;
use crate::outcome;
use crate::plan::ROUNDS_FOR_A_VERDICT;
use crate::processes;
use crate::ratio::Ratio;

/// What criterion repeats.
pub(crate) trait Rounds {
    /// How many rounds there will be, as soon as criterion has decided.
    fn expect(&mut self, harness: &mut Harness, rounds: u32) {
        let _ = (harness, rounds);
    }

    /// One whole round. `record` is false for one that only warms up.
    fn round(&mut self, harness: &mut Harness, record: bool);

    /// The ratio of the last round that was recorded: the first isolated arm ÷ native. `None` if nothing gave one.
    fn ratio(&self) -> Option<f64>;

    /// Rounds that were recorded.
    fn done(&self) -> u32;

    /// As many rounds as there must be for any figure.
    fn enough(&self, _: &Harness) -> u32 {
        ROUNDS_FOR_A_VERDICT
    }

    /// All rounds are done, or the time is up.
    fn finish(&mut self, harness: &mut Harness);
}

/// The ratios that rounds gave.
#[derive(Debug, Default)]
pub(crate) struct Ratios {
    last: Option<f64>,
}

impl Ratios {
    /// Keeps a round's ratio.
    pub(crate) fn push(&mut self, lead: Option<f64>, native: Option<f64>) {
        if let (Some(lead), Some(native)) = (lead, native)
            && native > 0.0
        {
            self.last = Some(lead / native);
        }
    }

    /// The last one.
    pub(crate) fn last(&self) -> Option<f64> {
        self.last
    }
}

/// Runs the benchmark `name` of a group under criterion. `prepare` is called at the first iteration, so never for one that the
/// filter leaves out; without a harness nothing is measured, names are only listed.
pub(crate) fn run<R: Rounds>(
    group: &mut BenchmarkGroup<'_, Ratio>,
    name: &str,
    harness: &mut Option<Harness>,
    prepare: impl Fn(&mut Harness) -> R,
) {
    let mut rounds: Option<R> = None;
    let mut expected = false;
    group.sampling_mode(SamplingMode::Flat);
    let measured = panic::catch_unwind(AssertUnwindSafe(|| {
        group.bench_function(name, |bencher| {
            let Some(harness) = harness.as_mut() else {
                bencher.iter_custom(|iterations| iterations as f64);
                return;
            };
            // Criterion's first call warms up and tells it how long a round takes: preparing must not count.
            let warmed = rounds.is_some();
            let rounds = rounds.get_or_insert_with(|| {
                harness.next_bench();
                let prepared = prepare(harness);
                leave_if_asked(harness);
                prepared
            });
            bencher.iter_custom(|iterations| {
                if warmed && !expected {
                    expected = true;
                    // The same number of iterations in each of criterion's samples.
                    let samples = u64::from(ROUNDS_FOR_A_VERDICT);
                    rounds.expect(
                        harness,
                        u32::try_from(iterations * samples).unwrap_or(u32::MAX),
                    );
                }
                (0..iterations).map(|_| one(rounds, harness, warmed)).sum()
            });
        });
    }));
    if let Err(payload) = measured
        && !payload.is::<NothingToShow>()
    {
        panic::resume_unwind(payload);
    }
    if let (Some(mut rounds), Some(harness)) = (rounds, harness) {
        rounds.finish(harness);
        outcome::keep(harness);
    }
}

/// Thrown out of criterion's loop where there is no ratio that it could show: it must not print a figure for what was not
/// measured.
struct NothingToShow;

/// One iteration of criterion's: a round, and its ratio.
fn one<R: Rounds>(rounds: &mut R, harness: &mut Harness, warmed: bool) -> f64 {
    if !warmed {
        rounds.round(harness, false);
        leave_if_asked(harness);
        // Criterion asks only how long this took.
        return 1.0;
    }
    let enough = rounds.enough(harness);
    let over = harness.is_over(rounds.done(), enough);
    if !over {
        rounds.round(harness, true);
        leave_if_asked(harness);
    }
    // Where there have been enough rounds and the time is up, criterion gets the last ratio again; the results get nothing.
    match rounds.ratio() {
        Some(ratio) if !over || rounds.done() >= enough => ratio,
        _ => panic::resume_unwind(Box::new(NothingToShow)),
    }
}

fn leave_if_asked(harness: &mut Harness) {
    if processes::interrupted().is_some() {
        outcome::broken_off(harness);
    }
}
