//! What criterion itself measures: the ratio of one round.
//!
//! Criterion's own lines would otherwise show how long a round of all arms took, which means nothing. With this
//! measurement they show how many times the native arm's time the first isolated arm took, round by round, and
//! criterion's comparison with the last run says something.

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};

/// A ratio of times, without unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio;

impl Measurement for Ratio {
    type Intermediate = ();
    type Value = f64;

    // Only `iter_custom` is used, which gives values of its own.
    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        1.0
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Times
    }
}

struct Times;

impl ValueFormatter for Times {
    fn scale_values(&self, _typical: f64, _values: &mut [f64]) -> &'static str {
        "× native"
    }

    fn scale_throughputs(
        &self,
        _typical: f64,
        _throughput: &Throughput,
        _values: &mut [f64],
    ) -> &'static str {
        "× native"
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "x native"
    }
}
