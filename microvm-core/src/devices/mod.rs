//! The devices that a guest finds. Everything that a guest writes to them is hostile.

pub(crate) mod serial;
pub(crate) mod virtio;
