//! What the host and the guest agent say to each other.
//!
//! One byte stream, a virtio-console port named [`PORT_NAME`], carries frames both ways:
//!
//! ```text
//! length:  u32, little endian   number of bytes that follow, at least 5
//! kind:    u8                   what the payload is
//! channel: u32, little endian   which process it is about; 0 is the main process and the machine
//! payload: length - 5 bytes     raw bytes for stdio, JSON for what has a structure
//! ```
//!
//! The agent speaks first ([`ToHost::Hello`]), the host answers with one [`ToGuest::Start`] or one [`ToGuest::Prepare`], and
//! from the answer to that on both sides send as they like. The host may have further processes run ([`ToGuest::Exec`]),
//! each on a channel of its own, of programs that are in the image or that it sends along ([`ToGuest::Program`]). Every
//! stream of a process's stdio has a window ([`WINDOW`]): a side sends no more bytes than the other has granted, so neither
//! an unread stdin nor an unread stdout ever keeps a signal, an exit status or another process's bytes from passing.
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
    Capabilities, Extent, File, GuestConfig, ImageDisk, Interface, Mount, Process, Rlimit,
    SHARES_TAG, SharedMount, WindowSize,
};
pub use frame::{Decoder, Frame, FrameError, HEADER, encode, header};
pub use message::{
    Channel, Exec, Exited, Failed, FailureKind, Hello, MAIN, MessageError, Prepared, Started,
    Status, Stream, ToGuest, ToHost,
};

/// The version of this protocol; the agent tells it in its Hello, and the host refuses any other.
pub const VERSION: u32 = 4;

/// The name of the virtio-console port.
pub const PORT_NAME: &str = "plimsoll.control";

/// The largest frame the host sends, in bytes after the length field. A Start holds the arguments and the environment,
/// which Linux limits to 2 MiB together by default (a quarter of the 8 MiB stack limit).
pub const MAX_TO_GUEST: usize = 4 << 20;

/// The largest frame the agent sends, in bytes after the length field: Linux's virtio-console driver passes at most
/// 32 KiB a write (`port_fops_write`), so that such a frame with its length field is one write and one buffer.
pub const MAX_TO_HOST: usize = (32 << 10) - 4;

/// The most stdio bytes that a frame carries, in either direction.
pub const MAX_DATA: usize = MAX_TO_HOST + 4 - HEADER;

/// How many processes may run at once, the main one included.
pub const MAX_PROCESSES: usize = 64;

/// How many programs the host may send along: their numbers are below this.
pub const MAX_PROGRAMS: u32 = 8;

/// The descriptor on which a process that [asked for it](Exec::upper) finds the upper directory of the writable disk.
pub const UPPER_FD: i32 = 3;

/// How many bytes of each of stdin, stdout and stderr may be under way before the receiver grants more.
pub const WINDOW: u32 = 256 << 10;
