//! Dockerfiles: text to instructions. What they mean is for whoever builds.
//!
//! Everything that is not supported is refused here, by its name and line, before anything is done.

mod flags;
mod lines;
mod parse;

pub use parse::{Command, Dockerfile, Healthcheck, Instruction, Kind, Stage, Transfer};

#[cfg(test)]
mod tests;
