//! The file system device (section 5.11): directories and files of the host, served by FUSE's protocol from the monitor's
//! own process.
//!
//! All shares are one device. Its root directory is made up here and read-only; each share is an entry in it.

mod attribute;
mod file;
mod host;
mod identity;
mod lock;
mod node;
mod server;
#[cfg(test)]
pub(crate) mod tests;
mod timer;
mod wire;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

pub(crate) use self::host::Descriptors;
use self::lock::Wanted;
pub(crate) use self::server::Server;
use self::server::{Outcome, Transfer};
use self::timer::Timer;
use self::wire::{Answer, Errno, Header, IN_HEADER, OUT_HEADER, WRITE_IN, opcode, out_header};
use super::VirtioDevice;
use super::queue::{Broken, Chain, Popped, VirtQueue, io_vectors};
use crate::memory::Memory;

/// The name by which the guest mounts it.
pub(crate) const TAG: &str = guest_protocol::SHARES_TAG;

/// The queue of requests that must not wait behind others, and the one of all others. A request of 256 pages must fit.
const QUEUE_SIZES: [u16; 2] = [128, 1024];

/// The longest body of a request, data to write apart: an extended attribute's name and value.
const MAX_BODY: usize = (64 << 10) + 4096;

/// How long requests are served before the guest is told of those that are done.
const PATIENCE: Duration = Duration::from_micros(200);

/// How often a lock that is somebody else's is tried again.
const LOCK_PERIOD: Duration = Duration::from_millis(10);

/// How many interrupts are kept for requests that have not come yet.
const INTERRUPTED: usize = 64;

/// The file system device.
pub(crate) struct Fs {
    server: Server,
    config: [u8; 40],
    /// Requests that wait for locks.
    waiting: Vec<Waiting>,
    /// Requests that were interrupted before they came: the queues overtake each other.
    interrupted: VecDeque<u64>,
    timer: Timer,
    vectors: Vectors,
    body: Vec<u8>,
    reply: Vec<u8>,
}

struct Waiting {
    queue: usize,
    chain: Chain,
    unique: u64,
    wanted: Wanted,
}

#[derive(Default)]
struct Vectors(Vec<libc::iovec>);

// SAFETY: the pointers are made anew from guest memory for each request and not used after it; between requests they mean
// nothing, so they may move between threads.
unsafe impl Send for Vectors {}

/// What becomes of a chain.
enum Fate {
    /// It is returned, with this many bytes written.
    Returned(u32),
    /// It waits for a lock.
    Waits(u64, Wanted),
    /// It is returned, and with it the one that waits under this number.
    Interrupts(u64),
}

impl Fs {
    /// A device with this server.
    pub(crate) fn new(server: Server) -> std::io::Result<Self> {
        // The layout of virtio_fs_config (section 5.11.4): the tag, and how many queues of requests there are.
        let mut config = [0; 40];
        config
            .iter_mut()
            .zip(TAG.bytes())
            .for_each(|(to, from)| *to = from);
        config[36..40].copy_from_slice(&1u32.to_le_bytes());
        Ok(Self {
            server,
            config,
            waiting: Vec::new(),
            interrupted: VecDeque::with_capacity(INTERRUPTED),
            timer: Timer::new(LOCK_PERIOD)?,
            vectors: Vectors::default(),
            body: Vec::new(),
            reply: Vec::new(),
        })
    }

    /// Serves what is in a queue, for so long.
    fn work(
        &mut self,
        number: usize,
        queues: &mut [VirtQueue],
        patience: Option<Duration>,
    ) -> Result<(), Broken> {
        let begun = Instant::now();
        loop {
            let queue = queues.get_mut(number).ok_or(Broken)?;
            queue.no_notification()?;
            loop {
                let queue = queues.get_mut(number).ok_or(Broken)?;
                let memory = queue.memory();
                let mut chain = Chain::default();
                match queue.pop(&mut chain)? {
                    Popped::Empty => break,
                    Popped::Malformed => queue.push(chain.head, 0)?,
                    Popped::Chain => match self.serve(&memory, &chain) {
                        Fate::Returned(written) => queue.push(chain.head, written)?,
                        Fate::Waits(unique, wanted) => self.wait(Waiting {
                            queue: number,
                            chain,
                            unique,
                            wanted,
                        }),
                        Fate::Interrupts(unique) => {
                            queue.push(chain.head, 0)?;
                            self.interrupt(unique, queues)?;
                        }
                    },
                }
                if patience.is_some_and(|patience| begun.elapsed() > patience) {
                    if let Some(queue) = queues.get_mut(number) {
                        queue.come_again();
                    }
                    return self.try_locks(queues);
                }
            }
            if !queues.get_mut(number).ok_or(Broken)?.want_notification()? {
                return self.try_locks(queues);
            }
        }
    }

    /// Serves one request.
    fn serve(&mut self, memory: &Memory, chain: &Chain) -> Fate {
        let mut raw = [0; IN_HEADER];
        if !chain.read(memory, 0, &mut raw) {
            return Fate::Returned(0);
        }
        let Ok(header) = Header::parse(&raw) else {
            return Fate::Returned(0);
        };
        let silent = matches!(
            header.opcode,
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
        );
        if chain.writable_bytes() < OUT_HEADER as u64 && !silent {
            // Nothing is done that nobody could be told of.
            return Fate::Returned(0);
        }
        self.reply.clear();
        match self.answer(memory, chain, &header) {
            Ok(Outcome::Later(_)) if self.interrupted.contains(&header.unique) => {
                Fate::Returned(refuse(memory, chain, header.unique, libc::EINTR))
            }
            Ok(Outcome::Later(wanted)) => Fate::Waits(header.unique, wanted),
            Ok(Outcome::Interrupt(unique)) => Fate::Interrupts(unique),
            Ok(Outcome::Silent) => Fate::Returned(0),
            _ if silent => Fate::Returned(0),
            Ok(Outcome::Moved(bytes)) => {
                let length = OUT_HEADER as u32 + bytes;
                let header = out_header(length, 0, header.unique);
                Fate::Returned(written(chain.write(memory, 0, &header), length))
            }
            Ok(Outcome::Reply) => {
                let length = OUT_HEADER + self.reply.len();
                if length as u64 > chain.writable_bytes() {
                    return Fate::Returned(refuse(memory, chain, header.unique, libc::EIO));
                }
                let head = out_header(length as u32, 0, header.unique);
                let whole = chain.write(memory, 0, &head)
                    && chain.write(memory, OUT_HEADER as u64, &self.reply);
                Fate::Returned(written(whole, length as u32))
            }
            Err(Errno(number)) => Fate::Returned(refuse(memory, chain, header.unique, number)),
        }
    }

    fn answer(&mut self, memory: &Memory, chain: &Chain, header: &Header) -> Answer<Outcome> {
        let length = (header.length as usize)
            .checked_sub(IN_HEADER)
            .filter(|_| u64::from(header.length) <= chain.readable_bytes())
            .ok_or(Errno(libc::EINVAL))?;
        let body = match Server::takes_data(header.opcode) {
            true => length.min(WRITE_IN),
            false => length,
        };
        if body > MAX_BODY {
            return Err(Errno(libc::E2BIG));
        }
        self.body.resize(body, 0);
        if !chain.read(memory, IN_HEADER as u64, &mut self.body) {
            return Err(Errno(libc::EINVAL));
        }
        let mut transfer = Guest {
            memory,
            chain,
            skipped: (IN_HEADER + body) as u64,
            data: (length - body) as u64,
            vectors: &mut self.vectors.0,
        };
        self.server
            .serve(header, &self.body, &mut transfer, &mut self.reply)
    }

    fn wait(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
        self.timer.run(true);
    }

    /// Nobody waits for this request any more.
    fn interrupt(&mut self, unique: u64, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        if self.waiting.iter().all(|waiting| waiting.unique != unique) {
            // It may have been answered already: then nothing with this number ever comes.
            if self.interrupted.len() == INTERRUPTED {
                self.interrupted.pop_front();
            }
            self.interrupted.push_back(unique);
            return Ok(());
        }
        self.settle(queues, |waiting, _| {
            (waiting.unique == unique).then_some(libc::EINTR)
        })
    }

    /// Tries the locks that are waited for.
    fn try_locks(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.settle(queues, |waiting, server| {
            match server.lock_with(&waiting.wanted) {
                Ok(()) => Some(0),
                Err(Errno(libc::EAGAIN)) => None,
                Err(Errno(number)) => Some(number),
            }
        })
    }

    /// Replies to those that wait, where there is an error, or none (0), to tell.
    fn settle(
        &mut self,
        queues: &mut [VirtQueue],
        mut outcome: impl FnMut(&Waiting, &mut Server) -> Option<i32>,
    ) -> Result<(), Broken> {
        let mut still = Vec::with_capacity(self.waiting.len());
        for waiting in std::mem::take(&mut self.waiting) {
            let Some(number) = outcome(&waiting, &mut self.server) else {
                still.push(waiting);
                continue;
            };
            let queue = queues.get_mut(waiting.queue).ok_or(Broken)?;
            let written = refuse(&queue.memory(), &waiting.chain, waiting.unique, number);
            queue.push(waiting.chain.head, written)?;
        }
        self.waiting = still;
        self.timer.run(!self.waiting.is_empty());
        Ok(())
    }
}

fn written(whole: bool, length: u32) -> u32 {
    if whole { length } else { 0 }
}

/// Replies with an error, or with success that has nothing to tell.
fn refuse(memory: &Memory, chain: &Chain, unique: u64, error: i32) -> u32 {
    let header = out_header(OUT_HEADER as u32, error, unique);
    written(chain.write(memory, 0, &header), OUT_HEADER as u32)
}

/// The guest's memory that a chain names.
struct Guest<'a> {
    memory: &'a Memory,
    chain: &'a Chain,
    /// Bytes before the data of the request, and how many data there are.
    skipped: u64,
    data: u64,
    vectors: &'a mut Vec<libc::iovec>,
}

// SAFETY: `io_vectors` makes the pieces of guest memory, which `memory` keeps mapped, readable and writable for longer than
// the borrow lasts; guest memory is no memory that Rust holds references to.
unsafe impl Transfer for Guest<'_> {
    fn room(&self) -> usize {
        let room = self.chain.writable_bytes() - OUT_HEADER as u64;
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    fn source(&mut self, bytes: u32) -> Answer<&[libc::iovec]> {
        if u64::from(bytes) > self.data {
            return Err(Errno(libc::EINVAL));
        }
        let (buffers, skipped) = (&self.chain.readable, self.skipped);
        io_vectors(self.memory, buffers, skipped, bytes.into(), self.vectors)?;
        Ok(self.vectors)
    }

    fn target(&mut self, bytes: u32) -> Answer<&[libc::iovec]> {
        let (buffers, skipped) = (&self.chain.writable, OUT_HEADER as u64);
        io_vectors(self.memory, buffers, skipped, bytes.into(), self.vectors)?;
        Ok(self.vectors)
    }
}

impl VirtioDevice for Fs {
    fn kind(&self) -> u32 {
        26
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.waiting.clear();
        self.interrupted.clear();
        self.timer.run(false);
        self.server.reset();
    }

    fn notified(&mut self, queue: usize, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        self.work(queue, queues, Some(PATIENCE))
    }

    fn interest(&self) -> Option<(RawFd, EventSet)> {
        (!self.waiting.is_empty()).then(|| (self.timer.as_raw_fd(), EventSet::IN))
    }

    fn ready(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        self.timer.passed();
        self.try_locks(queues)
    }

    fn finish(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        (0..queues.len()).try_for_each(|queue| self.work(queue, queues, None))
    }
}
