//! Layers unpacked by several threads while the archive that holds them is read on.
//!
//! Whoever reads the archive writes each layer into a file of its own and never waits; a few threads follow what has been written and
//! unpack it. So a single layer is read, inflated and unpacked at the same time, and so are several.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use crate::archive::Compression;
use crate::ingest::{Ingest, Tree};
use crate::{Error, Result};

/// Layers unpacked at once at most: each takes two threads, and a disk gains nothing from more.
const MOST: usize = 4;

/// A file that is still being written, for those who read it already.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    /// Whether it has come to its end, or been given up before.
    ended: Option<bool>,
}

impl Growing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes more are there.
    pub(crate) fn grow(&self, bytes: usize) {
        self.state().written += bytes as u64;
        self.changed.notify_all();
    }

    /// No more will come: the file is `whole`, or has been given up.
    pub(crate) fn end(&self, whole: bool) {
        self.state().ended.get_or_insert(whole);
        self.changed.notify_all();
    }

    fn is_given_up(&self) -> bool {
        self.state().ended == Some(false)
    }
}

/// Reads a growing file to its end.
struct Follow {
    file: File,
    growing: Arc<Growing>,
    position: u64,
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.growing.state();
        while state.written == self.position {
            match state.ended {
                Some(true) => return Ok(0),
                Some(false) => return Err(io::Error::other("it has been given up")),
                None => {
                    state = self
                        .growing
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let there = usize::try_from(state.written - self.position).unwrap_or(usize::MAX);
        drop(state);
        let end = buffer.len().min(there);
        let read = self.file.read(&mut buffer[..end])?;
        self.position += read as u64;
        Ok(read)
    }
}

/// A layer to be unpacked.
struct Job {
    number: usize,
    blob: PathBuf,
    name: String,
    compression: Compression,
    growing: Arc<Growing>,
}

/// Where layers are given to be unpacked.
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    next: usize,
    outcomes: Arc<Mutex<Outcomes>>,
}

/// What has become of the layers.
#[derive(Default)]
pub(super) struct Outcomes {
    trees: BTreeMap<usize, Tree>,
    /// The first failure in the order of the archive.
    failed: Option<(usize, Error)>,
}

impl Outcomes {
    /// The tree of the layer of that number.
    pub(super) fn take(&mut self, number: usize) -> Option<Tree> {
        self.trees.remove(&number)
    }
}

impl Queue {
    /// Gives a layer that is being written to `blob`; its number.
    pub(super) fn give(
        &mut self,
        blob: &Path,
        name: &str,
        compression: Compression,
        growing: &Arc<Growing>,
    ) -> usize {
        let number = self.next;
        self.next += 1;
        let job = Job {
            number,
            blob: blob.to_owned(),
            name: name.to_owned(),
            compression,
            growing: Arc::clone(growing),
        };
        // The threads live as long as this does, but for a panic that their join tells.
        let _ = self.jobs.send(job);
        number
    }

    /// Whether something is wrong already: then there is no use in reading on.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.outcomes).failed.is_some()
    }
}

fn lock(outcomes: &Mutex<Outcomes>) -> MutexGuard<'_, Outcomes> {
    outcomes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work`, which gives layers to the queue, and unpacks those meanwhile. Of several failures the first one in the archive is
/// told.
pub(super) fn unpacking<T>(
    ingest: &Ingest<'_>,
    work: impl FnOnce(&mut Queue) -> Result<T>,
) -> Result<(T, Outcomes)> {
    let (jobs, incoming) = mpsc::channel::<Job>();
    let incoming = Mutex::new(incoming);
    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let count = thread::available_parallelism().map_or(1, |n| n.get().min(MOST));
    let worked = thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                loop {
                    let job = incoming
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .recv();
                    let Ok(job) = job else { return };
                    unpack(ingest, &job, &outcomes);
                }
            });
        }
        let mut queue = Queue {
            jobs,
            next: 0,
            outcomes: Arc::clone(&outcomes),
        };
        work(&mut queue)
        // The queue goes here, and the threads when they have done what is in it.
    });
    let outcomes = Arc::into_inner(outcomes)
        .map(|outcomes| {
            outcomes
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
        })
        .unwrap_or_default();
    if let Some((_, error)) = outcomes.failed {
        return Err(error);
    }
    Ok((worked?, outcomes))
}

fn unpack(ingest: &Ingest<'_>, job: &Job, outcomes: &Mutex<Outcomes>) {
    if lock(outcomes)
        .failed
        .as_ref()
        .is_some_and(|(number, _)| *number < job.number)
    {
        return;
    }
    let open = File::open(&job.blob).map_err(Error::io("open", &job.blob));
    let unpacked = open.and_then(|file| {
        let follow = Follow {
            file,
            growing: Arc::clone(&job.growing),
            position: 0,
        };
        ingest.tree(follow, &job.name, job.compression)
    });
    let mut outcomes = lock(outcomes);
    match unpacked {
        Ok(tree) => {
            outcomes.trees.insert(job.number, tree);
        }
        // Whoever gave it up says why.
        Err(_) if job.growing.is_given_up() => {}
        Err(error) => {
            let is_first = outcomes
                .failed
                .as_ref()
                .is_none_or(|(number, _)| job.number < *number);
            if is_first {
                outcomes.failed = Some((job.number, error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_written_is_read_while_the_file_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("growing");
        let mut file = File::create_new(&path).unwrap();
        let growing = Arc::new(Growing::default());
        let mut follow = Follow {
            file: File::open(&path).unwrap(),
            growing: Arc::clone(&growing),
            position: 0,
        };
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            follow.read_to_end(&mut all).map(|_| all)
        });
        for part in 0..100u8 {
            file.write_all(&[part; 1000]).unwrap();
            growing.grow(1000);
        }
        growing.end(true);
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), 100_000);
        assert!(
            all.chunks(1000)
                .enumerate()
                .all(|(n, part)| part == [n as u8; 1000])
        );
    }

    #[test]
    fn a_file_that_is_given_up_is_an_error_and_never_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("growing");
        std::fs::write(&path, "abc").unwrap();
        let growing = Arc::new(Growing::default());
        growing.grow(3);
        growing.end(false);
        let mut follow = Follow {
            file: File::open(&path).unwrap(),
            growing,
            position: 0,
        };
        let mut all = Vec::new();
        assert!(follow.read_to_end(&mut all).is_err());
        assert_eq!(all, b"abc");
    }
}
