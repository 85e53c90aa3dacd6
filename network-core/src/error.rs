//! What can go wrong with the host's network.

use std::io;
use std::net::Ipv4Addr;

use crate::rules::Protocol;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What keeps a link, an address, a rule or a port from being made or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was tried, and on what.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("cannot {action}: the kernel's answer is malformed")]
    Malformed {
        /// What was tried.
        action: String,
    },
    /// What is there by that name is something else.
    #[error(
        "the link {0} is there already and is no bridge: remove it, or give the network another name"
    )]
    NotABridge(String),
    /// The text is no subnet.
    #[error("{text:?} is not a subnet: {reason}")]
    Subnet {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The text is no hardware address.
    #[error("{0:?} is not a hardware address: write six bytes, such as 02:42:0a:01:00:02")]
    Mac(String),
    /// Somebody has the port.
    #[error("port {port}/{protocol} of {ip} is in use")]
    InUse {
        /// The host's address.
        ip: Ipv4Addr,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
}

impl Error {
    pub(crate) fn kernel(action: impl Into<String>, source: io::Error) -> Self {
        Self::Kernel {
            action: action.into(),
            source,
        }
    }

    /// The kernel's error number, if it was the kernel who refused.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
