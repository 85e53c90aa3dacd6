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
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use self::credentials::Powers;
pub(super) use self::credentials::may_administer;
use self::filter::Filters;
pub(super) use self::filter::Work;
use super::child::Channels;
use super::monitor::Parts;
use crate::devices::virtio::fs::Descriptors;
use crate::process::readable;
use crate::{Error, Result};

/// How many descriptors a monitor has at most that serves no files: 64 virtual CPUs, and for each of its devices a few
/// files, events and queues. Those that serve files need as many as they can get.
const DESCRIPTORS: u64 = 512;

/// Address space beside the guest's memory and what the starter has mapped, bytes: for all threads together, and for each
/// (its stack, and what the allocator reserves for it).
const ADDRESS_SPACE: u64 = 256 << 20;
const ADDRESS_SPACE_OF_THREAD: u64 = 136 << 20;

/// A process that is in its jail, and how its threads get into theirs.
pub(super) struct Jail {
    filters: Arc<Filters>,
    /// The directory of this process's descriptors, for who serves files.
    descriptors: Option<Descriptors>,
    /// Who lets go of the host's root.
    leaving: Option<JoinHandle<io::Result<()>>>,
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

impl Jail {
    /// Shuts this process in, which has one thread and has closed what it does not need. What is shared with the guest is
    /// put behind mounts of its own.
    pub(super) fn enter(parts: &mut Parts, channels: &Channels) -> Result<Self> {
        let powers = Powers::for_shares(&parts.shares);
        limit(parts)?;
        let descriptors = match parts.shares.is_empty() {
            true => None,
            false => Some(Descriptors::open().map_err(Error::system("open /proc/self/fd"))?),
        };
        let privileged = may_administer();
        if privileged {
            namespaces::cut_off(&mut parts.shares)
                .map_err(Error::system("put a share behind a mount of its own"))?;
        }
        namespaces::leave(privileged).map_err(Error::system(
            "put the virtual machine monitor into namespaces of its own",
        ))?;
        let leaving = namespaces::empty_root().map_err(Error::system(
            "give the virtual machine monitor an empty root directory",
        ))?;
        credentials::drop_all_but(powers, unused_id(channels.parent)).map_err(Error::system(
            "take the virtual machine monitor's privileges away",
        ))?;
        follow(channels)?;
        let filters = Filters::new(!parts.shares.is_empty())?;
        Ok(Self {
            filters: Arc::new(filters),
            descriptors,
            leaving,
            #[cfg(test)]
            unfiltered: parts
                .intruder
                .as_ref()
                .is_some_and(|intruder| !intruder.filtered),
        })
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

    /// Waits until nothing of the host's root is left. No guest may run before.
    pub(super) fn close(&mut self) -> Result<()> {
        let Some(leaving) = self.leaving.take() else {
            return Ok(());
        };
        leaving
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
            .map_err(Error::system("let go of the host's root directory"))
    }
}

impl Seal {
    /// Takes from this thread, for good, everything that this work does not need.
    pub(super) fn on(&self, work: Work) -> Result<()> {
        if work != Work::Files {
            credentials::drop_capabilities()
                .map_err(Error::system("take a thread's capabilities away"))?;
        }
        #[cfg(test)]
        if self.unfiltered {
            return Ok(());
        }
        self.filters.install(work)
    }
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
    done.and_then(|()| space)
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
