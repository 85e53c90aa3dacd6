//! Reading archives: compression by its magic, tar by its headers, bytes carried between threads.

mod compression;
mod header;
mod open;
mod pax;
mod pipe;
mod reader;
mod sparse;

pub(crate) use compression::{Compression, Decoder};
pub(crate) use header::is_tar;
pub use open::{Archive, open_archive};
pub(crate) use pipe::{CHUNK, ChunkSender, fill, pipe};
pub use reader::{Content, Entry, Kind, TarReader, Timestamp};
pub use sparse::Extent;
