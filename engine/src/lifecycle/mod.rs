//! What is done to instances: made, started, stopped, waited for. Each function is a verb of the command line.

mod end;
mod exec;
mod start;

pub use end::{Waiter, kill, pause, restart, stop, unpause, wait};
pub use exec::{ExecSpec, exec};
pub use start::{Outcome, RunOptions, attach, create, run, start};
