//! Result files, statistics, decision rules and the HTML report.
//!
//! Data flows one way: a result file ([`results`]) → estimates with intervals ([`analysis`], by [`stats`]) →
//! answers ([`verdict`], by [`rules`]) → the page.

pub mod analysis;
pub mod format;
pub mod page;
pub mod results;
pub mod rules;
pub mod stats;
pub mod verdict;

pub use page::write_report;
pub use results::{Error, Results};
pub use verdict::{Answer, Verdict, verdicts};
