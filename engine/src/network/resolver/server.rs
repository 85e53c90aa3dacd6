//! The loop that serves queries. It belongs to one thread, waits in poll(2) for everything at once and never for one client.
//!
//! What an instance can make it hold: [`FORWARDS_EACH`] outstanding queries of half a KiB and a socket, [`CLIENTS_EACH`]
//! connections with a reply of 64 KiB, and both only for seconds.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use super::forward::{Forward, Origin, is_passing};
use super::message::{self, Answer, DATAGRAM_MAX, QUERY_MAX, Query, Rcode, Received};
use super::stream::{Incoming, Outgoing};
use super::{Directory, Lookup, sockets};

/// Outstanding queries, and how many of them may be one instance's. Beyond that the oldest fails.
pub(super) const FORWARDS_MAX: usize = 256;
pub(super) const FORWARDS_EACH: usize = 64;

/// Connections, and how many of them may be one instance's. Beyond that the oldest is closed.
pub(super) const CLIENTS_MAX: usize = 32;
pub(super) const CLIENTS_EACH: usize = 8;

/// How long a client has to send a whole query, and to take a whole reply: dribbling does not make it longer.
/// Tests have less of it, not to be waited for.
const IDLE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });

/// How many datagrams or connections are taken before anything else has its turn.
const BURST: usize = 32;

/// How long no connection is accepted after descriptors have run out; they still wait, and asking at once would spin.
const BREATH: Duration = Duration::from_millis(500);

/// Outstanding queries whose memory, some KiB, is not worth giving back.
const FEW: usize = 8;

/// Counters for the order of shared names, by a hash of the name.
const TURNS: usize = 64;

/// What is polled before the clients: the end, the datagrams, the listener.
const FIXED: usize = 3;

/// What to do about a query.
enum Outcome {
    /// It is not one, or asks for nothing that may be answered.
    Silence,
    Reply(Vec<u8>),
    /// Somebody else is asked.
    Forwarded,
}

enum Phase {
    Reading(Incoming),
    /// For upstream servers. The next query of the connection stays in the kernel meanwhile.
    Waiting,
    Writing(Outgoing),
}

/// A connection.
struct Client {
    serial: u64,
    stream: TcpStream,
    asker: Ipv4Addr,
    phase: Phase,
    /// When the phase is over; none while waiting, which the outstanding query bounds.
    deadline: Option<Instant>,
    over: bool,
}

impl Client {
    fn enter(&mut self, phase: Phase) {
        self.deadline = match phase {
            Phase::Waiting => None,
            Phase::Reading(_) | Phase::Writing(_) => Some(Instant::now() + IDLE),
        };
        self.phase = phase;
    }

    fn polled(&self) -> libc::pollfd {
        libc::pollfd {
            fd: self.stream.as_raw_fd(),
            events: match self.phase {
                Phase::Reading(_) => libc::POLLIN,
                // That it is gone is told unasked.
                Phase::Waiting => 0,
                Phase::Writing(_) => libc::POLLOUT,
            },
            revents: 0,
        }
    }

    /// Writes what there is to be written.
    fn write(&mut self) {
        if let Phase::Writing(outgoing) = &mut self.phase {
            match outgoing.write(&mut self.stream) {
                Ok(true) => self.enter(Phase::Reading(Incoming::default())),
                Ok(false) => {}
                Err(_) => self.over = true,
            }
        }
    }
}

pub(super) struct Server<D> {
    address: SocketAddrV4,
    directory: D,
    stop: Arc<EventFd>,
    datagrams: UdpSocket,
    listener: TcpListener,
    /// When connections are accepted again.
    breath: Option<Instant>,
    /// The oldest first, as are the outstanding queries; those that are over go at the end of each turn.
    clients: Vec<Client>,
    forwards: Vec<(Forward, bool)>,
    /// Whether there was more to remember than usual.
    swollen: bool,
    serial: u64,
    turns: [u16; TURNS],
}

impl<D: Directory> Server<D> {
    pub(super) fn new(address: SocketAddrV4, directory: D, stop: Arc<EventFd>) -> io::Result<Self> {
        Ok(Self {
            address,
            directory,
            stop,
            datagrams: sockets::datagrams(address)?,
            listener: sockets::connections(address, CLIENTS_MAX as i32)?,
            breath: None,
            clients: Vec::new(),
            forwards: Vec::new(),
            swollen: false,
            serial: 0,
            // Resolvers of one network do not all begin with the same address.
            turns: [sockets::random()?; TURNS],
        })
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            let mut polled = Vec::with_capacity(FIXED + self.clients.len() + self.forwards.len());
            let listens = self.breath.is_none();
            for (fd, wanted) in [
                (self.stop.as_fd().as_raw_fd(), true),
                (self.datagrams.as_raw_fd(), true),
                (self.listener.as_raw_fd(), listens),
            ] {
                polled.push(libc::pollfd {
                    fd: if wanted { fd } else { -1 },
                    events: libc::POLLIN,
                    revents: 0,
                });
            }
            polled.extend(self.clients.iter().map(Client::polled));
            polled.extend(self.forwards.iter().map(|(forward, _)| forward.polled()));
            if let Err(e) = sockets::wait(&mut polled, self.next_deadline()) {
                // Without memory for the kernel's own table there is nothing to do but to wait for better times.
                if !is_passing(&e) {
                    std::thread::sleep(BREATH);
                }
                continue;
            }
            if polled[0].revents != 0 {
                break;
            }
            self.turn(&polled);
        }
        sockets::withdraw(self.address, &self.datagrams, &self.listener);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let clients = self.clients.iter().filter_map(|client| client.deadline);
        let forwards = self.forwards.iter().map(|(forward, _)| forward.deadline);
        clients.chain(forwards).chain(self.breath).min()
    }

    fn turn(&mut self, polled: &[libc::pollfd]) {
        let ready = |at: usize| polled.get(at).map_or(0, |entry| entry.revents);
        // What is added below comes after these, and nothing is taken out before the end.
        let (clients, forwards) = (self.clients.len(), self.forwards.len());
        for index in 0..forwards {
            if ready(FIXED + clients + index) != 0 && !self.forwards[index].1 {
                let reply = self.forwards[index].0.ready();
                self.finish(index, reply);
            }
        }
        for index in 0..clients {
            let events = ready(FIXED + index);
            if events != 0 && !self.clients[index].over {
                self.serve(index, events);
            }
        }
        if ready(1) != 0 {
            self.take_datagrams();
        }
        if ready(2) != 0 {
            self.accept();
        }
        self.expire(Instant::now());
        self.sweep();
    }

    /// Ends what has had its time.
    fn expire(&mut self, now: Instant) {
        for index in 0..self.forwards.len() {
            let (forward, over) = &mut self.forwards[index];
            if !*over && forward.deadline <= now {
                let reply = forward.ask();
                self.finish(index, reply);
            }
        }
        for client in &mut self.clients {
            client.over |= client.deadline.is_some_and(|deadline| deadline <= now);
        }
        self.breath = self.breath.filter(|breath| *breath > now);
    }

    fn sweep(&mut self) {
        let clients = &mut self.clients;
        clients.retain(|client| !client.over);
        self.forwards.retain(|(forward, over)| {
            // Nobody waits for what a connection that is gone has asked.
            let waits = match forward.origin {
                Origin::Datagram(_) => true,
                Origin::Connection(serial) => clients.iter().any(|client| client.serial == serial),
            };
            !over && waits
        });
        self.swollen |= self.forwards.len() > FEW || !self.clients.is_empty();
        if self.swollen && self.forwards.is_empty() && self.clients.is_empty() {
            self.shrink();
        }
    }

    /// Gives back what a flood has used: a supervisor is there as long as its instance, and is asked little.
    fn shrink(&mut self) {
        self.swollen = false;
        self.forwards = Vec::new();
        self.clients = Vec::new();
        // SAFETY: malloc_trim gives the kernel pages that the allocator does not use.
        unsafe { libc::malloc_trim(0) };
    }

    /// Delivers the reply to an outstanding query, if there is one.
    fn finish(&mut self, index: usize, reply: Option<Vec<u8>>) {
        let (Some(reply), Some((forward, over))) = (reply, self.forwards.get_mut(index)) else {
            return;
        };
        *over = true;
        match forward.origin {
            Origin::Datagram(to) => self.send(to, &reply),
            Origin::Connection(serial) => {
                let waiting = |client: &&mut Client| {
                    client.serial == serial && matches!(client.phase, Phase::Waiting)
                };
                if let Some(client) = self.clients.iter_mut().find(waiting) {
                    client.enter(Phase::Writing(Outgoing::new(&reply)));
                    client.write();
                }
            }
        }
    }

    /// A datagram that cannot be sent is one that was lost, which clients expect.
    fn send(&self, to: SocketAddrV4, reply: &[u8]) {
        let _ = self.datagrams.send_to(reply, to);
    }

    fn take_datagrams(&mut self) {
        // A byte more than is looked at, so that what is too long shows.
        let mut buffer = [0; QUERY_MAX + 1];
        for _ in 0..BURST {
            let (count, from) = match self.datagrams.recv_from(&mut buffer) {
                Ok((count, SocketAddr::V4(from))) => (count, from),
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // An error that the network reported is cleared by having been read.
                Err(_) => continue,
            };
            let message = &buffer[..count];
            if let Outcome::Reply(reply) = self.handle(message, Origin::Datagram(from), *from.ip())
            {
                self.send(from, &reply);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..BURST {
            let (stream, asker) = match self.listener.accept() {
                Ok((stream, SocketAddr::V4(from))) => (stream, *from.ip()),
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    // What went wrong with one connection is reported here too (accept(2)); only these concern all of them.
                    let short = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
                    if e.raw_os_error().is_some_and(|code| short.contains(&code)) {
                        self.breath = Some(Instant::now() + BREATH);
                        return;
                    }
                    continue;
                }
            };
            if !self.directory.serves(asker) || stream.set_nonblocking(true).is_err() {
                continue;
            }
            // Replies go out whole: there is nothing to wait for.
            let _ = stream.set_nodelay(true);
            self.make_room_for_client(asker);
            self.serial += 1;
            let mut client = Client {
                serial: self.serial,
                stream,
                asker,
                phase: Phase::Waiting,
                deadline: None,
                over: false,
            };
            client.enter(Phase::Reading(Incoming::default()));
            self.clients.push(client);
        }
    }

    fn make_room_for_client(&mut self, asker: Ipv4Addr) {
        let live = self.clients.iter().enumerate();
        let live = live.filter(|(_, client)| !client.over);
        let live = live.map(|(index, client)| (index, client.asker));
        if let Some(oldest) = one_too_many(live, asker, CLIENTS_EACH, CLIENTS_MAX) {
            self.clients[oldest].over = true;
        }
    }

    /// Goes on with a connection.
    fn serve(&mut self, index: usize, events: i16) {
        let client = &mut self.clients[index];
        let message = match &mut client.phase {
            Phase::Writing(_) => return client.write(),
            Phase::Waiting => {
                client.over = events & (libc::POLLERR | libc::POLLHUP) != 0;
                return;
            }
            Phase::Reading(incoming) => match incoming.read(&mut client.stream, QUERY_MAX) {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(_) => {
                    client.over = true;
                    return;
                }
            },
        };
        // Before it is handled: a reply that is there at once finds it waiting.
        client.enter(Phase::Waiting);
        let (origin, asker) = (Origin::Connection(client.serial), client.asker);
        let outcome = self.handle(&message, origin, asker);
        let client = &mut self.clients[index];
        match outcome {
            Outcome::Reply(reply) => {
                client.enter(Phase::Writing(Outgoing::new(&reply)));
                client.write();
            }
            Outcome::Forwarded => {}
            Outcome::Silence => client.over = true,
        }
    }

    /// What to do about a message.
    fn handle(&mut self, message: &[u8], origin: Origin, asker: Ipv4Addr) -> Outcome {
        let query = match message::read(message) {
            Received::Noise => return Outcome::Silence,
            // Before anything is said to strangers but this, which is no longer than what they sent.
            _ if !self.directory.serves(asker) => {
                return Outcome::Reply(message::refuse(message, Rcode::REFUSED));
            }
            Received::Bad(code) => return Outcome::Reply(message::refuse(message, code)),
            Received::Query(query) => query,
        };
        let limit = match origin {
            Origin::Datagram(_) => query.datagram(DATAGRAM_MAX),
            Origin::Connection(_) => u16::MAX.into(),
        };
        let reply = |code, answer| Outcome::Reply(query.answer(message, code, answer, limit));
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return reply(Rcode::BAD_VERSION, Answer::Nothing);
        }
        if query.class != message::CLASS_IN || message::TYPES_REFUSED.contains(&query.kind) {
            return reply(Rcode::REFUSED, Answer::Nothing);
        }
        if let Some(name) = query.name(message) {
            if let Some(target) = self.reverse(asker, &query, &name) {
                return reply(Rcode::NO_ERROR, Answer::Name(&target));
            }
            if let Lookup::Addresses(addresses) = self.directory.lookup(asker, &name) {
                // Names of instances have IPv4 addresses and nothing else; ANY may be answered with what there is (RFC 8482).
                let answer = match query.kind {
                    message::TYPE_A | message::TYPE_ANY => {
                        Answer::Addresses(&addresses, self.rotate(&name, addresses.len()))
                    }
                    _ => Answer::Nothing,
                };
                return reply(Rcode::NO_ERROR, answer);
            }
        }
        let mut servers = self.directory.upstreams(asker);
        // Asking itself would never end.
        servers.retain(|server| *server != SocketAddr::V4(self.address));
        if servers.is_empty() {
            // A name without a dot is nobody's but the network's.
            let code = match query.labels {
                1 => Rcode::NO_NAME,
                _ => Rcode::FAILURE,
            };
            return reply(code, Answer::Nothing);
        }
        let mut forward = Forward::new(origin, asker, message, query, servers);
        if let Some(reply) = forward.ask() {
            return Outcome::Reply(reply);
        }
        self.make_room_for_forward(asker);
        self.forwards.push((forward, false));
        Outcome::Forwarded
    }

    /// The encoded name of the instance whose address is asked for.
    fn reverse(&self, asker: Ipv4Addr, query: &Query, name: &str) -> Option<Vec<u8>> {
        if query.kind != message::TYPE_PTR {
            return None;
        }
        let address = message::reversed(name)?;
        message::encode(&self.directory.reverse(asker, address)?)
    }

    /// Which of a name's addresses comes first this time.
    fn rotate(&mut self, name: &str, count: usize) -> usize {
        if count < 2 {
            return 0;
        }
        // FNV-1a: names that share a counter only rotate less evenly.
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let turn = &mut self.turns[hash as usize % TURNS];
        *turn = turn.wrapping_add(1);
        usize::from(*turn) % count
    }

    /// Beyond their bounds the oldest outstanding query fails, which its client may take for a reason to ask again.
    fn make_room_for_forward(&mut self, asker: Ipv4Addr) {
        let live = self.forwards.iter().enumerate();
        let live = live.filter(|(_, (_, over))| !over);
        let live = live.map(|(index, (forward, _))| (index, forward.asker));
        if let Some(oldest) = one_too_many(live, asker, FORWARDS_EACH, FORWARDS_MAX) {
            let reply = self.forwards[oldest].0.give_up();
            self.finish(oldest, Some(reply));
        }
    }
}

/// Which has to go before there is another of `asker`'s, when one has: its own oldest if it has `each`, anybody's if there are
/// `most`. `live` are those that there are, the oldest first, and whose they are.
fn one_too_many(
    mut live: impl Iterator<Item = (usize, Ipv4Addr)> + Clone,
    asker: Ipv4Addr,
    each: usize,
    most: usize,
) -> Option<usize> {
    let mut own = live.clone().filter(|(_, theirs)| *theirs == asker);
    let oldest = if own.clone().count() >= each {
        own.next()
    } else if live.clone().count() >= most {
        live.next()
    } else {
        None
    };
    oldest.map(|(index, _)| index)
}
