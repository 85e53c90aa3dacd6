//! Medians, intervals and lines: all the arithmetic between raw samples and figures.
//!
//! **What a ratio is.** A round gives one ratio: the geometric mean of an arm's samples in that round over the
//! geometric mean of the other arm's samples in the same round. Order A B B A makes a steady drift cancel in
//! it. The figure is the *median* over rounds, because one disturbed round (another tenant of the disk) must
//! not move it; the price is an interval about a quarter wider than a mean's on clean data.
//!
//! **What an interval is.** Rounds are drawn with replacement [`RESAMPLES`] times, and the interval is read
//! off the percentiles of the medians. Plain percentiles hold the truth too rarely with 10 to 30 rounds (91 to
//! 94 % of the time in simulation, for a nominal 95 %), so the tails are taken further out as Hesterberg
//! recommends ("What Teachers Should Know About the Bootstrap", 2015, section 5.2): at Φ(t·√(n/(n−1))), t being
//! Student's quantile for n−1 degrees of freedom. That held it in 94 to 97 % for normal, heavy-tailed,
//! skewed and contaminated rounds; a test keeps it so.

mod random;
mod student;

pub use random::Rng;
pub use student::{normal_cdf, t_quantile};

/// How often rounds are drawn anew. The 2.5 % point is then the 100th smallest of 4000, with a standard
/// error of a tenth of its own tail.
pub const RESAMPLES: usize = 4000;

/// The confidence that intervals are given at.
pub const LEVEL: f64 = 0.95;

/// A range that holds the true value with a stated confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether the whole interval lies in `low..=high`.
    pub fn within(&self, low: f64, high: f64) -> bool {
        self.low >= low && self.high <= high
    }

    /// The same interval with both ends through a rising function.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            low: f(self.low),
            high: f(self.high),
        }
    }
}

/// The middle value; the mean of the two middle ones for an even number. `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The `q`-quantile (0 ≤ q ≤ 1), interpolated between order statistics (type 7 of Hyndman and Fan, which R
/// and numpy use). `None` without values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, q)
}

fn quantile_of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    let part = at - below as f64;
    // Written so that equal neighbours give exactly themselves, infinities aside.
    Some(sorted[below] + part * (sorted[above] - sorted[below]))
}

/// The median of the distances from the median: a spread that outliers do not move. Not scaled.
pub fn mad(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let distances: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
    median(&distances)
}

/// The geometric mean. `None` without values or when one is not positive and finite.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|v| !(v.is_finite() && *v > 0.0)) {
        return None;
    }
    Some((values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// The steps of the empirical distribution function: sorted values, each with the share of all values that
/// are at most as large. Equal values make one step.
pub fn ecdf(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let total = sorted.len() as f64;
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (index, value) in sorted.into_iter().enumerate() {
        let share = (index + 1) as f64 / total;
        match steps.last_mut() {
            Some(step) if step.0 == value => step.1 = share,
            _ => steps.push((value, share)),
        }
    }
    steps
}

/// Medians of many drawings of the same rounds, from which intervals of any confidence are read.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    medians: Vec<f64>,
    rounds: usize,
}

impl Bootstrap {
    /// Draws whole rounds with replacement and takes the median of all values in the rounds drawn. `None`
    /// without rounds, or when a round is empty.
    pub fn of_rounds(rounds: &[Vec<f64>], seed: u64) -> Option<Self> {
        if rounds.is_empty() || rounds.iter().any(Vec::is_empty) {
            return None;
        }
        let mut rng = Rng::new(seed);
        let mut drawn = Vec::new();
        let mut medians = Vec::with_capacity(RESAMPLES);
        for _ in 0..RESAMPLES {
            drawn.clear();
            for _ in 0..rounds.len() {
                drawn.extend_from_slice(&rounds[rng.below(rounds.len())]);
            }
            drawn.sort_unstable_by(f64::total_cmp);
            medians.extend(quantile_of_sorted(&drawn, 0.5));
        }
        medians.sort_unstable_by(f64::total_cmp);
        Some(Self {
            medians,
            rounds: rounds.len(),
        })
    }

    /// The same for one value a round.
    pub fn of_values(values: &[f64], seed: u64) -> Option<Self> {
        let rounds: Vec<Vec<f64>> = values.iter().map(|v| vec![*v]).collect();
        Self::of_rounds(&rounds, seed)
    }

    /// The interval at `level` (0.95 for 95 %). `None` with fewer than two rounds, which say nothing of their
    /// spread.
    pub fn interval(&self, level: f64) -> Option<Interval> {
        if self.rounds < 2 {
            return None;
        }
        let n = self.rounds as f64;
        let t = t_quantile(1.0 - (1.0 - level) / 2.0, n - 1.0);
        let tail = normal_cdf(-t * (n / (n - 1.0)).sqrt());
        Some(Interval {
            low: quantile_of_sorted(&self.medians, tail)?,
            high: quantile_of_sorted(&self.medians, 1.0 - tail)?,
        })
    }
}

/// A least-squares line `y = intercept + slope · x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Rise of y for one more x.
    pub slope: f64,
    /// y at x = 0.
    pub intercept: f64,
    /// 95 % interval of the slope by Student's t; `None` with two points, which leave nothing to judge it by.
    pub slope_interval: Option<Interval>,
}

/// Fits a line through (x, y). `None` unless there are two different x.
pub fn least_squares(points: &[(f64, f64)]) -> Option<Line> {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|p| p.0).sum::<f64>() / n;
    let mean_y = points.iter().map(|p| p.1).sum::<f64>() / n;
    let sxx: f64 = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum();
    if points.len() < 2 || sxx <= 0.0 || !sxx.is_finite() || !sxy.is_finite() {
        return None;
    }
    let slope = sxy / sxx;
    let intercept = mean_y - slope * mean_x;
    let freedom = n - 2.0;
    let slope_interval = (freedom >= 1.0).then(|| {
        let residual: f64 = points
            .iter()
            .map(|p| (p.1 - intercept - slope * p.0).powi(2))
            .sum();
        let error = (residual / freedom / sxx).sqrt();
        let reach = t_quantile(1.0 - (1.0 - LEVEL) / 2.0, freedom) * error;
        Interval {
            low: slope - reach,
            high: slope + reach,
        }
    });
    Some(Line {
        slope,
        intercept,
        slope_interval,
    })
}

#[cfg(test)]
mod tests;
