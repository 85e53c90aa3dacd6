//! Measures containers and microVMs against the bare process: the arms, the rounds, and what is kept of them.
//!
//! `cargo bench` runs [`main`]. Data flows one way: plan and command line → arms → rounds of samples → the result file →
//! `reports`, which makes the report from that file alone.
//!
//! Criterion carries the measurement: its command line and filters, and the loop over samples. One of its iterations is one
//! whole round, in which all arms are sampled interleaved (`order`); our own recorder keeps every arm's samples
//! (`harness`), and all statistics are made from those. What criterion prints is the ratio of a round (`ratio`).

mod arm;
mod benchmark;
mod cli;
mod clock;
mod deploy;
mod error;
mod evict;
mod harness;
mod idle;
mod image;
mod launch;
mod limits;
mod once;
mod order;
mod outcome;
mod peers;
mod plan;
mod processes;
mod ratio;
mod run;
mod seat;
mod session;
mod start;
mod steady;
mod suite;
#[cfg(test)]
mod tests;
mod versions;

pub use error::{Error, Result};

pub use run::main;
