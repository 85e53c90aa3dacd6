//! Templates of VMs, for whoever looks after them.

use std::fs;
use std::io;

use microvm_core::template::{self, Template};

use crate::error::{Error, Result};
use crate::home::Home;

/// A template.
#[derive(Debug)]
pub struct VmTemplate {
    /// Its name: size, virtual CPUs, and which kernel and agent it is of.
    pub name: String,
    /// What is known of it, or why no machine can be made from it.
    pub facts: Result<VmTemplateFacts, String>,
}

/// What is known of a template.
#[derive(Debug)]
pub struct VmTemplateFacts {
    /// The memory of machines made from it, bytes.
    pub memory: u64,
    /// Their virtual CPUs.
    pub cpus: u8,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// The space it takes, bytes.
    pub size: u64,
}

/// All templates, by name.
///
/// # Errors
/// When their directory cannot be read.
pub fn list(home: &Home) -> Result<Vec<VmTemplate>> {
    let directory = home.templates();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io("read", &directory, e))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &directory, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Those in the making, and their locks.
        if name.starts_with('.') {
            continue;
        }
        let facts = match Template::open(&entry.path()) {
            Ok(Some(template)) => Ok(VmTemplateFacts {
                memory: u64::from(template.memory_mib()) << 20,
                cpus: template.vcpus(),
                created: template.saved_at(),
                size: template.stored_bytes(),
            }),
            // It has gone meanwhile.
            Ok(None) => continue,
            Err(microvm_core::Error::Template { why, .. }) => Err(why),
            Err(error) => Err(error.to_string()),
        };
        found.push(VmTemplate { name, facts });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Removes a template, and says whether there was one. VMs that were made from it run on.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(home: &Home, name: &str) -> Result<bool> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Ok(false);
    }
    Ok(template::remove(&home.templates().join(name))?)
}
