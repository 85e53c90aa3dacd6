//! `plimsoll oci`: bundles run with runc's command line, as engines do it.

mod bundle;
#[path = "../common/mod.rs"]
mod common;
mod engines;
mod lifecycle;
mod processes;
