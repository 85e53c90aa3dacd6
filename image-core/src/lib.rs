//! OCI images: the store they are kept in, the archives they come in, their layers as containers and virtual machines use them.
//!
//! A [`Store`] is a directory. [`Store::import`] and [`Store::load`] put images in, [`Store::resolve`] finds them,
//! [`Store::layer_dirs`] and [`Store::erofs_layers`] give what a container's overlay and a virtual machine's disk are made of.
//!
//! **Invariants.** Content is named by its SHA-256 and never changes. What can be seen in a store is whole, whenever a process is
//! killed. Nothing that an archive says reaches a file outside the directory it is unpacked into. This crate knows nothing of
//! backends and instances.

mod archive;
mod builder;
mod change;
mod copy_up;
mod derive;
mod digest;
pub mod dockerfile;
mod erofs;
mod error;
mod import;
mod ingest;
mod limits;
mod load;
mod pack;
mod reference;
pub mod registry;
mod resolve;
mod store;
mod timestamp;
mod union;
mod unpack;
mod view;
mod words;
pub mod xattr;

pub use archive::{
    Archive, Content as TarContent, Entry as TarEntry, Extent as TarExtent, Kind as TarKind,
    TarReader, Timestamp, open_archive,
};
pub use builder::TarBuilder;
pub use change::{Change, apply};
pub use copy_up::ImageDirectory;
pub use derive::{Step, derive, empty_configuration};
pub use digest::{Digest, Hasher};
pub use erofs::ErofsLayer;
pub use error::{Error, Result};
pub use import::{ImportOptions, source_date};
pub use limits::Limits;
pub use pack::{Keep, Keeps, Selection, Times, TreePacker, pack_upper};
pub use reference::Reference;
pub use resolve::openat2;
pub use store::{
    CacheRecord, CacheUse, CachedStep, HistoryLine, Image, ImageSummary, Lease, Removed,
    SaveFormat, Store, StoredLayer, Usage, clear_directory, remove_tree,
};
pub use view::{LayerChild, LayerDirectory, LayerStat, LayerView};
pub use words::Word;
