//! One small process for each running instance: it starts the instance, keeps its log, serves those who attach, obeys
//! `stop`, `kill`, `pause`, applies the restart policy, and settles everything when the instance has ended.
//!
//! It is a fork of the command that started the instance, in a session of its own, so that nothing which happens to that
//! command matters. It holds the instance's lock; the instance's first process dies with it (`PR_SET_PDEATHSIG`). One thread
//! does everything and waits only in poll.
//!
//! **Invariant:** what an attached command sends or fails to read never ends the instance; at most it holds its output up.

mod client;
mod fork;
pub(crate) mod protocol;
mod settle;
mod sink;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use image_core::{Image, Store};

use crate::backend::{self, Confirmed, Context, Exit, Job, Place, Remains, Running, Streams};
use crate::base;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{
    Lock, Record, State, Status, now, process_started, read_state, write_record, write_state,
};
use crate::lifecycle;
use crate::logs::{self, Stream, Writer};
use crate::network::{self, Attachment, Connection, EtcFile, NetworkMode};
use crate::process::Process;
use crate::signals::Signals;
use crate::spec::{BackendKind, RestartPolicy};
use crate::terminal::Size;
use crate::timeline::Timeline;

use client::Client;
use protocol::{Link, Reply, Request, make_room, system};

pub(crate) use fork::spawn;
pub(crate) use settle::connect;

/// The socket that commands connect to, in the instance's directory.
pub(crate) const SOCKET: &str = "control";

/// How much of an instance's output is read at once.
const CHUNK: usize = 128 << 10;

/// The capacity asked for once a stream has filled a whole pipe: what anybody may have (/proc/sys/fs/pipe-max-size).
const PIPE_BYTES: i32 = 1 << 20;

/// How long after its start an instance is taken for one that stays.
const IDLE_AFTER: Duration = Duration::from_millis(500);

/// How long a guest has to end its processes once it is told to; a busy kvm_pvm host takes some seconds.
const DIES_WITHIN: Duration = Duration::from_secs(10);

/// How soon a command that only looks on is told that its instance runs. Most of those that end sooner were started for their end
/// alone: to be woken twice would only take a processor from them.
const TELLS_AFTER: Duration = Duration::from_millis(10);

/// docker's delays before a restart: this long, doubled each time, up to the most, and from the beginning again after an
/// instance has run for long enough.
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MOST: Duration = Duration::from_secs(60);
const RUNS_WELL_AFTER: Duration = Duration::from_secs(10);

/// The command that starts an instance, as its supervisor will see it.
pub(crate) struct Starter {
    /// The supervisor's end of the link to it.
    pub(crate) link: Link,
    /// Where it wants stdout and stderr.
    pub(crate) sinks: [Option<OwnedFd>; 2],
    /// Whether it sends standard input.
    pub(crate) stdin: bool,
    /// The window of its terminal.
    pub(crate) size: Size,
}

/// What is to be started.
pub(crate) struct Launch {
    /// The image, where the command has looked it up already, for an instance that has just been made.
    pub(crate) image: Option<(Store, Image)>,
    pub(crate) home: Home,
    pub(crate) record: Record,
    pub(crate) lock: Lock,
    pub(crate) starter: Starter,
    pub(crate) timeline: Timeline,
}

struct Supervisor {
    image: Option<(Store, Image)>,
    home: Home,
    record: Record,
    state: State,
    signals: Signals,
    listener: Option<Link>,
    clients: Vec<Client>,
    log: Writer,
    size: Size,
    timeline: Timeline,
    /// Its places on networks while it runs.
    connection: Option<Connection>,
    /// What it has left behind on networks that may have nobody any more.
    left: network::Left,
    /// What it still has in the kernel although it has ended.
    remains: Remains,
    /// When SIGKILL follows the signal of `stop`.
    kill_at: Option<Instant>,
    /// When the instance is taken for one that stays, and what starting has used is given back.
    shrink_at: Option<Instant>,
    /// That has been done.
    shrunk: Cell<bool>,
    /// When a command that only looks on is told that the instance runs.
    tell_at: Option<Instant>,
    /// SIGKILL has been sent.
    killed: bool,
    /// The command has run at least once, so that failures are the instance's and no longer the starter's.
    has_run: bool,
}

/// How one run of the instance came out.
enum Outcome {
    Ended(Exit),
    Failed(Error),
}

impl Supervisor {
    fn new(launch: Launch, signals: Signals) -> (Self, Lock) {
        let Launch {
            image,
            home,
            record,
            lock,
            starter,
            timeline,
        } = launch;
        // One that has just been made has no state yet.
        let previous = match &image {
            Some(_) => State::default(),
            None => read_state(&home, &record.id).unwrap_or_default(),
        };
        let log = Writer::new(
            logs::path(&home.instance(&record.id), &record.id),
            record.spec.log.clone(),
        );
        let supervisor = Self {
            state: State {
                supervisor: std::process::id().cast_signed(),
                restart_count: 0,
                stopped_by_user: false,
                error: None,
                ..previous
            },
            image,
            home,
            record,
            signals,
            listener: None,
            size: starter.size,
            clients: vec![Client::starter(starter)],
            log,
            timeline,
            connection: None,
            left: network::Left::default(),
            remains: Remains::default(),
            kill_at: None,
            shrink_at: None,
            shrunk: Cell::new(true),
            tell_at: None,
            killed: false,
            has_run: false,
        };
        (supervisor, lock)
    }

    /// From the first start to the last end.
    fn run(mut self, lock: Lock) {
        let mut delay = DELAY_FIRST;
        loop {
            let begun = Instant::now();
            let outcome = self.run_once();
            if begun.elapsed() >= RUNS_WELL_AFTER {
                delay = DELAY_FIRST;
            }
            let again = self.is_wanted_again(&outcome);
            self.note(&outcome, again);
            if !again {
                self.settle(lock, outcome);
                return;
            }
            self.tell_end(&outcome, true);
            if !self.rest(delay) {
                self.state.status = Status::Exited;
                self.settle(lock, outcome);
                return;
            }
            delay = (delay * 2).min(DELAY_MOST);
            self.state.restart_count += 1;
        }
    }

    /// Starts the instance and attends to it until it has ended.
    fn run_once(&mut self) -> Outcome {
        self.kill_at = None;
        self.killed = false;
        let outcome = self.run_connected();
        // After the instance, which may be using it to its last moment.
        self.disconnect();
        outcome
    }

    fn run_connected(&mut self) -> Outcome {
        let mut running = match self.start() {
            Ok(running) => running,
            Err(error) => return Outcome::Failed(error),
        };
        match self.attend(running.as_mut()) {
            Ok(()) => {}
            Err(error) => return Outcome::Failed(error),
        }
        let passing = self.record.spec.auto_remove;
        self.timeline.mark("ended");
        match running.finish(passing) {
            Ok((exit, remains)) => {
                self.timeline.mark("released");
                self.timeline.set_peak_memory(exit.peak_memory);
                self.remains = remains;
                Outcome::Ended(exit)
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    fn start(&mut self) -> Result<Box<dyn Running>> {
        let (store, image) = match self.image.take() {
            Some(known) => known,
            None => {
                let store = self.home.images()?;
                let image = if base::is_base(&self.record.spec.image) {
                    base::ensure(&store)?
                } else {
                    store.resolve(&self.record.image_id)?
                };
                (store, image)
            }
        };
        let backend = backend::of(self.record.spec.backend);
        let place = Place {
            home: &self.home,
            record: &self.record,
            store: &store,
            image: &image,
        };
        let begun = backend.begin(&place)?;
        let mut process = Process::new(
            &self.record.spec,
            &store,
            &image,
            self.record.command.clone(),
            self.record.hostname(),
        )?;
        self.timeline.mark("image");
        let (mut connection, files) = self.connect()?;
        process.link(network::link_environment(&self.home, &self.record)?);
        let job = Job {
            home: &self.home,
            record: &self.record,
            store: &store,
            image: &image,
            process: &process,
            network: &connection,
            files: &files,
            terminal: self.record.spec.terminal.then_some(self.size),
        };
        let clients = &self.clients;
        let listens = self.listener.is_some();
        let (mut listener, mut started) = (None, 0);
        let mut context = Context {
            timeline: &mut self.timeline,
            notice: &mut |line| tell_all(clients, line),
            begun,
            // Nobody connects before the state says that it runs.
            meanwhile: &mut |pid| {
                started = process_started(pid).unwrap_or(0);
                if !listens {
                    listener = Some(settle::listen(job.home, &job.record.id));
                }
            },
        };
        let running = backend.start(&job, &mut context)?;
        if !listens {
            let made = listener.unwrap_or_else(|| settle::listen(&self.home, &self.record.id));
            self.listener = Some(made?);
        }
        self.state.endpoints.clone_from(&connection.endpoints);
        self.state.bindings.clone_from(&connection.bindings);
        network::tell_links(&self.home, &self.record, &connection.endpoints);
        let clients = &self.clients;
        connection.resolve(&mut |line| tell_all(clients, line));
        self.connection = Some(connection);
        self.state.pid = running.pid();
        self.state.pid_started = match started {
            0 => process_started(running.pid()).unwrap_or(0),
            known => known,
        };
        self.state.accelerator = running.accelerator();
        self.state.status = Status::Running;
        self.state.started_at = now();
        Ok(running)
    }

    /// Gets the instance its places on networks, and what it is told of them.
    fn connect(&mut self) -> Result<(Connection, Vec<EtcFile>)> {
        let clients = &self.clients;
        let connection = Connection::make(&self.home, &self.record, &mut |line| {
            tell_all(clients, line);
        })?;
        let files = match self.record.spec.backend {
            BackendKind::Native => Vec::new(),
            BackendKind::Container | BackendKind::Vm | BackendKind::Toolbox => {
                network::compose(&self.home, &self.record, &connection)?.into()
            }
        };
        if !connection.endpoints.is_empty() {
            self.timeline.mark("leased");
        }
        Ok((connection, files))
    }

    /// Gives the instance's addresses and ports back.
    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.left.add(connection.end());
        }
        self.state.endpoints.clear();
        self.state.bindings.clear();
    }

    /// The command runs: everybody may know.
    fn started(&mut self) -> Result<()> {
        self.state.started_at = now();
        write_state(&self.home, &self.record.id, &self.state)?;
        self.has_run = true;
        for client in self.clients.iter_mut().filter(|client| !client.looks_on()) {
            client.started();
        }
        let somebody_looks_on = self.clients.iter().any(Client::looks_on);
        self.tell_at = somebody_looks_on.then(|| Instant::now() + TELLS_AFTER);
        if !self.record.spec.auto_remove {
            // What the user was told survives a power cut; not on the way to the command's first instruction.
            settle::make_durable(&self.home, &self.record.id);
        }
        self.shrink_at = Some(Instant::now() + IDLE_AFTER);
        Ok(())
    }

    /// Carries streams and obeys requests until the command has ended and everything it wrote is passed on.
    fn attend(&mut self, running: &mut dyn Running) -> Result<()> {
        let mut streams = running.take_streams();
        let mut buffer = Vec::new();
        let mut booting = running.pending().is_some();
        if booting {
            write_state(&self.home, &self.record.id, &self.state)?;
        } else {
            self.started()?;
        }
        let mut ended = false;
        loop {
            if ended {
                self.drain(&mut streams, &mut buffer);
                if self.clients.iter().all(Client::is_clear) {
                    return Ok(());
                }
            }
            let ready = self.wait(running, &streams, booting, ended)?;
            if ready.signals {
                self.obey_signals(running)?;
            }
            if ready.pending && booting {
                let clients = &self.clients;
                let mut context = Context {
                    timeline: &mut self.timeline,
                    notice: &mut |line| tell_all(clients, line),
                    begun: None,
                    meanwhile: &mut |_| {},
                };
                let confirmed = running.confirm(&mut context)?;
                booting = confirmed == Confirmed::GoesOn;
                match confirmed {
                    Confirmed::Runs => self.started()?,
                    Confirmed::GivenUp => ended = true,
                    Confirmed::GoesOn => {
                        self.state.pid = running.pid();
                        self.state.pid_started = process_started(running.pid()).unwrap_or(0);
                        write_state(&self.home, &self.record.id, &self.state)?;
                    }
                }
            }
            if ready.output || ready.errors {
                self.forward(&mut streams, &ready, &mut buffer);
            } else if buffer.capacity() > 0 {
                buffer = Vec::new();
            }
            if ready.listener {
                self.accept();
            }
            self.hear(running)?;
            self.feed(&mut streams);
            for client in &mut self.clients {
                client.flush();
            }
            self.clients.retain(|client| !client.is_gone());
            if self.tell_at.is_some_and(|at| Instant::now() >= at) {
                self.tell_at = None;
                self.clients.iter_mut().for_each(Client::started);
            }
            if self.shrink_at.is_some_and(|at| Instant::now() >= at) {
                self.shrink_at = None;
                self.shrunk.set(false);
            }
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_at = None;
                if std::mem::replace(&mut self.killed, true) {
                    running.end_at_once();
                } else {
                    running.signal(libc::SIGKILL)?;
                    self.wake(running);
                    self.kill_at = Some(Instant::now() + DIES_WITHIN);
                }
            }
            ended = ended || ready.ended;
        }
    }

    /// Waits for whatever can go on.
    fn wait(
        &self,
        running: &dyn Running,
        streams: &Streams,
        booting: bool,
        ended: bool,
    ) -> Result<Ready> {
        let mut polls = Polls::default();
        let signals = polls.add(self.signals.number(), libc::POLLIN);
        let end = polls.add_if(
            !ended && !booting,
            running.ended().as_raw_fd(),
            libc::POLLIN,
        );
        let pending = polls.add_if(
            booting,
            running.pending().map_or(-1, |pending| pending.as_raw_fd()),
            libc::POLLIN,
        );
        let listener = polls.add(
            self.listener.as_ref().map_or(-1, Link::number),
            libc::POLLIN,
        );
        // A reader that is slow holds the instance's output up, as docker's attach does.
        let takes = !self.clients.iter().any(Client::is_full);
        let output = polls.add_if(
            takes && !ended,
            number(streams.output.as_ref()),
            libc::POLLIN,
        );
        let errors = polls.add_if(
            takes && !ended,
            number(streams.errors.as_ref()),
            libc::POLLIN,
        );
        let hungry = self.clients.iter().any(Client::has_input);
        polls.add_if(hungry, number(streams.input.as_ref()), libc::POLLOUT);
        for client in &self.clients {
            client.watch(&mut polls);
        }
        let next = [self.kill_at, self.shrink_at, self.tell_at]
            .into_iter()
            .flatten()
            .min();
        let patience = next.map(|at| at.saturating_duration_since(Instant::now()));
        if patience.is_none() && !self.shrunk.replace(true) {
            // As late as can be: what runs from here to the wait in the kernel is all that stays mapped.
            fork::shrink();
        }
        polls.wait(patience)?;
        Ok(Ready {
            signals: polls.is_ready(signals),
            ended: polls.is_ready(end),
            pending: polls.is_ready(pending),
            listener: polls.is_ready(listener),
            output: polls.is_ready(output),
            errors: polls.is_ready(errors),
        })
    }

    /// Passes on what the instance has written.
    fn forward(&mut self, streams: &mut Streams, ready: &Ready, buffer: &mut Vec<u8>) {
        if ready.output
            && let Some(output) = &streams.output
            && self.pass(output, Stream::Stdout, buffer) == Flow::Closed
        {
            streams.output = None;
        }
        if ready.errors
            && let Some(errors) = &streams.errors
            && self.pass(errors, Stream::Stderr, buffer) == Flow::Closed
        {
            streams.errors = None;
        }
    }

    /// Everything that is still in the streams, once the command has ended. What else may hold them open (a process that a
    /// native command has left behind) is not waited for.
    fn drain(&mut self, streams: &mut Streams, buffer: &mut Vec<u8>) {
        if let Some(output) = streams.output.take() {
            while self.pass(&output, Stream::Stdout, buffer) == Flow::More {}
        }
        if let Some(errors) = streams.errors.take() {
            while self.pass(&errors, Stream::Stderr, buffer) == Flow::More {}
        }
        streams.input = None;
        self.log.end(now());
    }

    /// Reads a stream once, into the log and to those who are attached.
    fn pass(&mut self, from: &OwnedFd, stream: Stream, buffer: &mut Vec<u8>) -> Flow {
        make_room(buffer, CHUNK);
        match nix::unistd::read(from, buffer) {
            Ok(0) => Flow::Closed,
            Ok(count) => {
                if count == 64 << 10 {
                    // A whole pipe's worth: it has more to say than fits. A terminal refuses, which harms nothing.
                    // SAFETY: F_SETPIPE_SZ takes a number.
                    unsafe { libc::fcntl(from.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES) };
                }
                let bytes = buffer.get(..count).unwrap_or_default();
                for client in &mut self.clients {
                    client.output(stream, bytes);
                }
                self.log.write(stream, bytes, now());
                if let Some(error) = self.log.take_trouble() {
                    let line = format!("output is missing in the log: {error}");
                    for client in &self.clients {
                        client.tell(&Reply::Notice(line.clone()));
                    }
                }
                Flow::More
            }
            Err(nix::Error::EINTR) => Flow::More,
            Err(nix::Error::EAGAIN) => Flow::Dry,
            // EIO is how a terminal says that the last process on it has gone.
            Err(_) => Flow::Closed,
        }
    }

    /// Hands what attached commands have sent to the instance.
    fn feed(&mut self, streams: &mut Streams) {
        let terminal = self.record.spec.terminal;
        let mut close = false;
        for client in &mut self.clients {
            match &streams.input {
                Some(input) => close |= client.feed(input) && !terminal,
                None => client.drop_input(),
            }
        }
        if close {
            streams.input = None;
        }
    }

    /// A command connects.
    fn accept(&mut self) {
        if let Some(link) = self.listener.as_ref().and_then(settle::accept) {
            self.clients.push(Client::visitor(link));
        }
    }

    /// Obeys what commands ask for.
    fn hear(&mut self, running: &mut dyn Running) -> Result<()> {
        let mut at = 0;
        while at < self.clients.len() {
            while let Some(request) = self.clients[at].hear() {
                self.obey(at, request, running)?;
            }
            at += 1;
        }
        Ok(())
    }

    fn obey(
        &mut self,
        at: usize,
        (request, descriptors): (Request, Vec<OwnedFd>),
        running: &mut dyn Running,
    ) -> Result<()> {
        let done = |result: Result<()>| match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(error.to_string()),
        };
        let reply = match request {
            Request::Attach {
                stdin,
                stdout,
                stderr,
            } => {
                self.clients[at].attach(stdin, stdout, stderr, descriptors);
                Reply::Done
            }
            Request::Resize { rows, columns } => {
                let size = Size { rows, columns };
                if let Some(process) = self.clients[at].process() {
                    process.resize(size);
                } else {
                    self.size = size;
                    running.resize(size);
                }
                return Ok(());
            }
            Request::StdinEnd => {
                self.clients[at].end_input();
                return Ok(());
            }
            Request::Detach => {
                self.clients[at].leave();
                return Ok(());
            }
            Request::Signal { number, by_user } => {
                if let Some(process) = self.clients[at].process() {
                    process.signal(number);
                    return Ok(());
                }
                self.state.stopped_by_user |= by_user;
                let sent = running.signal(number);
                if !by_user {
                    return sent;
                }
                if number == libc::SIGKILL {
                    self.wake(running);
                    self.killed = true;
                    self.kill_at = Some(Instant::now() + DIES_WITHIN);
                }
                done(sent)
            }
            Request::Stop { signal, timeout } => {
                self.stop(running, signal, timeout)?;
                Reply::Done
            }
            Request::Pause => done(self.pause(running, true)),
            Request::Unpause => done(self.pause(running, false)),
            Request::Connect(attachment) => done(self.plug(running, &attachment)),
            Request::Disconnect(network) => done(self.unplug(running, &network)),
            Request::Exec(request) => match running.exec(&request, descriptors) {
                Ok(process) => {
                    self.clients[at].execute(process);
                    Reply::Started
                }
                Err(error) => Reply::Failed {
                    code: error.exit_code(),
                    message: error.to_string(),
                },
            },
            Request::Watch => {
                self.clients[at].watch_end();
                Reply::Done
            }
        };
        self.clients[at].tell(&reply);
        Ok(())
    }

    /// Puts the running container on one more network.
    fn plug(&mut self, running: &dyn Running, attachment: &Attachment) -> Result<()> {
        let mut record = self.record.clone();
        lifecycle::join(
            &mut record.spec.network.attachments,
            attachment,
            &record.name,
        )?;
        let namespace = network_namespace(running.pid())?;
        let clients = &self.clients;
        let connection = self
            .connection
            .get_or_insert_with(|| Connection::none(&self.home, &self.record.id));
        connection.join(attachment, &mut |line| tell_all(clients, line))?;
        connection.resolve(&mut |line| tell_all(clients, line));
        let plugged = match connection.endpoints.last() {
            Some(endpoint) => endpoint.plug(namespace.as_fd()),
            None => Ok(()),
        };
        if let Err(error) = plugged {
            // The first failure is the one to tell.
            let _ = connection.leave(&attachment.network);
            return Err(error);
        }
        self.networks_changed(record)
    }

    /// Takes the running container off a network.
    fn unplug(&mut self, running: &dyn Running, network: &str) -> Result<()> {
        let mut record = self.record.clone();
        lifecycle::leave(&mut record.spec.network.attachments, network, &record.name)?;
        let namespace = network_namespace(running.pid())?;
        if let Some(connection) = &mut self.connection {
            let endpoint = connection
                .endpoints
                .iter()
                .find(|endpoint| endpoint.network == network);
            if let Some(endpoint) = endpoint {
                endpoint.unplug(namespace.as_fd())?;
            }
            connection.leave(network)?;
        }
        if record.spec.network.attachments.is_empty() {
            record.spec.network.mode = NetworkMode::None;
        }
        self.networks_changed(record)
    }

    fn networks_changed(&mut self, record: Record) -> Result<()> {
        write_record(&self.home, &record)?;
        self.record = record;
        if let Some(connection) = &self.connection {
            self.state.endpoints.clone_from(&connection.endpoints);
        }
        write_state(&self.home, &self.record.id, &self.state)?;
        network::collect(&self.home)
    }

    /// Begins to end the instance as the user asked.
    fn stop(
        &mut self,
        running: &mut dyn Running,
        signal: Option<i32>,
        timeout: Option<i64>,
    ) -> Result<()> {
        self.state.stopped_by_user = true;
        let number = signal.unwrap_or(self.record.spec.stop_signal);
        let timeout = timeout.unwrap_or(self.record.spec.stop_timeout);
        running.signal(number)?;
        self.wake(running);
        if let Ok(seconds) = u64::try_from(timeout) {
            // As far in the future as a clock goes is never.
            self.kill_at = Instant::now().checked_add(Duration::from_secs(seconds));
        }
        Ok(())
    }

    /// A paused instance cannot act on a signal.
    fn wake(&mut self, running: &mut dyn Running) {
        if self.state.status == Status::Paused {
            let _ = self.pause(running, false);
        }
    }

    fn pause(&mut self, running: &mut dyn Running, pause: bool) -> Result<()> {
        let short = self.record.short_id().to_owned();
        match (pause, self.state.status) {
            (true, Status::Paused) => {
                return Err(Error::Refused(format!(
                    "container {short} is already paused"
                )));
            }
            (false, Status::Running) => {
                return Err(Error::Refused(format!("container {short} is not paused")));
            }
            _ => {}
        }
        running.freeze(pause)?;
        self.state.status = if pause {
            Status::Paused
        } else {
            Status::Running
        };
        write_state(&self.home, &self.record.id, &self.state)
    }

    /// SIGTERM to the supervisor, as at the end of the host, stops the instance in good order.
    fn obey_signals(&mut self, running: &mut dyn Running) -> Result<()> {
        while let Some(number) = self.signals.next() {
            if number == libc::SIGTERM {
                self.stop(running, None, None)?;
            }
        }
        Ok(())
    }

    fn is_wanted_again(&self, outcome: &Outcome) -> bool {
        if self.state.stopped_by_user {
            return false;
        }
        let failed = match outcome {
            // What never ran is not tried again; docker does not either.
            Outcome::Failed(_) if !self.has_run => return false,
            Outcome::Failed(_) => true,
            Outcome::Ended(exit) => exit.ended.shell_code() != 0,
        };
        match self.record.spec.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure(most) => {
                failed && (most == 0 || self.state.restart_count < most)
            }
        }
    }

    /// Waits before a restart; false when the user has stopped the instance meanwhile.
    fn rest(&mut self, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return !self.state.stopped_by_user;
            }
            let mut polls = Polls::default();
            polls.add(self.signals.number(), libc::POLLIN);
            polls.add(
                self.listener.as_ref().map_or(-1, Link::number),
                libc::POLLIN,
            );
            for client in &self.clients {
                client.watch(&mut polls);
            }
            if polls.wait(Some(left)).is_err() {
                return false;
            }
            while let Some(number) = self.signals.next() {
                if number == libc::SIGTERM {
                    return false;
                }
            }
            self.accept();
            let mut stop = false;
            for client in &mut self.clients {
                while let Some((request, _)) = client.hear() {
                    match request {
                        Request::Stop { .. } | Request::Signal { by_user: true, .. } => {
                            stop = true;
                            client.tell(&Reply::Done);
                        }
                        Request::Watch => {
                            client.watch_end();
                            client.tell(&Reply::Done);
                        }
                        Request::Resize { .. } | Request::StdinEnd => {}
                        Request::Detach => client.leave(),
                        _ => client.tell(&Reply::Refused(
                            "it is waiting to be restarted: try again when it runs".to_owned(),
                        )),
                    }
                }
                client.flush();
            }
            self.clients.retain(|client| !client.is_gone());
            if stop {
                self.state.stopped_by_user = true;
                return false;
            }
        }
    }
}

/// The network namespace of a process.
fn network_namespace(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path).map_err(|e| Error::io("open", &path, e))
}

/// Tells every command that is connected a line for its user.
fn tell_all(clients: &[Client], line: &str) {
    for client in clients {
        client.tell(&Reply::Notice(line.to_owned()));
    }
}

/// What one read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Bytes; there may be more.
    More,
    /// Nothing for now.
    Dry,
    /// Nobody writes any more.
    Closed,
}

/// What poll has found.
struct Ready {
    signals: bool,
    ended: bool,
    pending: bool,
    listener: bool,
    output: bool,
    errors: bool,
}

/// Descriptors to wait for.
#[derive(Default)]
pub(crate) struct Polls {
    entries: Vec<libc::pollfd>,
}

impl Polls {
    /// Adds a descriptor (a negative one is passed over by the kernel); its place.
    pub(crate) fn add(&mut self, fd: i32, events: i16) -> usize {
        self.entries.push(libc::pollfd {
            fd,
            events,
            revents: 0,
        });
        self.entries.len() - 1
    }

    pub(crate) fn add_if(&mut self, wanted: bool, fd: i32, events: i16) -> usize {
        self.add(if wanted { fd } else { -1 }, events)
    }

    pub(crate) fn wait(&mut self, patience: Option<Duration>) -> Result<()> {
        let timeout = patience.map_or(-1, |left| {
            // Rounded up, so that the last wait does not become a busy loop of zeros.
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        let count = self.entries.len() as libc::nfds_t;
        // SAFETY: the vector holds as many entries as the count says.
        if unsafe { libc::poll(self.entries.as_mut_ptr(), count, timeout) } < 0
            && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted
        {
            return Err(system("wait for the instance"));
        }
        Ok(())
    }

    pub(crate) fn is_ready(&self, place: usize) -> bool {
        self.entries
            .get(place)
            .is_some_and(|entry| entry.revents != 0)
    }
}

/// The number of a descriptor, to poll; one that poll passes over without it.
fn number(descriptor: Option<&OwnedFd>) -> i32 {
    descriptor.map_or(-1, AsRawFd::as_raw_fd)
}

/// Makes reads of a descriptor never wait.
pub(crate) fn set_nonblocking(descriptor: BorrowedFd<'_>) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let action = "prepare the instance's streams";
    let system = |e: nix::Error| Error::System {
        action,
        source: e.into(),
    };
    let flags = fcntl(descriptor, FcntlArg::F_GETFL).map_err(system)?;
    fcntl(
        descriptor,
        FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK),
    )
    .map_err(system)?;
    Ok(())
}

/// The null device.
pub(crate) fn null() -> Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Error::io("open", "/dev/null", e))?;
    Ok(file.into())
}
