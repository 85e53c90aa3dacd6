//! What a container needs whatever its specification says, made while that is still being put together.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;

use super::{Rootfs, network};
use crate::child::report::Outcome;
use crate::child::root::OverlayMount;
use crate::error::{Error, Result};
use crate::plan::rootfs::RootPlan;
use crate::sys::{Errno, process};

/// The thread's stack, bytes: it makes system calls and little else.
const STACK: usize = 64 << 10;

/// How long the thread is waited for awake.
const PATIENCE: Duration = Duration::from_millis(2);

/// The overlay and the network namespace of a container to be ([`Launch::ahead`](super::Launch::ahead)). Each takes as long as
/// all of its other mounts together, so that a thread makes them on a processor which has nothing else to do yet.
///
/// Dropping it waits for the thread, and with it goes whatever nobody has taken.
#[derive(Debug)]
pub struct Ahead {
    root: Receiver<Outcome<OwnedFd>>,
    network: Receiver<Result<OwnedFd>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Begins to mount `rootfs`, if it is an overlay, and to make a network namespace, if one is `wanted`. Not for a container
    /// with a user namespace of its own, to which both would have to belong.
    ///
    /// # Errors
    /// For a path that no overlay can have, and where there is no room for a thread. What fails later is told by the start.
    pub fn begin(rootfs: &Rootfs<'_>, wanted: bool) -> Result<Self> {
        let plan = RootPlan::new(rootfs, &Spec::default(), false, true)?;
        let (sends_root, root) = mpsc::channel();
        let (sends_network, network) = mpsc::channel();
        let work = move || {
            // The root first: it is asked for first. One who has given up hears nothing.
            if let Some(overlay) = OverlayMount::of(&plan) {
                // SAFETY: the call makes the descriptor, and nobody else has it.
                let made = overlay
                    .mount_detached()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                let _ = sends_root.send(made);
            }
            if wanted {
                let _ = sends_network.send(network::new_namespace());
            }
        };
        let thread = thread::Builder::new()
            .stack_size(STACK)
            .spawn(work)
            .map_err(|error| Error::setup("start a thread", error))?;
        process::move_elsewhere(&thread);
        Ok(Self {
            root,
            network,
            thread: Some(thread),
        })
    }

    /// Whether a processor has nothing to do, so that a thread gains anything. Where all are busy it would only be one more that
    /// waits for one, and is waited for.
    pub fn is_worthwhile() -> bool {
        // The fourth field is how many threads can run now, this one among them, of how many (proc_loadavg(5)).
        let running = std::fs::read_to_string("/proc/loadavg").ok();
        let running: Option<usize> = running
            .as_deref()
            .and_then(|text| text.split(' ').nth(3)?.split('/').next()?.parse().ok());
        running.is_some_and(|running| running < process::allowed_processors())
    }

    /// The overlay, attached nowhere. `None` where the container's process has to mount it itself: nobody has begun to, or the
    /// kernel (before Linux 6.8) makes none that is attached nowhere.
    pub(super) fn root(&self) -> Outcome<Option<OwnedFd>> {
        match wait(&self.root) {
            Some(Err(failure)) if failure.errno == Errno(libc::EINVAL) => Ok(None),
            Some(made) => made.map(Some),
            None => Ok(None),
        }
    }

    /// The network namespace, its loopback interface up; `None` where nobody has begun to make one.
    pub(super) fn network(&self) -> Result<Option<OwnedFd>> {
        wait(&self.network).transpose()
    }
}

/// What the thread sends; `None` when it sends nothing.
///
/// Most of it is a matter of some 100 µs, for which this thread keeps its processor: one that sleeps is often woken on the
/// processor of whoever wakes it, in a virtual machine most of all, and would wait until the thread has done the rest too.
fn wait<T>(from: &Receiver<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match from.try_recv() {
            Ok(made) => return Some(made),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) if Instant::now() > until => return from.recv().ok(),
            Err(TryRecvError::Empty) => thread::yield_now(),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Of a panic its message has told already.
            let _ = thread.join();
        }
    }
}
