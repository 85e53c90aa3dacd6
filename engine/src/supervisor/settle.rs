//! The instance's socket, and its end.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::protocol::{Link, Reply, system};
use super::{Outcome, SOCKET, Supervisor};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{Lock, Status, now, remove_trash, retire, write_state};

/// How long a bridge is kept for the next instance.
const LINGER: Duration = Duration::from_millis(1000);

/// How many commands may be about to connect.
const BACKLOG: i32 = 16;

/// The address of an instance's socket: by a descriptor of its directory, since a path may be longer than the 108 bytes that
/// an address holds.
fn address(directory: &File) -> libc::sockaddr_un {
    // SAFETY: all zeros is an empty address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from.cast_signed();
    }
    address
}

fn directory(home: &Home, id: &str) -> Result<File> {
    let path = home.instance(id);
    File::open(&path).map_err(|e| Error::io("open", &path, e))
}

fn socket(flags: i32) -> Result<OwnedFd> {
    // SAFETY: socket(2) takes numbers.
    let number = unsafe {
        libc::socket(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | flags,
            0,
        )
    };
    if number < 0 {
        return Err(system("make a socket"));
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes the socket that commands connect to.
pub(super) fn listen(home: &Home, id: &str) -> Result<Link> {
    let directory = directory(home, id)?;
    let socket = socket(libc::SOCK_NONBLOCK)?;
    let address = address(&directory);
    let length = size_of_val(&address) as libc::socklen_t;
    let bind = || {
        // SAFETY: the address is as long as we say, and is only read.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        match bound {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let path = home.instance(id).join(SOCKET);
    match bind() {
        Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) => {
            // A killed supervisor's.
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            bind()
        }
        other => other,
    }
    .map_err(|e| Error::io("create", &path, e))?;
    // SAFETY: listen(2) takes numbers.
    if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } != 0 {
        return Err(system("listen on the instance's socket"));
    }
    Ok(link(socket))
}

fn link(socket: OwnedFd) -> Link {
    // SAFETY: the descriptor is open, and given away here.
    unsafe { Link::from_raw(std::os::fd::IntoRawFd::into_raw_fd(socket)) }
}

/// Takes a command that connects, if there is one.
pub(super) fn accept(listener: &Link) -> Option<Link> {
    // SAFETY: null pointers ask for no address.
    let number = unsafe {
        libc::accept4(
            listener.number(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    };
    // SAFETY: the kernel has just made it, and nobody else has it.
    (number >= 0).then(|| unsafe { Link::from_raw(number) })
}

/// Connects to an instance's supervisor; `None` when there is none.
pub(crate) fn connect(home: &Home, id: &str) -> Result<Option<Link>> {
    let Ok(directory) = directory(home, id) else {
        return Ok(None);
    };
    let socket = socket(0)?;
    let address = address(&directory);
    // SAFETY: the address is as long as we say, and is only read.
    let connected = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    Ok((connected == 0).then(|| link(socket)))
}

/// Writes what says that an instance exists to the disk.
pub(super) fn make_durable(home: &Home, id: &str) {
    // A disk that fails here fails every later write too, which is told then.
    for path in [
        home.instance(id).join("instance.json"),
        home.instance(id),
        home.instances(),
    ] {
        let _ = File::open(path).and_then(|file| file.sync_all());
    }
}

impl Supervisor {
    /// Writes down how a run came out.
    pub(super) fn note(&mut self, outcome: &Outcome, again: bool) {
        self.state.finished_at = now();
        self.state.pid = 0;
        self.state.pid_started = 0;
        self.state.status = if again {
            Status::Restarting
        } else {
            Status::Exited
        };
        match outcome {
            Outcome::Ended(exit) => {
                self.state.exit_code = exit.ended.shell_code().into();
                self.state.oom_killed = exit.oom_killed;
            }
            Outcome::Failed(error) => {
                self.state.exit_code = error.exit_code().into();
                self.state.error = Some(error.to_string());
                if !self.has_run {
                    self.state.status = Status::Created;
                }
            }
        }
        if again {
            // The next state is written when it runs again; what cannot be written now is told then.
            let _ = write_state(&self.home, &self.record.id, &self.state);
        }
    }

    /// What those who wait are told of the end.
    fn farewell(&self, outcome: &Outcome) -> Reply {
        match outcome {
            Outcome::Ended(exit) => Reply::Ended {
                code: exit.ended.shell_code(),
                oom_killed: exit.oom_killed,
                error: None,
            },
            Outcome::Failed(error) if self.has_run => Reply::Ended {
                code: error.exit_code(),
                oom_killed: false,
                error: Some(error.to_string()),
            },
            Outcome::Failed(error) => Reply::Failed {
                code: error.exit_code(),
                message: error.to_string(),
            },
        }
    }

    /// Tells everybody who waits, and lets go of those who were attached.
    /// `again`: the instance is started again, and is there for whoever has only just come.
    pub(super) fn tell_end(&mut self, outcome: &Outcome, again: bool) {
        let reply = self.farewell(outcome);
        for client in &mut self.clients {
            client.farewell(&reply, again);
        }
        self.clients.retain(|client| !client.is_gone());
    }

    /// The instance is over: the record says how it ended, or is gone with it, and whoever waits is told, so that what they do
    /// next finds it so. What nobody can see any more of an instance that goes is removed after that; until then its lock is
    /// held, which a killed supervisor leaves to the next command.
    pub(super) fn settle(mut self, lock: Lock, outcome: Outcome) {
        self.state.supervisor = 0;
        let passing = self.record.spec.auto_remove;
        let settled = if passing {
            retire(&self.home, &self.record, true).map(|()| Some(lock))
        } else {
            let socket = self.home.instance(&self.record.id).join(SOCKET);
            // One that is gone already was removed with its directory.
            let _ = fs::remove_file(socket);
            // A lock that stays behind without its holder is what makes the next command try again.
            write_state(&self.home, &self.record.id, &self.state)
                .and_then(|()| lock.release())
                .map(|()| None)
        };
        self.timeline.mark("settled");
        let told = self.timeline.write();
        for error in [settled.as_ref().err(), told.as_ref().err()]
            .into_iter()
            .flatten()
        {
            for client in &self.clients {
                client.tell(&Reply::Notice(error.to_string()));
            }
        }
        self.tell_end(&outcome, false);
        // Whoever reads the instance's output waits until nobody can write any.
        self.clients.clear();
        // The command that has just been told goes first, also where there is one processor.
        std::thread::yield_now();
        if let Ok(Some(lock)) = settled {
            // First the files: an overlay writes back whatever its upper directory still holds when it goes. What fails here is
            // tried again by the next command.
            let _ = remove_trash(&self.home, &self.record.id)
                .and_then(|()| std::mem::take(&mut self.remains).release())
                .and_then(|()| lock.release());
        }
        self.take_networks_down();
    }

    /// Removes the bridges that nobody is on any more: some time after the last instance has left, since taking a bridge down
    /// costs more than a container's start, and many a user starts one instance after another.
    fn take_networks_down(self) {
        if self.left.is_empty() {
            return;
        }
        std::thread::sleep(LINGER);
        // What stays is taken by whoever looks at the networks next, or by `doctor --repair`.
        let _ = self.left.take_down(&self.home);
    }
}
