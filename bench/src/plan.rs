//! How much is measured, and how long that may take: decided, and said, before the run.

use std::time::Duration;

use crate::error::{Error, Result};

/// Rounds below which the report decides nothing (measurement.md).
pub(crate) const ROUNDS_FOR_A_VERDICT: u32 = 10;

/// One of the three plans. All times are upper bounds, not wishes: what does not fit is cut off.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// `quick`, `default` or `full`.
    pub(crate) name: &'static str,
    /// The whole run.
    pub(crate) run: Duration,
    /// What a benchmark's rounds should take together where no arm is slow: criterion fills it with as many as fit, and at
    /// least as many as a verdict needs.
    pub(crate) measurement: Duration,
    /// What a benchmark takes of the run's time besides slow arms, its preparation included: an estimate.
    pub(crate) bench: Duration,
    /// What starts and idle memory, which come first, leave of the run's time to slow arms in steady work.
    pub(crate) reserve: Duration,
    /// Rounds of one metric of steady work that the budgets reckon with.
    pub(crate) rounds: u32,
    /// Rounds of starts.
    pub(crate) start_rounds: u32,
    /// How long one sample of steady work should take.
    pub(crate) sample: Duration,
    /// Fresh instances of an arm that starts quickly, for each metric.
    pub(crate) instances: u32,
    /// The same for an arm that takes seconds to start; 0: one instance serves all metrics.
    pub(crate) slow_instances: u32,
    /// A quick arm that takes longer than this to start or to answer has hung.
    pub(crate) patience: Duration,
    /// A slow arm that takes longer than this to start is given up.
    pub(crate) slow_start: Duration,
    /// What one arm may take of one metric of steady work, set-up included.
    pub(crate) arm: Duration,
    /// What one arm may take of one kind of start.
    pub(crate) start_arm: Duration,
    /// What one arm may take of the memory of idle instances.
    pub(crate) idle_arm: Duration,
    /// Repetitions of the memory slope.
    pub(crate) idle_rounds: u32,
}

impl Plan {
    /// Under 4 minutes: few samples, and slow virtual machines are cut off.
    pub(crate) fn quick() -> Self {
        Self {
            name: "quick",
            run: Duration::from_secs(4 * 60),
            measurement: Duration::from_millis(1500),
            bench: Duration::from_secs(3),
            reserve: Duration::from_secs(50),
            rounds: 10,
            start_rounds: 12,
            sample: Duration::from_millis(5),
            instances: 2,
            slow_instances: 0,
            patience: Duration::from_secs(20),
            slow_start: Duration::from_secs(45),
            arm: Duration::from_secs(4),
            start_arm: Duration::from_secs(30),
            idle_arm: Duration::from_secs(12),
            idle_rounds: 3,
        }
    }

    /// Under 15 minutes: a verdict on everything but starts of virtual machines that take very long.
    pub(crate) fn default_plan() -> Self {
        Self {
            name: "default",
            run: Duration::from_secs(15 * 60),
            measurement: Duration::from_millis(5000),
            bench: Duration::from_secs(8),
            reserve: Duration::from_secs(200),
            rounds: 24,
            start_rounds: 30,
            sample: Duration::from_millis(10),
            instances: 4,
            slow_instances: 1,
            patience: Duration::from_secs(20),
            slow_start: Duration::from_secs(120),
            arm: Duration::from_secs(12),
            start_arm: Duration::from_secs(320),
            idle_arm: Duration::from_secs(90),
            idle_rounds: 10,
        }
    }

    /// About an hour: narrower intervals, and ten starts of every arm.
    pub(crate) fn full() -> Self {
        Self {
            name: "full",
            run: Duration::from_secs(70 * 60),
            measurement: Duration::from_millis(25_000),
            bench: Duration::from_secs(35),
            reserve: Duration::from_secs(1200),
            rounds: 60,
            start_rounds: 100,
            sample: Duration::from_millis(20),
            instances: 6,
            slow_instances: 2,
            patience: Duration::from_secs(20),
            slow_start: Duration::from_secs(240),
            arm: Duration::from_secs(60),
            start_arm: Duration::from_secs(700),
            idle_arm: Duration::from_secs(300),
            idle_rounds: 20,
        }
    }

    /// The plan that `PLIMSOLL_PLAN` names; the default one when it is not set.
    ///
    /// # Errors
    /// [`Error::Setting`] for any other name.
    pub(crate) fn from_environment() -> Result<Self> {
        match std::env::var("PLIMSOLL_PLAN").unwrap_or_default().as_str() {
            "" | "default" => Ok(Self::default_plan()),
            "quick" => Ok(Self::quick()),
            "full" => Ok(Self::full()),
            other => Err(Error::Setting {
                name: "PLIMSOLL_PLAN",
                value: other.to_owned(),
                expected: "it is quick, default or full",
            }),
        }
    }
}

/// The time of one arm in one metric: how often it can be sampled, and when it must be given up.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    limit: Duration,
    spent: Duration,
}

/// What a budget allows an arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Two samples a round: there and back.
    Twice,
    /// One sample a round, since two would not fit.
    Once,
    /// Not even one sample in each of the rounds that a verdict needs: it is given up now, since figures would come to
    /// nothing.
    CutOff,
}

impl Budget {
    /// A budget of `limit` of which nothing is spent.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            spent: Duration::ZERO,
        }
    }

    /// Takes `time` off.
    pub(crate) fn spend(&mut self, time: Duration) {
        self.spent += time;
    }

    /// What is left.
    pub(crate) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.spent)
    }

    /// The whole of it.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// What can be done in what is left, if a sample takes `sample` and `rounds` are wanted. A quarter more must be there
    /// for the fewest, since samples are not all alike.
    pub(crate) fn allows(&self, sample: Duration, rounds: u32) -> Allowance {
        let left = self.left();
        if left >= sample * rounds * 2 {
            Allowance::Twice
        } else if left >= sample * rounds.min(ROUNDS_FOR_A_VERDICT) * 5 / 4 {
            Allowance::Once
        } else {
            Allowance::CutOff
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.spent >= self.limit
    }
}

/// Shares out `pool` among slow arms that need so much each, the cheapest first, so that one which would take everything
/// does not keep the others from being measured. `None` for those that the pool does not reach.
pub(crate) fn share_out(mut pool: Duration, needs: &[Duration]) -> Vec<Option<Duration>> {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&arm| needs[arm]);
    let mut shares = vec![None; needs.len()];
    for arm in order {
        if let Some(left) = pool.checked_sub(needs[arm]) {
            pool = left;
            shares[arm] = Some(needs[arm]);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_plan_has_enough_rounds_for_a_verdict() {
        for plan in [Plan::quick(), Plan::default_plan(), Plan::full()] {
            assert!(
                plan.rounds >= ROUNDS_FOR_A_VERDICT && plan.start_rounds >= ROUNDS_FOR_A_VERDICT
            );
            assert!(plan.arm < plan.run && plan.start_arm < plan.run);
        }
    }

    #[test]
    fn an_arm_that_cannot_reach_a_verdict_is_cut_off_at_once() {
        let mut budget = Budget::new(20 * SECOND);
        assert_eq!(budget.allows(SECOND, 10), Allowance::Twice);
        assert_eq!(budget.allows(SECOND * 3 / 2, 10), Allowance::Once);
        assert_eq!(budget.allows(2 * SECOND, 10), Allowance::CutOff);
        budget.spend(15 * SECOND);
        assert_eq!(budget.allows(SECOND, 10), Allowance::CutOff);
        assert!(!budget.is_exhausted());
        budget.spend(5 * SECOND);
        assert!(budget.is_exhausted());
        assert_eq!(budget.left(), Duration::ZERO);
    }

    #[test]
    fn the_cheapest_arms_are_served_first() {
        assert_eq!(
            share_out(20 * SECOND, &[250 * SECOND, 12 * SECOND, 5 * SECOND]),
            [None, Some(12 * SECOND), Some(5 * SECOND)]
        );
        assert_eq!(share_out(Duration::ZERO, &[SECOND]), [None]);
    }

    #[test]
    fn more_rounds_than_a_verdict_needs_are_given_up_before_the_arm_is() {
        let budget = Budget::new(20 * SECOND);
        assert_eq!(budget.allows(SECOND * 3 / 2, 100), Allowance::Once);
    }
}
