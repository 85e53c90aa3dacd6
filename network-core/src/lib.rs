//! The kernel's side of networks: bridges, veth pairs and taps, addresses and routes, the rules that translate and guard, and
//! the host's ports. It knows nothing of images, instances or files of state.
//!
//! Links and addresses are made by route netlink (rtnetlink(7)); rules live in two nftables tables of our own, whose elements
//! come and go by nfnetlink, so that a start costs the same however many there are. Everything acts on the network namespace
//! of the calling thread, and everything can be repeated.

mod conntrack;
mod error;
pub mod forwarding;
pub mod link;
mod netlink;
pub mod port;
pub mod route;
pub mod rules;
mod subnet;

pub use error::{Error, Result};
pub use subnet::{Mac, Subnet};
