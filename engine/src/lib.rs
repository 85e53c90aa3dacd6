//! Instances: what the user asks for becomes a container or a microVM, and leaves nothing behind when it goes.
//!
//! Data flows one way: [`InstanceSpec`] → image and state → backend → the instance's end. The three cores
//! (image-core, container-core, microvm-core) meet here and nowhere else.

pub mod archive;
mod backend;
pub mod base;
pub mod build;
mod client;
pub mod doctor;
mod error;
mod home;
pub mod images;
mod instance;
pub mod lifecycle;
pub mod logs;
pub mod mount;
mod names;
pub mod network;
mod process;
mod signals;
mod spec;
mod supervisor;
mod terminal;
mod timeline;
mod toolbox;
mod user;
pub mod vm_template;
pub mod volume;

pub use backend::{Choice, choose_accelerator};
pub use client::{Attach, DetachKeys};
pub use error::{Error, Result};
pub use home::{DEFAULT_KERNEL, DEFAULT_ROOT, Home};
pub use image_core::registry;
pub use image_core::{
    CacheRecord, Change, Digest, Error as ImageError, HistoryLine, Image, ImageSummary,
    ImportOptions, Reference, Removed, SaveFormat, Store, Usage,
};
pub use instance::{
    Listed, Record, State, Status, find, is_owned, list, look, remove, rename, repair, size,
    user_of_image,
};
pub use microvm_core::{Substrate, qemu_binary, substrate};
pub use names::is_valid as is_valid_name;
pub use process::environment as merge_environment;
pub use signals::number as signal_number;
pub use spec::{
    Accel, BackendKind, Bytes, InstanceSpec, Limits, RestartPolicy, STOP_TIMEOUT, Ulimit, VM_MEMORY,
};
pub use timeline::TIMELINE_VARIABLE;
