//! Result files, statistics, decision rules and the HTML report.

pub mod results;

pub use results::{Error, Results};
