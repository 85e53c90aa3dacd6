//! What keeps the monitor in when a guest has taken it over: nothing of the host's is in sight, nothing that root may do is
//! allowed, and only the system calls that the monitor's own work takes are answered.
//!
//! Each of these is a wall of its own: namespaces with an empty root ([`namespaces`]), credentials ([`credentials`]), and a
//! filter of system calls for each kind of thread ([`filter`]).

mod credentials;
mod filter;
mod namespaces;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::Builder;

use self::credentials::Powers;
pub(super) use self::credentials::may_administer;
use self::filter::Filters;
pub(super) use self::filter::Work;
use self::namespaces::Network;
use super::child::Channels;
use super::monitor::Parts;
use crate::devices::virtio::fs::Descriptors;
use crate::process::readable;
use crate::{Error, Result};

/// The stack of a thread that makes few system calls, bytes.
const STACK: usize = 64 << 10;

/// How many descriptors a monitor has at most that serves no files: 64 virtual CPUs, and for each of its devices a few
/// files, events and queues. Those that serve files need as many as they can get.
const DESCRIPTORS: u64 = 512;

/// Address space beside the guest's memory and what the starter has mapped, bytes: for all threads together, and for each
/// (its stack, and what the allocator reserves for it).
const ADDRESS_SPACE: u64 = 256 << 20;
const ADDRESS_SPACE_OF_THREAD: u64 = 136 << 20;

/// A process that is in its jail, and how its threads get into theirs.
pub(super) struct Jail<'a> {
    channels: &'a Channels,
    powers: Powers,
    filters: Arc<Filters>,
    /// The directory of this process's descriptors, for who serves files.
    descriptors: Option<Descriptors>,
    /// Who makes the network namespace.
    network: Option<Network>,
    #[cfg(test)]
    unfiltered: bool,
}

/// With which a thread shuts itself in.
#[derive(Clone)]
pub(super) struct Seal {
    filters: Arc<Filters>,
    #[cfg(test)]
    unfiltered: bool,
}

impl<'a> Jail<'a> {
    /// Shuts this process in, which has one thread and has closed what it does not need. What is shared with the guest is
    /// put behind mounts of its own. The rest, which takes longer, goes on beside what is done next: see
    /// [`Self::close`].
    pub(super) fn enter(parts: &mut Parts, channels: &'a Channels) -> Result<Self> {
        limit(parts)?;
        let descriptors = match parts.shares.is_empty() {
            true => None,
            false => Some(Descriptors::open().map_err(Error::system("open /proc/self/fd"))?),
        };
        let privileged = may_administer();
        let apart = "put the virtual machine monitor into namespaces of its own";
        let network = match privileged {
            true => Some(Network::make().map_err(Error::system(apart))?),
            false => None,
        };
        if privileged {
            namespaces::cut_off(&mut parts.shares)
                .map_err(Error::system("put a share behind a mount of its own"))?;
        }
        namespaces::leave(privileged).map_err(Error::system(apart))?;
        let host = namespaces::empty_root().map_err(Error::system(
            "give the virtual machine monitor an empty root directory",
        ))?;
        let filters = Arc::new(Filters::new(!parts.shares.is_empty())?);
        leave_root(host, &filters)?;
        Ok(Self {
            channels,
            powers: Powers::for_shares(&parts.shares),
            filters,
            descriptors,
            network,
            #[cfg(test)]
            unfiltered: parts
                .intruder
                .as_ref()
                .is_some_and(|intruder| !intruder.filtered),
        })
    }

    /// Takes this thread, and those that it will make, all that they do not need. No guest may run before, and no other
    /// thread of the monitor may have been made.
    pub(super) fn close(&mut self) -> Result<()> {
        if let Some(network) = self.network.take() {
            network.enter().map_err(Error::system(
                "put the virtual machine monitor into a network namespace of its own",
            ))?;
        }
        credentials::drop_all_but(self.powers, unused_id(self.channels.parent)).map_err(
            Error::system("take the virtual machine monitor's privileges away"),
        )?;
        follow(self.channels)
    }

    /// The directory of this process's descriptors, once.
    pub(super) fn take_descriptors(&mut self) -> Option<Descriptors> {
        self.descriptors.take()
    }

    /// What a thread shuts itself in with.
    pub(super) fn seal(&self) -> Seal {
        Seal {
            filters: Arc::clone(&self.filters),
            #[cfg(test)]
            unfiltered: self.unfiltered,
        }
    }
}

impl Seal {
    /// Takes from this thread, for good, everything that this work does not need.
    pub(super) fn on(&self, work: Work) -> Result<()> {
        if work != Work::Files {
            credentials::keep(Powers::None)
                .map_err(Error::system("take a thread's capabilities away"))?;
        }
        #[cfg(test)]
        if self.unfiltered {
            return Ok(());
        }
        self.filters.install(work)
    }
}

/// Lets go of the host's mounts, which no path leads to any more, so that they are not in use because of this process. The
/// kernel waits for all its processors in that: a thread does it, which can do nothing else.
fn leave_root(host: OwnedFd, filters: &Arc<Filters>) -> Result<()> {
    let filters = Arc::clone(filters);
    Builder::new()
        .name("leave".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let there = namespaces::stand_in(&host);
            if there
                .and_then(|()| credentials::keep(Powers::Leave))
                .is_ok()
                && filters.install(Work::Leave).is_ok()
            {
                // Were it to fail, the mounts would be in use for as long as the machine lives, and no more.
                let _ = namespaces::unmount_here();
            }
        })
        .map(drop)
        .map_err(Error::system("start a thread"))
}

/// Bounds what this process may use.
fn limit(parts: &Parts) -> Result<()> {
    let set = |resource, bytes: u64| {
        // A hard limit that is lower stays.
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel writes one rlimit, and then reads it.
        unsafe {
            if libc::getrlimit(resource, &raw mut limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            limit.rlim_max = limit.rlim_max.min(bytes);
            limit.rlim_cur = limit.rlim_max;
            match libc::setrlimit(resource, &raw const limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    };
    let bound = Error::system("bound what the virtual machine monitor may use");
    let threads = u64::from(parts.vcpus) + parts.disks.len() as u64 + 3;
    let space = namespaces::address_space().map(|mapped| {
        mapped
            + (u64::from(parts.memory_mib) << 20)
            + ADDRESS_SPACE
            + threads * ADDRESS_SPACE_OF_THREAD
    });
    // Core files would hold the guest's memory.
    let mut done = set(libc::RLIMIT_CORE, 0);
    if parts.shares.is_empty() {
        done = done.and_then(|()| set(libc::RLIMIT_NOFILE, DESCRIPTORS));
    }
    done.and(space)
        .and_then(|space| set(libc::RLIMIT_AS, space))
        .map_err(bound)
}

/// A user's number that nobody has: above those that distributions, useradd(8) and systemd's containers take, and below
/// 2^31. Each starter's monitors have another, so that they are strangers to each other's.
fn unused_id(starter: i32) -> u32 {
    const FIRST: u32 = 0x7000_0000;
    FIRST + starter.unsigned_abs()
}

/// Has this process end with the thread that started it, now that its credentials have changed, which undoes that.
fn follow(channels: &Channels) -> Result<()> {
    // SAFETY: prctl takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // The starter may have died before the line above. Its process id says nothing in here.
    match readable(channels.starter.as_fd(), Some(std::time::Duration::ZERO))? {
        // SAFETY: _exit takes an integer.
        true => unsafe { libc::_exit(1) },
        false => Ok(()),
    }
}
