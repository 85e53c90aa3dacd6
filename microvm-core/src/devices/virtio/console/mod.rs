//! The console device with several ports (section 5.3): one named port that carries the control channel between the
//! agent in the guest and the host. Port 0, which the specification demands, is never announced.

mod control;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use self::control::{Message, event};
use super::VirtioDevice;
use super::queue::{Broken, Chain, Popped, VirtQueue, io_vectors};

/// The queues of a device with two ports (section 5.3.2): those of port 0, control, those of port 1.
const CONTROL_TO_GUEST: usize = 2;
const CONTROL_TO_HOST: usize = 3;
const TO_GUEST: usize = 4;
const TO_HOST: usize = 5;

/// Sizes of the queues. The driver fills each queue to the guest with a page per entry when it starts, so they are no
/// larger than the work needs: port 0 has none.
const QUEUE_SIZES: [u16; 6] = [1, 1, 8, 8, 16, 16];

/// The port that is announced.
const PORT: u32 = 1;
const PORTS: u32 = 2;

/// VIRTIO_CONSOLE_F_MULTIPORT.
const MULTIPORT: u64 = 1 << 1;

/// A driver has at most a handful of control messages under way; one that makes more of them lose some.
const MAX_MESSAGES: usize = 32;

/// The most that is carried either way before others have their turn.
const MAX_BYTES: u64 = 256 << 10;

/// How long the end of the machine waits for the host to take what the guest has said last.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The console device.
pub(crate) struct Console {
    name: &'static str,
    host: UnixStream,
    config: [u8; 12],
    messages: VecDeque<Message>,
    vectors: Vec<libc::iovec>,
    multiport: bool,
    /// The guest has opened the port.
    open: bool,
    /// The host's end of the stream is closed for reading and writing.
    host_gone: bool,
    /// The host does not take more; the first chain has been taken up to `sent`.
    full: bool,
    sent: u64,
    /// The guest has buffers for what comes from the host, as far as is known.
    room: bool,
}

// SAFETY: the pointers in `vectors` are made anew from guest memory for each transfer and not used after it; between
// transfers they mean nothing, so the device may move between threads.
unsafe impl Send for Console {}

impl Console {
    /// A device whose one port has this name and leads to this stream.
    pub(crate) fn new(name: &'static str, host: UnixStream) -> io::Result<Self> {
        host.set_nonblocking(true)?;
        let mut config = [0; 12];
        config[4..8].copy_from_slice(&PORTS.to_le_bytes());
        Ok(Self {
            name,
            host,
            config,
            messages: VecDeque::new(),
            vectors: Vec::new(),
            multiport: false,
            open: false,
            host_gone: false,
            full: false,
            sent: 0,
            room: false,
        })
    }

    fn tell(&mut self, message: Message) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push_back(message);
        }
    }

    /// Takes what the driver says about ports.
    fn take_messages(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        let mut heard = Vec::new();
        queue.drain(|memory, chain| {
            heard.extend(Message::read(memory, chain));
            0
        })?;
        for message in heard {
            match (message.id, message.event, message.value) {
                (_, event::DEVICE_READY, 1) => self.tell(Message::new(PORT, event::PORT_ADD, 1)),
                (PORT, event::PORT_READY, 1) => {
                    self.tell(Message::named(PORT, self.name));
                    self.tell(Message::new(
                        PORT,
                        event::PORT_OPEN,
                        u16::from(!self.host_gone),
                    ));
                }
                (PORT, event::PORT_OPEN, value) => {
                    self.open = value == 1;
                    self.room = self.open;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts what is to be said about ports where the driver has room for it.
    fn give_messages(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        let memory = queue.memory();
        let mut chain = Chain::default();
        while let Some(message) = self.messages.front() {
            match queue.pop(&mut chain)? {
                Popped::Empty => {
                    if queue.want_notification()? {
                        continue;
                    }
                    break;
                }
                Popped::Malformed => queue.push(chain.head, 0)?,
                Popped::Chain => {
                    let bytes = message.bytes();
                    let written = if chain.write(&memory, 0, &bytes) {
                        bytes.len() as u32
                    } else {
                        0
                    };
                    queue.push(chain.head, written)?;
                    self.messages.pop_front();
                }
            }
        }
        Ok(())
    }

    /// Carries what the guest has written to the host, as far as the host takes it.
    fn carry_out(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        let memory = queue.memory();
        let mut chain = Chain::default();
        let mut carried = 0;
        self.full = false;
        for _ in 0..4 * QUEUE_SIZES[TO_HOST] {
            match queue.pop(&mut chain)? {
                Popped::Empty => {
                    if queue.want_notification()? {
                        continue;
                    }
                    return Ok(());
                }
                Popped::Malformed => {
                    self.sent = 0;
                    queue.push(chain.head, 0)?;
                    continue;
                }
                Popped::Chain => {}
            }
            // The driver may have changed the chain since part of it was sent: then there is nothing left of it.
            let bytes = chain.readable_bytes();
            while self.sent < bytes && !self.host_gone {
                if io_vectors(
                    &memory,
                    &chain.readable,
                    self.sent,
                    bytes - self.sent,
                    &mut self.vectors,
                )
                .is_err()
                {
                    break;
                }
                if carried >= MAX_BYTES {
                    queue.undo_pop();
                    queue.come_again();
                    return Ok(());
                }
                match send(&self.host, &self.vectors) {
                    Ok(sent) => {
                        self.sent += sent;
                        carried += sent;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.full = true;
                        queue.undo_pop();
                        return Ok(());
                    }
                    Err(_) => self.hang_up(),
                }
            }
            self.sent = 0;
            queue.push(chain.head, 0)?;
        }
        queue.come_again();
        Ok(())
    }

    /// Carries what the host has written to the guest, as far as there is room.
    fn carry_in(&mut self, queue: &mut VirtQueue) -> Result<(), Broken> {
        let memory = queue.memory();
        let mut chain = Chain::default();
        let mut taken = 0;
        while self.open && !self.host_gone && taken < MAX_BYTES {
            match queue.pop(&mut chain)? {
                Popped::Empty => {
                    if queue.want_notification()? {
                        continue;
                    }
                    self.room = false;
                    return Ok(());
                }
                Popped::Malformed => {
                    queue.push(chain.head, 0)?;
                    continue;
                }
                Popped::Chain => self.room = true,
            }
            let bytes = chain.writable_bytes();
            if bytes == 0
                || io_vectors(
                    &memory,
                    &chain.writable,
                    0,
                    bytes.min(MAX_BYTES),
                    &mut self.vectors,
                )
                .is_err()
            {
                queue.push(chain.head, 0)?;
                continue;
            }
            match receive(&self.host, &self.vectors) {
                Ok(got) if got > 0 => {
                    queue.push(chain.head, got as u32)?;
                    taken += got;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.undo_pop();
                    return Ok(());
                }
                _ => {
                    queue.undo_pop();
                    self.hang_up();
                }
            }
        }
        Ok(())
    }

    /// The host is gone: the guest's reads end, and its writes lead nowhere.
    fn hang_up(&mut self) {
        if !std::mem::replace(&mut self.host_gone, true) {
            self.tell(Message::new(PORT, event::PORT_OPEN, 0));
        }
    }

    fn work(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        self.take_messages(&mut queues[CONTROL_TO_HOST])?;
        self.carry_out(&mut queues[TO_HOST])?;
        self.carry_in(&mut queues[TO_GUEST])?;
        self.give_messages(&mut queues[CONTROL_TO_GUEST])
    }
}

impl VirtioDevice for Console {
    fn kind(&self) -> u32 {
        3
    }

    fn features(&self) -> u64 {
        MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, features: u64) {
        self.multiport = features & MULTIPORT != 0;
    }

    fn reset(&mut self) {
        self.messages.clear();
        (self.multiport, self.open, self.full, self.room, self.sent) =
            (false, false, false, false, 0);
    }

    fn notified(&mut self, queue: usize, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        if !self.multiport {
            return Ok(());
        }
        self.room |= queue == TO_GUEST && self.open;
        self.work(queues)
    }

    fn interest(&self) -> Option<(RawFd, EventSet)> {
        let mut events = EventSet::empty();
        if self.host_gone {
            return None;
        }
        events.set(EventSet::IN, self.open && self.room);
        events.set(EventSet::OUT, self.full);
        (!events.is_empty()).then(|| (self.host.as_raw_fd(), events))
    }

    fn ready(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        self.work(queues)
    }

    /// Whether the port is open. All that was to be said must have been.
    fn save(&self) -> Option<Vec<u8>> {
        let rests = self.messages.is_empty() && self.sent == 0 && !self.full;
        rests.then(|| vec![u8::from(self.open)])
    }

    fn restore(&mut self, kept: &[u8]) -> Result<(), Broken> {
        let open = match kept {
            [0] => false,
            [1] if self.multiport => true,
            _ => return Err(Broken),
        };
        (self.open, self.room) = (open, open);
        Ok(())
    }

    /// Carries the guest's last words to the host: the virtual CPUs stand still by now.
    fn finish(&mut self, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        let until = Instant::now() + LAST_WORDS;
        loop {
            self.carry_out(&mut queues[TO_HOST])?;
            let left = until.saturating_duration_since(Instant::now());
            if !(self.full || queues[TO_HOST].take_again()) || left.is_zero() {
                return Ok(());
            }
            if self.full {
                wait_for_room(&self.host, left);
            }
        }
    }
}

fn wait_for_room(host: &UnixStream, limit: Duration) {
    let mut poll = libc::pollfd {
        fd: host.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let limit = i32::try_from(limit.as_millis().max(1)).unwrap_or(i32::MAX);
    // SAFETY: one valid pollfd, and the count says one. What it returns does not matter: the caller tries again.
    unsafe { libc::poll(&mut poll, 1, limit) };
}

fn header(vectors: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: a msghdr of zeros is one without address, control data and flags.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vectors.as_ptr().cast_mut();
    // UIO_MAXIOV is 1024, and no chain is longer than its queue.
    header.msg_iovlen = vectors.len();
    header
}

fn send(host: &UnixStream, vectors: &[libc::iovec]) -> io::Result<u64> {
    let header = header(vectors);
    // SAFETY: the header's vectors were made from guest memory that stays mapped; the kernel checks every address.
    let sent = unsafe {
        libc::sendmsg(
            host.as_raw_fd(),
            &header,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    u64::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn receive(host: &UnixStream, vectors: &[libc::iovec]) -> io::Result<u64> {
    let mut header = header(vectors);
    // SAFETY: as for sending.
    let got = unsafe { libc::recvmsg(host.as_raw_fd(), &mut header, libc::MSG_DONTWAIT) };
    u64::try_from(got).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
