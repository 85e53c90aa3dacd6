//! Networks: bridges that containers and VMs share, who has which address on them, and which of the host's ports lead where.
//!
//! What is in the kernel (links, addresses, rules) is made by `network-core`; here is what is known of it, and when it comes
//! and goes. A bridge is there while anybody is on its network, the rules while there is any bridge.
//!
//! **Invariant:** a lease names an instance whose `active/<id>` is there. Whoever settles a killed instance gives its leases
//! back before that goes, and with them the rules that mention the address.

mod attach;
mod error;
mod files;
mod lease;
mod link;
mod lock;
mod names;
mod ports;
mod record;
mod resolver;
mod spec;

pub use attach::{Binding, Endpoint};
pub(crate) use attach::{Connection, Left, VM_ENDPOINTS_MAX, collect, reclaim};
pub use error::NetworkError;
pub use files::HOST_GATEWAY;
pub(crate) use files::{EtcFile, compose, path as file_path, write as write_files};
pub use lease::{Lease, all as leases};
pub(crate) use link::{environment as link_environment, note as note_links, tell as tell_links};
pub use network_core::rules::Protocol;
pub use network_core::{Mac, Subnet};
pub use ports::{parse_expose, parse_publish};
pub use record::{Network, NewNetwork, create, find, list, remove};
pub use spec::{Attachment, BRIDGE, Exposed, HOST, Link, NONE, NetworkMode, NetworkSpec, Publish};
