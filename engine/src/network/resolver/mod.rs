//! The name resolver of a user-defined network, as its instances find it at the gateway's port 53.
//!
//! There is no daemon: the supervisor of every running instance has a thread that serves the whole network. All of them bind the
//! same address with SO_REUSEPORT (socket(7)), so that the kernel spreads the queries over them, and one that is killed is gone
//! without a trace. None keeps anything but what it is busy with, so that it does not matter which of them is asked.
//!
//! Names of instances are answered from a [`Directory`]; everything else is forwarded byte for byte, and there is no cache. What
//! instances and upstream servers send is hostile: see [`message`] for how it is read, [`server`] for what bounds it.
//!
//! **Invariant:** nothing grows with what comes in. Outstanding queries, connections and the size of messages are bounded; what
//! has used up its time or is the oldest of too many goes.

mod forward;
mod message;
mod server;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow};

use server::Server;

/// The stack of the thread, bytes. Its own frames take less than 10 KiB; the rest is the directory's. Pages that are not used
/// cost nothing.
const STACK: usize = 128 << 10;

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// It is an instance's, or shared by several.
    Addresses(Vec<Ipv4Addr>),
    /// It is none of the network's: the upstream servers are asked.
    Unknown,
}

/// What the resolver answers from. All of it is asked on the resolver's thread, for each query anew.
pub(crate) trait Directory: Send + 'static {
    /// What `name` (lower case, without the final dot; letters, digits, `-`, `_` and single dots) means to the instance with
    /// that address.
    fn lookup(&self, asker: Ipv4Addr, name: &str) -> Lookup;
    /// The name of an instance's address, for PTR.
    fn reverse(&self, asker: Ipv4Addr, address: Ipv4Addr) -> Option<String>;
    /// Where to ask about everything else. Only the first three are, as resolv.conf(5) has it.
    fn upstreams(&self, asker: Ipv4Addr) -> Vec<SocketAddr>;
    /// Whether that address is an instance of the network. Others are refused: an open resolver would be one for the whole world.
    fn serves(&self, asker: Ipv4Addr) -> bool;
}

/// A running resolver. Dropping it ends its thread and closes its sockets.
#[derive(Debug)]
pub(crate) struct Resolver {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    /// The process whose thread it is: a fork of it has the value without the thread.
    process: u32,
}

impl Resolver {
    /// Serves that address, over UDP and TCP, beside whatever other resolvers serve it.
    ///
    /// # Errors
    /// When the address is not the host's, or when a server that does not share its port has it.
    pub(crate) fn start(address: SocketAddrV4, directory: impl Directory) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let server = Server::new(address, directory, Arc::clone(&stop))?;
        // A signal is the supervisor's affair, which waits for it elsewhere; the thread is born with the mask of its parent.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let thread = Builder::new()
            .name("resolver".into())
            .stack_size(STACK)
            .spawn(move || server.run());
        mask.thread_set_mask()?;
        Ok(Self {
            stop,
            thread: Some(thread?),
            process: std::process::id(),
        })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // In a fork there is no thread to wait for, and the event would stop the parent's.
        if self.process != std::process::id() {
            return;
        }
        // The only error is a counter that is full, which is as good a signal.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
