//! A query that an upstream server is asked: one server after another, each by a socket and an id of its own (RFC 5452).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::message::{Answer, Match, Query, Rcode};
use super::sockets;
use super::stream::{Incoming, Outgoing};

/// How many servers are asked, as many as resolv.conf(5) has room for.
const SERVERS_MAX: usize = 3;

/// How long a server has when there is another to be asked. With three of them an answer comes before glibc and musl, which
/// wait five seconds, have given up asking.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the only or last server has: docker's patience.
const PATIENCE_WITH_LAST: Duration = Duration::from_secs(4);

/// The longest reply by UDP, bytes: what programs announce at most. A longer one is asked for again by TCP.
pub(super) const REPLY_MAX: u16 = 4096;

/// Who waits for the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Datagram(SocketAddrV4),
    /// A connection, by its serial number.
    Connection(u64),
}

/// What became of it so far.
#[derive(Debug)]
enum Progress {
    Waiting,
    /// This server says nothing, or not what can be passed on.
    Failed,
    /// The reply, and whether another server could have a better one.
    Reply(Vec<u8>, bool),
}

#[derive(Debug)]
enum Link {
    Datagram(UdpSocket),
    Stream(TcpStream, Outgoing, bool, Incoming),
}

/// An outstanding query.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) origin: Origin,
    pub(super) asker: Ipv4Addr,
    /// As the client sent it.
    message: Box<[u8]>,
    query: Query,
    /// Those that have not been asked.
    servers: std::vec::IntoIter<SocketAddr>,
    link: Option<Link>,
    /// What the server that is being asked knows the query by.
    id: u16,
    /// When the server has had its time.
    pub(super) deadline: Instant,
    /// What is said when every server fails.
    failure: Rcode,
}

impl Forward {
    pub(super) fn new(
        origin: Origin,
        asker: Ipv4Addr,
        message: &[u8],
        query: Query,
        mut servers: Vec<SocketAddr>,
    ) -> Self {
        servers.truncate(SERVERS_MAX);
        Self {
            origin,
            asker,
            message: message.into(),
            query,
            servers: servers.into_iter(),
            link: None,
            id: 0,
            deadline: Instant::now(),
            failure: Rcode::FAILURE,
        }
    }

    /// Asks the next server that can be asked. The reply to give up with when there is none.
    pub(super) fn ask(&mut self) -> Option<Vec<u8>> {
        self.link = None;
        while let Some(server) = self.servers.next() {
            let Ok(link) = self.link(server) else {
                continue;
            };
            self.link = Some(link);
            let last = self.servers.as_slice().is_empty();
            self.deadline = Instant::now() + if last { PATIENCE_WITH_LAST } else { PATIENCE };
            return None;
        }
        Some(self.give_up())
    }

    fn link(&mut self, server: SocketAddr) -> std::io::Result<Link> {
        self.id = sockets::random()?;
        let mut message = self.message.clone();
        message[..2].copy_from_slice(&self.id.to_be_bytes());
        Ok(match self.origin {
            Origin::Datagram(_) => {
                let socket = sockets::ask(server)?;
                socket.send(&message)?;
                Link::Datagram(socket)
            }
            Origin::Connection(_) => Link::Stream(
                sockets::connect(server)?,
                Outgoing::new(&message),
                false,
                Incoming::default(),
            ),
        })
    }

    /// The reply to a query that nobody answers.
    pub(super) fn give_up(&self) -> Vec<u8> {
        let limit = self.limit();
        self.query
            .answer(&self.message, self.failure, Answer::Nothing, limit)
    }

    fn limit(&self) -> usize {
        match self.origin {
            Origin::Datagram(_) => self.query.datagram(REPLY_MAX),
            Origin::Connection(_) => u16::MAX.into(),
        }
    }

    /// What to wait for.
    pub(super) fn polled(&self) -> libc::pollfd {
        let (fd, events) = match &self.link {
            // poll passes over a negative number.
            None => (-1, 0),
            Some(Link::Datagram(socket)) => (socket.as_raw_fd(), libc::POLLIN),
            Some(Link::Stream(stream, _, true, _)) => (stream.as_raw_fd(), libc::POLLIN),
            Some(Link::Stream(stream, ..)) => (stream.as_raw_fd(), libc::POLLOUT),
        };
        libc::pollfd {
            fd,
            events,
            revents: 0,
        }
    }

    /// Goes on when the server has something to say. The reply for the client when it is there.
    pub(super) fn ready(&mut self) -> Option<Vec<u8>> {
        match self.listen() {
            Progress::Waiting => None,
            Progress::Failed => self.ask(),
            Progress::Reply(_, true) if !self.servers.as_slice().is_empty() => self.ask(),
            Progress::Reply(reply, _) => {
                Some(self.query.pass_on(&self.message, reply, self.limit()))
            }
        }
    }

    fn listen(&mut self) -> Progress {
        match &mut self.link {
            None => Progress::Waiting,
            Some(Link::Datagram(socket)) => {
                // A byte more than is passed on, so that what is too long shows.
                let mut buffer = [0; REPLY_MAX as usize + 1];
                match socket.recv(&mut buffer) {
                    Ok(count) => {
                        let reply = &buffer[..count];
                        self.judge(reply.to_vec(), Progress::Waiting)
                    }
                    Err(e) if is_passing(&e) => Progress::Waiting,
                    // Nobody listens there.
                    Err(_) => Progress::Failed,
                }
            }
            Some(Link::Stream(stream, outgoing, sent, incoming)) => {
                if !*sent {
                    match outgoing.write(stream) {
                        Ok(done) => *sent = done,
                        Err(_) => return Progress::Failed,
                    }
                    return Progress::Waiting;
                }
                match incoming.read(stream, u16::MAX.into()) {
                    Ok(Some(reply)) => self.judge(reply, Progress::Failed),
                    Ok(None) => Progress::Waiting,
                    Err(_) => Progress::Failed,
                }
            }
        }
    }

    /// What a reply is worth; `wrong` when it answers another question or a guessed id.
    fn judge(&mut self, reply: Vec<u8>, wrong: Progress) -> Progress {
        match self.query.is_answered_by(&self.message, self.id, &reply) {
            Match::No => wrong,
            Match::Failed(code) => {
                self.failure = code;
                Progress::Failed
            }
            // docker too takes these for the trouble of one server.
            Match::Yes(code) => {
                let refused = code == Rcode::FAILURE || code == Rcode::REFUSED;
                Progress::Reply(reply, refused)
            }
        }
    }
}

/// Whether a system call is to be tried again.
pub(super) fn is_passing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
    )
}
