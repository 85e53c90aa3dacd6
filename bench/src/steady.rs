//! Steady work: rounds of requests to resident workloads.

use std::time::Duration;

use reports::results::ArmKind;

use crate::arm::Pace;
use crate::benchmark::{Ratios, Rounds};
use crate::clock;
use crate::harness::{Harness, sample};
use crate::launch::Trouble;
use crate::order;
use crate::plan::{Allowance, Budget, ROUNDS_FOR_A_VERDICT};
use crate::seat::Seat;
use crate::session::Answer;
use crate::suite::{Sizes, Work};

/// Rounds of a slow arm that make up for ones whose samples are void.
const SPARE_ROUNDS: u32 = 2;
/// How often at least a number of iterations is tried.
const REPEATS: u32 = 4;
/// Arms whose numbers of iterations differ by no more than this factor get the same.
const ALIKE: u64 = 4;

/// One benchmark of steady work while it runs.
pub(crate) struct Steady {
    work: Work,
    metric: String,
    parts: Vec<Part>,
    checksum: Option<String>,
    /// Rounds that were recorded.
    rounds: u32,
    ratios: Ratios,
}

/// One arm's part in it.
struct Part {
    seat: usize,
    budget: Budget,
    /// `None`: it is out.
    twice: Option<bool>,
    iterations: u64,
    /// Rounds in which it gave a sample that counts.
    valid: u32,
    /// Rounds between one instance and the next.
    fresh_every: u32,
    /// Its samples of this round, nanoseconds for an iteration.
    round: Vec<f64>,
    pace: Pace,
}

impl Steady {
    /// Starts instances where needed, sets the work up in them and finds out how many iterations make a sample.
    pub(crate) fn prepare(harness: &mut Harness, work: Work) -> Self {
        let metric = work.id();
        if let Some(client) = work.client() {
            harness.enter_networks(client);
        }
        harness.begin_metric(work.metric(harness.sizes));
        let slow = harness
            .seats
            .iter()
            .filter(|seat| seat.places().is_some() && seat.arm.pace() != Pace::Quick)
            .count();
        let slow_budget = harness.steady_share(slow as u32);
        let mut steady = Self {
            work,
            metric,
            parts: Vec::new(),
            checksum: None,
            rounds: 0,
            ratios: Ratios::default(),
        };
        for seat in &mut harness.seats {
            if !seat.is_fresh_enough(harness.plan.slow_instances) {
                seat.end();
            }
        }
        for seat in 0..harness.seats.len() {
            if harness.seats[seat].places().is_none() {
                continue;
            }
            let pace = harness.seats[seat].arm.pace();
            // With less than this a slow arm is not worth the start.
            let least = if pace == Pace::Quick {
                Duration::ZERO
            } else {
                harness.plan.sample * 4 * ROUNDS_FOR_A_VERDICT
            };
            let late =
                harness.time_left().is_zero() || (pace != Pace::Quick && slow_budget < least);
            let late = late.then(|| "no time was left for it".to_owned());
            if let Some(reason) = late.or_else(|| harness.why_out(seat)) {
                harness.cut_off(seat, &steady.metric, None, reason);
                continue;
            }
            let limit = if pace == Pace::Quick {
                harness.plan.arm
            } else {
                slow_budget
            };
            let mut part = Part {
                seat,
                budget: Budget::new(limit),
                twice: None,
                iterations: 1,
                valid: 0,
                fresh_every: u32::MAX,
                round: Vec::new(),
                pace,
            };
            match steady.enter(harness, &mut part) {
                Ok(()) => steady.parts.push(part),
                Err(Trouble::Interrupted) => break,
                Err(trouble) => steady.give_up(harness, &part, &trouble),
            }
        }
        steady.align_iterations();
        steady
    }

    fn give_up(&self, harness: &mut Harness, part: &Part, trouble: &Trouble) {
        let budget = matches!(
            trouble,
            Trouble::TimedOut { .. } | Trouble::OverBudget { .. }
        );
        let budget = budget.then_some(part.budget.limit());
        harness.cut_off(part.seat, &self.metric, budget, trouble.to_string());
        if !matches!(trouble, Trouble::OverBudget { .. }) {
            // Whatever it is doing now, its answer would come too late for the next request.
            harness.seats[part.seat].kill();
        }
    }

    /// An arm's way in: an instance, the set-up, the number of iterations, and whether the budget will do.
    fn enter(&self, harness: &mut Harness, part: &mut Part) -> Result<(), Trouble> {
        let plan = harness.plan.clone();
        if !harness.seats[part.seat].is_fresh_enough(plan.slow_instances) {
            self.fresh(harness, part)?;
        }
        if let Some(reason) =
            self.too_long_to_set_up(&harness.seats[part.seat], harness.sizes, &part.budget)
        {
            harness.cut_off(part.seat, &self.metric, Some(part.budget.limit()), reason);
            return Ok(());
        }
        let begun = clock::now();
        let (iterations, cost) = self.calibrate(harness, part)?;
        part.budget
            .spend(Duration::from_nanos(clock::now() - begun));
        part.iterations = iterations;
        if self.work.is_first_touch() {
            harness.seats[part.seat].page_cost =
                Some(cost / iterations.min(u64::from(u32::MAX)) as u32);
        }
        part.twice = match part.budget.allows(cost, plan.rounds) {
            Allowance::Twice => Some(true),
            Allowance::Once => Some(false),
            Allowance::CutOff => {
                harness.cut_off(
                    part.seat,
                    &self.metric,
                    Some(part.budget.limit()),
                    format!(
                        "one sample takes {}, and {ROUNDS_FOR_A_VERDICT} are needed",
                        clock::words(cost)
                    ),
                );
                None
            }
        };
        Ok(())
    }

    /// Where a page or a copy is known to take long, so does filling arrays or a file: that is found out here, and not by
    /// waiting for it.
    fn too_long_to_set_up(&self, seat: &Seat, sizes: Sizes, budget: &Budget) -> Option<String> {
        let pages = (self.work.prepared_bytes(sizes) / 4096) as u32;
        let arrays = seat.page_cost.map(|page| ("arrays", page * pages));
        let file = seat
            .copy_cost
            .map(|mib| ("file", mib * self.work.filled_mib()));
        let (what, filling) = arrays
            .into_iter()
            .chain(file)
            .max_by_key(|(_, filling)| *filling)?;
        (filling > budget.left()).then(|| {
            format!(
                "filling its {what} would take about {}",
                clock::words(filling)
            )
        })
    }

    /// A new instance. What it costs a slow arm is part of its budget only where the plan wants a new one for every
    /// metric; an instance that serves all metrics is paid for once, by the run.
    fn fresh(&self, harness: &mut Harness, part: &mut Part) -> Result<(), Trouble> {
        let limit = match part.pace {
            Pace::Quick => harness.plan.patience,
            Pace::Slow | Pace::VerySlow => harness.plan.slow_start.min(harness.time_left()),
        };
        if part.pace != Pace::Quick {
            let id = harness.seats[part.seat].id().to_owned();
            harness.progress(&format!("{}: waiting for an instance of {id}", self.metric));
        }
        harness.seats[part.seat].restart(limit)?;
        harness.look_inside(part.seat, limit)
    }

    /// Sets up, then asks for ever more iterations until a sample takes as long as planned, and for about that many a few
    /// times over, which warms caches. Returns the iterations and what a sample costs.
    fn calibrate(&self, harness: &mut Harness, part: &Part) -> Result<(u64, Duration), Trouble> {
        let target = (harness.plan.sample * self.work.longer()).as_nanos() as u64;
        let limit = part.budget.left();
        let deadline = clock::now() + limit.as_nanos() as u64;
        let patience = harness.plan.patience;
        // A request is waited for beyond the budget, since to end an instance may cost more than to be patient.
        let ask = |harness: &mut Harness, n: u64| {
            let left = Duration::from_nanos(deadline.saturating_sub(clock::now()));
            let answer = self.ask(harness, part.seat, n, left + patience)?;
            if n == 1 && self.work.is_copy_of_a_mib() {
                harness.seats[part.seat].copy_cost = Some(Duration::from_nanos(answer.elapsed));
            }
            match clock::now() > deadline {
                true => Err(Trouble::OverBudget {
                    limit: part.budget.limit(),
                }),
                false => Ok(answer),
            }
        };
        ask(harness, 0)?;
        let (mut n, mut cost) = (1, Duration::MAX);
        // The quickest of a few counts: what else the machine does can only add to it.
        let mut each = u64::MAX;
        for repeat in 0.. {
            let answer = ask(harness, n)?;
            each = each.min((answer.elapsed / n).max(1));
            cost = cost.min(Duration::from_nanos(answer.host()));
            let wanted = (target / each).max(1);
            if wanted > n.saturating_mul(2) {
                cost = Duration::MAX;
                n = wanted.min(n.saturating_mul(50));
            } else if repeat >= REPEATS || (part.pace != Pace::Quick && answer.elapsed > target * 4)
            {
                n = wanted;
                break;
            }
        }
        Ok((n, cost))
    }

    fn request(&self, harness: &Harness, seat: usize, iterations: u64) -> Result<String, Trouble> {
        let places = harness.seats[seat].places();
        let places =
            places.ok_or_else(|| Trouble::Answer("it runs no resident workload".to_owned()))?;
        Ok(self.work.request(iterations, &places, harness.sizes))
    }

    fn ask(
        &self,
        harness: &mut Harness,
        seat: usize,
        iterations: u64,
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let request = self.request(harness, seat, iterations)?;
        harness.seats[seat]
            .session()
            .ok_or_else(gone)?
            .ask(&request, limit)
    }

    /// Arms of about the same speed get the same number of iterations, so that what a request costs beside its iterations
    /// weighs alike on them.
    fn align_iterations(&mut self) {
        let Some(reference) = self.parts.first().map(|part| part.iterations) else {
            return;
        };
        for part in &mut self.parts {
            if (reference / ALIKE..=reference.saturating_mul(ALIKE)).contains(&part.iterations) {
                part.iterations = reference;
            }
        }
    }

    /// Fresh instances for the arms that are due. An instance gets the pages that were freed last, and pages are not alike
    /// (below a hypervisor, some have huge pages behind them and some have not): were each replaced by itself, every
    /// instance of an arm would inherit the memory of the one before it, and the luck of the first would pass for a
    /// property of the arm. So all that are due end first, and each time another arm starts first.
    fn renew(&mut self, harness: &mut Harness, round: u32) {
        let mut due: Vec<usize> = (0..self.parts.len())
            .filter(|&at| {
                let part = &self.parts[at];
                part.twice.is_some() && round > 0 && round.is_multiple_of(part.fresh_every)
            })
            .collect();
        let Some(&first) = due.first() else { return };
        for &at in &due {
            harness.seats[self.parts[at].seat].end();
        }
        let generation = (round / self.parts[first].fresh_every) as usize;
        order::turn(&mut due, generation);
        for at in due {
            self.replace(harness, at);
        }
    }

    /// A fresh instance in the middle of a metric, with the work set up and warm.
    fn replace(&mut self, harness: &mut Harness, at: usize) {
        let mut part = std::mem::replace(&mut self.parts[at], Part::out());
        let begun = clock::now();
        let iterations = part.iterations;
        let warm = self.fresh(harness, &mut part).and_then(|()| {
            self.ask(
                harness,
                part.seat,
                iterations,
                part.budget.left().max(harness.plan.patience),
            )
        });
        part.budget
            .spend(Duration::from_nanos(clock::now() - begun));
        if let Err(trouble) = warm
            && !matches!(trouble, Trouble::Interrupted)
        {
            self.give_up(harness, &part, &trouble);
            part.twice = None;
        }
        self.parts[at] = part;
    }

    fn sample(
        &mut self,
        harness: &mut Harness,
        at: usize,
        round: Option<u32>,
    ) -> Result<(), Trouble> {
        let (seat, iterations) = (self.parts[at].seat, self.parts[at].iterations);
        if self.parts[at].twice.is_none() {
            return Ok(());
        }
        // A sample has been seen to fit; one that takes three times what is left has gone wrong.
        let limit = self.parts[at].budget.left() * 3 + harness.plan.patience;
        let begun = clock::now();
        let request = self.request(harness, seat, iterations)?;
        let session = harness.seats[seat].session().ok_or_else(gone)?;
        let (answer, clock_fault) = session.ask_by_the_clock(&request, limit)?;
        self.parts[at]
            .budget
            .spend(Duration::from_nanos(clock::now() - begun));
        let Some(round) = round else { return Ok(()) };
        let expected = self.checksum.get_or_insert_with(|| answer.checksum.clone());
        let wrong = (*expected != answer.checksum).then(|| {
            format!(
                "a wrong result: checksum {} instead of {expected}",
                answer.checksum
            )
        });
        let mut taken = sample(harness.seats[seat].id(), harness.seats[seat].instance());
        taken.value = self.work.value(iterations, answer.elapsed, harness.sizes);
        taken.iterations = Some(iterations);
        taken.elapsed_ns = Some(answer.elapsed);
        taken.host_ns = Some(answer.host());
        taken.void = wrong.or(clock_fault);
        if taken.value.is_none() && taken.void.is_none() {
            taken.void = Some("it took no time at all".to_owned());
        }
        if taken.void.is_none() {
            self.parts[at]
                .round
                .push(answer.elapsed as f64 / iterations as f64);
        }
        harness.record(seat, &self.metric, round, taken);
        Ok(())
    }

    /// Takes the round's ratio, and lets arms go whose budget is used up.
    fn close_round(&mut self, harness: &mut Harness) {
        let mean = |part: &Part| {
            (!part.round.is_empty())
                .then(|| part.round.iter().sum::<f64>() / part.round.len() as f64)
        };
        let is_native = |part: &&Part| harness.seats[part.seat].arm.about().kind == ArmKind::Native;
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
            if part.twice.is_none() {
                continue;
            }
            let (valid, seat, limit) = (part.valid, part.seat, part.budget.limit());
            if part.pace == Pace::Quick {
                continue;
            }
            // One that can be sampled but once a round has done enough with a few more than a verdict needs.
            let enough = part.twice == Some(false) && valid >= ROUNDS_FOR_A_VERDICT + SPARE_ROUNDS;
            if !enough && !part.budget.is_exhausted() {
                continue;
            }
            part.twice = None;
            if valid < ROUNDS_FOR_A_VERDICT {
                let reason = format!(
                    "its time for this metric was up after {valid} of {ROUNDS_FOR_A_VERDICT} rounds"
                );
                harness.cut_off(seat, &self.metric, Some(limit), reason);
            }
        }
    }
}

impl Rounds for Steady {
    /// Spreads each arm's instances evenly over the rounds; where an instance's pages decide, each round has new ones.
    fn expect(&mut self, harness: &mut Harness, rounds: u32) {
        let placed = self.work.depends_on_pages();
        for part in &mut self.parts {
            if placed && part.pace == Pace::Quick {
                part.fresh_every = 1;
                continue;
            }
            let seat = &harness.seats[part.seat];
            let instances =
                seat.instances_a_metric(harness.plan.instances, harness.plan.slow_instances);
            part.fresh_every = match instances {
                1 => u32::MAX,
                _ => rounds.div_ceil(instances).max(1),
            };
        }
    }

    /// One whole round. `record` is false for the round that only warms up, which leaves out the arms that are slow.
    fn round(&mut self, harness: &mut Harness, record: bool) {
        let places: Vec<Option<bool>> = self
            .parts
            .iter()
            .map(|part| part.twice.filter(|_| record || part.pace == Pace::Quick))
            .collect();
        let round = self.rounds;
        if record {
            self.renew(harness, round);
        }
        for at in order::of_round(round, &places) {
            match self.sample(harness, at, record.then_some(round)) {
                Ok(()) => {}
                Err(Trouble::Interrupted) => return,
                Err(trouble) => {
                    self.give_up(harness, &self.parts[at], &trouble);
                    self.parts[at].twice = None;
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

    /// The metric is done: its instances have served.
    fn finish(&mut self, harness: &mut Harness) {
        for part in &self.parts {
            harness.seats[part.seat].serve();
            if part.twice.is_some()
                && self.rounds < ROUNDS_FOR_A_VERDICT
                && harness.time_left().is_zero()
            {
                harness.cut_off(part.seat, &self.metric, None, time_up(self.rounds));
            }
        }
    }

    fn done(&self) -> u32 {
        self.rounds
    }
}

/// Why an arm is cut off that has done nothing wrong.
pub(crate) fn time_up(rounds: u32) -> String {
    format!("the time of the whole run was up after {rounds} of {ROUNDS_FOR_A_VERDICT} rounds")
}

fn gone() -> Trouble {
    Trouble::Answer("its instance has gone".to_owned())
}

impl Part {
    fn out() -> Self {
        Self {
            seat: 0,
            budget: Budget::new(Duration::ZERO),
            twice: None,
            iterations: 1,
            valid: 0,
            fresh_every: u32::MAX,
            round: Vec::new(),
            pace: Pace::Quick,
        }
    }
}
