//! Ending, pausing and waiting for instances.

use crate::client;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed, Status};
use crate::lifecycle::{Outcome, RunOptions, start};
use crate::supervisor::connect;
use crate::supervisor::protocol::{Link, Packet, Reply, Request};

/// Ends an instance: its stop signal, and SIGKILL after `timeout` seconds (never, if negative). One that does not run is no
/// error, as in docker.
///
/// # Errors
/// [`Error::NoSuchInstance`], and what the supervisor says.
pub fn stop(home: &Home, wanted: &str, signal: Option<i32>, timeout: Option<i64>) -> Result<()> {
    let found = instance::look(home, wanted)?;
    let Some(link) = connect(home, &found.record.id)? else {
        return Ok(());
    };
    // In this order: who watches first may be told of an end after which the instance is started again.
    if link
        .send(&Request::Stop { signal, timeout }, &[])
        .and_then(|()| link.send(&Request::Watch, &[]))
        .is_err()
    {
        return settled(home, &found);
    }
    until_end(home, &found, &link).map(drop)
}

/// Sends an instance's command a signal.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::Refused`] for one that does not run.
pub fn kill(home: &Home, wanted: &str, number: i32) -> Result<()> {
    let found = instance::look(home, wanted)?;
    let request = Request::Signal {
        number,
        by_user: true,
    };
    // A signal that ends it is waited for, so that `ps` tells the truth afterwards.
    let ends = number == libc::SIGKILL;
    let not_running = || {
        Error::Refused(format!(
            "cannot kill container: {wanted}: container {} is not running",
            found.record.id
        ))
    };
    if !found.is_running() {
        return Err(not_running());
    }
    let link = connect(home, &found.record.id)?.ok_or_else(not_running)?;
    if ends {
        let asked = link
            .send(&request, &[])
            .and_then(|()| link.send(&Request::Watch, &[]));
        return match asked {
            Ok(()) => until_end(home, &found, &link).map(drop),
            Err(_) => settled(home, &found),
        };
    }
    expect_done(client::ask(home, &found.record.id, &request)?, not_running)
}

/// Stops all processes of an instance in their tracks.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::Refused`] for one that does not run or is paused.
pub fn pause(home: &Home, wanted: &str) -> Result<()> {
    change(home, wanted, &Request::Pause)
}

/// Lets them go on.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::Refused`] for one that is not paused.
pub fn unpause(home: &Home, wanted: &str) -> Result<()> {
    change(home, wanted, &Request::Unpause)
}

pub(super) fn change(home: &Home, wanted: &str, request: &Request) -> Result<()> {
    let found = instance::look(home, wanted)?;
    let not_running = || {
        Error::Refused(match request {
            Request::Unpause => format!("Container {} is not paused", found.record.id),
            _ => format!("Container {} is not running", found.record.id),
        })
    };
    if !found.is_running() {
        return Err(not_running());
    }
    expect_done(client::ask(home, &found.record.id, request)?, not_running)
}

fn expect_done(reply: Option<Reply>, missing: impl Fn() -> Error) -> Result<()> {
    match reply {
        Some(Reply::Done) => Ok(()),
        Some(Reply::Refused(message)) => Err(Error::Refused(message)),
        _ => Err(missing()),
    }
}

/// Ends an instance and starts it again.
///
/// # Errors
/// Those of [`stop`] and [`start`].
pub fn restart(
    home: &Home,
    wanted: &str,
    signal: Option<i32>,
    timeout: Option<i64>,
    options: &RunOptions,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let id = instance::find(home, wanted)?;
    stop(home, &id, signal, timeout)?;
    start(home, &id, options, notice)
}

/// An instance that is waited for: connected before anything else happens to it, so that its end cannot be missed.
#[derive(Debug)]
pub struct Waiter {
    found: Listed,
    link: Option<Link>,
}

/// Waits for an instance's end and gives its exit code; of one that has ended, at once.
///
/// # Errors
/// [`Error::NoSuchInstance`].
pub fn wait(home: &Home, wanted: &str) -> Result<i32> {
    Waiter::new(home, wanted)?.wait(home)
}

impl Waiter {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::NoSuchInstance`].
    pub fn new(home: &Home, wanted: &str) -> Result<Self> {
        let found = instance::look(home, wanted)?;
        let link = if found.is_running() {
            connect(home, &found.record.id)?
        } else {
            None
        };
        if let Some(link) = &link {
            // A supervisor that is gone is noticed when its answer is awaited.
            let _ = link.send(&Request::Watch, &[]);
        }
        Ok(Self { found, link })
    }

    /// Waits.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn wait(self, home: &Home) -> Result<i32> {
        match &self.link {
            Some(link) => until_end(home, &self.found, link),
            None => Ok(self.found.state.exit_code),
        }
    }
}

/// Waits for the supervisor's word of the end; the exit code.
fn until_end(home: &Home, found: &Listed, link: &Link) -> Result<i32> {
    let mut buffer = Vec::new();
    loop {
        match link.receive::<Reply>(&mut buffer, true) {
            Packet::Message(Reply::Ended { code, .. } | Reply::Failed { code, .. }, _) => {
                return Ok(code.into());
            }
            Packet::Message(Reply::Refused(message), _) => return Err(Error::Refused(message)),
            Packet::Message(..) | Packet::Nothing => {}
            Packet::Stdin(_) | Packet::Closed => {
                settled(home, found)?;
                let state = instance::read_state(home, &found.record.id).unwrap_or_default();
                return Ok(match state.status {
                    Status::Exited => state.exit_code,
                    _ => 137,
                });
            }
        }
    }
}

/// The supervisor is gone: what it left is settled.
fn settled(home: &Home, found: &Listed) -> Result<()> {
    instance::settle(home, &found.record.id).map(drop)
}
