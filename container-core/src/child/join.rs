//! Another process in a running container.

use std::convert::Infallible;

use super::report::{At, Outcome, Step};
use super::{ChildStdio, Context, HERE, Setup};
use crate::sys::process::Processors;
use crate::sys::{self, Fd, clone, file, process};

/// How a running container is entered.
pub(crate) struct Entry<'a> {
    /// The container's first process.
    pub(crate) pidfd: Fd,
    /// `CLONE_NEW*` of the namespaces to join, without the PID namespace: the process is born in that.
    pub(crate) namespaces: libc::c_int,
    /// The root directory, where it is not that of a mount namespace to join.
    pub(crate) root: Option<Fd>,
    /// Processors to run on before and after the cgroups are entered.
    pub(crate) affinity: [Option<&'a Processors>; 2],
    /// The adjustment of the OOM score, as its file takes it.
    pub(crate) oom_score_adj: Option<&'a [u8]>,
}

/// Runs the process. Every way out ends it.
pub(crate) fn run(context: &Context<'_>, entry: &Entry<'_>) -> Infallible {
    let mut setup = Setup::new(context);
    let Err(failure) = setup.join(entry);
    setup.give_up(failure)
}

impl Setup<'_> {
    fn join(&mut self, entry: &Entry<'_>) -> Outcome<Infallible> {
        // The launcher was made undumpable before: there was no moment in which the container could have looked in.
        sys::credentials::make_undumpable().at(Step::Session)?;
        self.leave_session()?;
        process::set_umask(0);
        let [before, after] = entry.affinity;
        if let Some(processors) = before {
            process::set_affinity(processors).at(Step::Affinity)?;
        }
        self.enter_cgroups()?;
        if let Some(processors) = after {
            process::set_affinity(processors).at(Step::Affinity)?;
        }
        if let Some(text) = entry.oom_score_adj {
            // Through the host's /proc, which is the only one here.
            let file = file::openat(HERE, c"/proc/self/oom_score_adj", libc::O_WRONLY, 0)
                .at(Step::OomScore)?;
            file::write(file, text).at(Step::OomScore)?;
            file::close(file);
        }
        if entry.namespaces != 0 {
            clone::setns(entry.pidfd, entry.namespaces).at(Step::Join)?;
        }
        if entry.namespaces & libc::CLONE_NEWUSER != 0 {
            self.become_root()?;
        }
        if let Some(root) = entry.root {
            file::fchdir(root)
                .and_then(|()| file::chroot(c"."))
                .at(Step::Chroot)?;
        }
        self.root = file::openat(HERE, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)
            .at(Step::RootDirectory)?;
        self.rootfs_at = sys::monotonic();
        if let ChildStdio::Terminal { rows, columns } = self.stdio {
            self.open_terminal(rows, columns)?;
        }
        self.bound()?;
        self.open_streams_and_close_the_rest()?;
        self.take_identity_and_run()
    }
}
