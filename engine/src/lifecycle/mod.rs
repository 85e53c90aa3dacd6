//! What is done to instances: made, started, stopped, waited for. Each function is a verb of the command line.

mod commit;
mod end;
mod exec;
mod files;
mod network;
mod start;
mod watch;

pub(crate) use commit::store_layer;
pub use commit::{CommitOptions, commit, export};
pub use end::{Waiter, kill, pause, restart, stop, unpause, wait};
pub use exec::{ExecSpec, exec};
pub(crate) use files::edit;
pub use files::{Files, diff, files};
pub use network::{connect, disconnect};
pub(crate) use network::{join, leave};
pub use start::{Outcome, RunOptions, attach, create, run, start};
pub use watch::{Processes, Usage, top, usage};
