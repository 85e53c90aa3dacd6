//! Axes: where a value lies on a drawing, and which values are written along it.

/// A logarithmic axis from `from` to `to` pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decades {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Decades {
    /// An axis that holds all positive values among `values` with a little room; `None` without any.
    pub(crate) fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Option<Self> {
        let (low, high) = values
            .filter(|v| v.is_finite() && *v > 0.0)
            .fold((f64::INFINITY, 0.0f64), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        if high <= 0.0 {
            return None;
        }
        let (mut low, mut high) = (low.log10(), high.log10());
        let room = ((high - low) * 0.05).max(0.05);
        low -= room;
        high += room;
        // Half a decade at least, so that equal values do not fill the plot with their last digit.
        if high - low < 0.5 {
            let middle = (high + low) / 2.0;
            (low, high) = (middle - 0.25, middle + 0.25);
        }
        Some(Self {
            low,
            high,
            from,
            to,
        })
    }

    /// Where `value` lies; the nearer end for what lies outside.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let log = value
            .max(f64::MIN_POSITIVE)
            .log10()
            .clamp(self.low, self.high);
        self.from + (log - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Values to write along the axis: powers of ten, with 2 and 5 between where there is room for them.
    pub(crate) fn ticks(&self, room: f64) -> Vec<f64> {
        let length = (self.to - self.from).abs();
        let per_decade = length / (self.high - self.low);
        let steps: &[f64] = match per_decade / room {
            n if n >= 3.6 => &[1.0, 2.0, 5.0],
            n if n >= 2.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let every = ((room / per_decade).ceil() as i32).max(1);
        let mut ticks = Vec::new();
        for decade in self.low.floor() as i32..=self.high.ceil() as i32 {
            if decade.rem_euclid(every) != 0 {
                continue;
            }
            for step in steps {
                let tick = step * 10f64.powi(decade);
                if (self.low..=self.high).contains(&tick.log10()) {
                    ticks.push(tick);
                }
            }
        }
        ticks
    }
}

/// An axis of ratios that is stretched around 1: about even within a few margins of 1, and ever more
/// compressed beyond, so that 5 % and a factor of a thousand can both be seen. A ratio r lies at
/// asinh(ln r ÷ ln 1.05).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretched {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

/// One margin on the stretched axis.
const UNIT: f64 = 1.0 + crate::rules::MARGIN;

/// Ratios worth writing along the axis.
const RATIOS: [f64; 17] = [
    0.001, 0.01, 0.1, 0.2, 0.5, 0.8, 0.95, 1.0, 1.05, 1.2, 1.5, 2.0, 5.0, 10.0, 100.0, 1000.0, 1e4,
];

fn stretch(ratio: f64) -> f64 {
    (ratio.max(1e-12).ln() / UNIT.ln()).asinh()
}

impl Stretched {
    /// An axis that holds `values`, and at least the margin on both sides of 1.
    pub(crate) fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values
            .filter(|v| v.is_finite() && *v > 0.0)
            .map(stretch)
            .chain([stretch(0.93), stretch(1.08)])
            .fold((0.0f64, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        let room = (high - low) * 0.03;
        Self {
            low: low - room,
            high: high + room,
            from,
            to,
        }
    }

    /// Where `ratio` lies; the nearer end for what lies outside.
    pub(crate) fn at(&self, ratio: f64) -> f64 {
        let place = stretch(ratio).clamp(self.low, self.high);
        self.from + (place - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Ratios to write along the axis, at least `room` pixels apart; 1 and the margin always come first.
    pub(crate) fn ticks(&self, room: f64) -> Vec<f64> {
        let mut taken: Vec<f64> = Vec::new();
        let by_rank = [1.0, 1.05, 0.95, 2.0, 10.0, 100.0, 1000.0, 0.5, 0.1];
        let rest = RATIOS.iter().copied().filter(|r| !by_rank.contains(r));
        for ratio in by_rank.into_iter().chain(rest) {
            let inside = (self.low..=self.high).contains(&stretch(ratio));
            let free = taken
                .iter()
                .all(|other| (self.at(*other) - self.at(ratio)).abs() >= room);
            if inside && free {
                taken.push(ratio);
            }
        }
        taken.sort_by(f64::total_cmp);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::{Decades, Stretched};

    #[test]
    fn a_logarithmic_axis_spreads_decades_evenly() {
        let axis = Decades::over([1.0, 100.0].into_iter(), 0.0, 220.0).unwrap();
        let step = axis.at(10.0) - axis.at(1.0);
        assert!((axis.at(100.0) - axis.at(10.0) - step).abs() < 1e-9);
        assert!(Decades::over([0.0, -1.0, f64::NAN].into_iter(), 0.0, 1.0).is_none());
    }

    #[test]
    fn ticks_lie_inside_and_apart() {
        for (low, high) in [(1e6, 3e10), (1.0, 1.1), (5e5, 9e8)] {
            let axis = Decades::over([low, high].into_iter(), 0.0, 600.0).unwrap();
            let ticks = axis.ticks(50.0);
            assert!(!ticks.is_empty(), "{low} to {high}");
            for pair in ticks.windows(2) {
                assert!(axis.at(pair[1]) - axis.at(pair[0]) > 30.0, "{ticks:?}");
            }
        }
    }

    #[test]
    fn the_stretched_axis_rises_and_shows_the_margin() {
        let axis = Stretched::over([0.5, 9000.0].into_iter(), 0.0, 600.0);
        let places: Vec<f64> = [0.5, 0.95, 1.0, 1.05, 2.0, 100.0, 9000.0]
            .into_iter()
            .map(|r| axis.at(r))
            .collect();
        assert!(places.is_sorted());
        assert!(axis.at(1.05) - axis.at(1.0) > 20.0);
        assert!(axis.ticks(40.0).contains(&1.0));
        assert!(axis.at(f64::INFINITY) <= 600.0);
    }
}
