//! Output as docker's users know it: lists, `inspect`, and the words for sizes and times in them.

pub(crate) mod inspect;
pub(crate) mod json;
pub(crate) mod list;
pub(crate) mod rows;
mod schema;
mod tabs;
pub(crate) mod time;
