//! PID 1 of a Plimsoll microVM: everything but the program's first and last instructions, which are in `main.rs`.
//!
//! The agent is `/init` of an initial RAM disk that holds nothing else, but for the modules of a kernel that has drivers in such.
//! It loads those, finds the control channel, says Hello, waits for one Start message, builds the root file system out of the
//! image's layers, runs the main process as PID 1 of a PID namespace of its own, runs further ones beside it, carries their
//! stdio, and ends with the machine's reset. After Prepare in place of Start it runs no main process, for work on the disk of
//! an instance that has stopped. See `guest-protocol` for what is said.
//!
//! What shapes it: on a KVM that works by page tables every system call costs about a millisecond and the guest's kernel
//! copies about 1.5 MB/s. So it has no standard library and no C library (a static Rust program with both is 1.1 MB and
//! makes 34 system calls before its first line; this is a tenth of that and makes none), forks without copying, and asks
//! the kernel for nothing twice.
//!
//! **Invariants.** It is one thread, so that `unsafe` has little to be wrong about. It never blocks but in poll(2) and,
//! on its way out, on its last message. It trusts the host, not the image: paths below the image's root are resolved after
//! it has become the agent's own root.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod channel;
mod failure;
mod launch;
mod modules;
mod network;
mod oom;
mod programs;
mod pump;
mod rootfs;
mod running;
mod stdio;
mod sys;

use alloc::format;

use guest_protocol::{GuestConfig, Hello, MAIN, Prepared, ToGuest, ToHost, VERSION};

use channel::{Channel, Taken};
use failure::Failure;
use launch::Role;
use pump::{End, Pump};
use rootfs::Root;

pub use sys::process::reset;
pub use sys::time::now;

/// Does everything; when it returns there is nothing left to do but to reset the machine. `entered_ns` is the time of the
/// program's first instruction, by [`now`].
pub fn run(entered_ns: u64) {
    sys::process::set_umask(0);
    // Without drivers there is no channel to complain on.
    let mut channel = match modules::load().and_then(|()| Channel::open()) {
        Ok(channel) => channel,
        Err(failure) => {
            complain(&failure.message);
            return;
        }
    };
    if let Err(failure) = serve(&mut channel, entered_ns) {
        complain(&failure.message);
        channel.last(&ToHost::Failed(MAIN, failure.into_message()));
    }
}

/// Says something on the guest's console, where the host looks when the channel stays silent.
pub fn complain(message: &str) {
    // The kernel has opened the console as init's stdio.
    let _ = sys::file::write_number(2, format!("plimsoll agent: {message}\n").as_bytes());
}

fn serve(channel: &mut Channel, entered_ns: u64) -> Result<(), Failure> {
    channel.send(&ToHost::Hello(Hello {
        version: VERSION,
        entered_ns,
        now_ns: now(),
    }))?;
    let (config, maintenance) = loop {
        match channel.take()? {
            Taken::Nothing => channel.wait()?,
            Taken::HostGone => return Ok(()),
            Taken::Message(ToGuest::Start(config)) => break (config, false),
            Taken::Message(ToGuest::Prepare(config)) => break (config, true),
            Taken::Message(ToGuest::Shutdown) => return Ok(()),
            Taken::Message(_) => {
                return Err(Failure::config("the host sent something before Start"));
            }
        }
    };
    let root = rootfs::prepare(&config)?;
    let end = if maintenance {
        maintain(channel, &root)
    } else {
        run_main(channel, &root, &config)
    };
    root.settle();
    channel.last(&ToHost::Exited(MAIN, end?.now()));
    Ok(())
}

/// Runs the main process, and whatever the host wants beside it, to its end.
fn run_main(channel: &mut Channel, root: &Root, config: &GuestConfig) -> Result<End, Failure> {
    let (process, started) = launch::launch(&config.process, Role::Main(config))?;
    channel.send(&ToHost::Started(MAIN, started))?;
    Pump::new(channel, root, Some(process)).run()
}

/// Runs whatever the host wants, until it wants no more.
fn maintain(channel: &mut Channel, root: &Root) -> Result<End, Failure> {
    launch::mount_proc()?;
    channel.send(&ToHost::Prepared(Prepared { now_ns: now() }))?;
    Pump::new(channel, root, None).run()
}
