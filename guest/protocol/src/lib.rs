//! What the host and the guest agent say to each other.
//!
//! One byte stream, a virtio-console port named [`PORT_NAME`], carries frames both ways:
//!
//! ```text
//! length: u32, little endian   number of bytes that follow, at least 1
//! kind:   u8                   what the payload is
//! payload: length - 1 bytes    raw bytes for stdio, JSON for what has a structure
//! ```
//!
//! The agent speaks first ([`ToHost::Hello`]), the host answers with one [`ToGuest::Start`], and from then on both sides
//! send as they like. Every stream of stdio has a window ([`WINDOW`]): a side sends no more bytes than the other has
//! granted, so neither an unread stdin nor an unread stdout ever keeps a signal or an exit status from passing.
//!
//! The host treats the guest as hostile: a frame's size is checked before anything is allocated for it, the decoder holds
//! no more than about twice what it has received, and what does not parse is an error with a sentence.
//!
//! The crate needs no standard library, since the agent has none.
#![no_std]

extern crate alloc;

mod config;
mod frame;
mod message;

pub use config::{
    Capabilities, Extent, File, GuestConfig, ImageDisk, Mount, Process, Rlimit, SHARES_TAG,
    SharedMount, WindowSize,
};
pub use frame::{Decoder, Frame, FrameError, HEADER, encode, header};
pub use message::{
    Exited, Failed, FailureKind, Hello, MessageError, Started, Status, Stream, ToGuest, ToHost,
};

/// The version of this protocol; the agent tells it in its Hello, and the host refuses any other.
pub const VERSION: u32 = 1;

/// The name of the virtio-console port.
pub const PORT_NAME: &str = "plimsoll.control";

/// The largest frame the host sends, in bytes after the length field. A Start holds the arguments and the environment,
/// which Linux limits to 2 MiB together by default (a quarter of the 8 MiB stack limit).
pub const MAX_TO_GUEST: usize = 4 << 20;

/// The largest frame the agent sends, in bytes after the length field: Linux's virtio-console driver passes at most
/// 32 KiB a write (`port_fops_write`), so that such a frame with its length field is one write and one buffer.
pub const MAX_TO_HOST: usize = (32 << 10) - 4;

/// The most stdio bytes that a frame carries, in either direction.
pub const MAX_DATA: usize = MAX_TO_HOST - 1;

/// How many bytes of each of stdin, stdout and stderr may be under way before the receiver grants more.
pub const WINDOW: u32 = 256 << 10;
