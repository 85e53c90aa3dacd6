//! Finding instances.

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;

use super::record::{Record, State, Status, read_record, read_state};
use super::{is_active, sweep};
use crate::base;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::names;
use crate::network::Protocol;
use crate::spec::merge_env;

/// An instance, and what has become of it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it was asked to be.
    pub record: Record,
    /// What has become of it.
    pub state: State,
}

impl Listed {
    /// Whether it runs now (paused or about to be restarted is running, as docker has it).
    pub fn is_running(&self) -> bool {
        self.state.status.is_alive()
    }
}

/// All instances, newest first, after those whose owner was killed have been settled.
///
/// # Errors
/// [`Error::Io`]; a damaged record is left out, since one bad file must not hide the rest (`rm -f` takes it).
pub fn list(home: &Home) -> Result<Vec<Listed>> {
    sweep(home)?;
    // One look at who is active, instead of one for each instance.
    let active: HashSet<String> = names_in(home.active())?.into_iter().collect();
    let mut listed: Vec<Listed> = names_in(home.instances())?
        .into_iter()
        .filter_map(|id| {
            let record = read_record(home, &id).ok()?;
            let state = read_state(home, &id).unwrap_or_default();
            Some(truth(home, record, state, active.contains(&id)))
        })
        .collect();
    listed.sort_by_key(|item| std::cmp::Reverse(item.record.created));
    Ok(listed)
}

/// One instance as it is now.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::AmbiguousPrefix`], [`Error::DamagedState`].
pub fn look(home: &Home, wanted: &str) -> Result<Listed> {
    let id = find(home, wanted)?;
    super::settle(home, &id)?;
    // With --rm it may have gone with that.
    let record = match read_record(home, &id) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoSuchInstance(wanted.to_owned()));
        }
        other => other?,
    };
    let state = read_state(home, &id)?;
    let active = home.active().join(&id).exists();
    Ok(truth(home, record, state, active))
}

/// What is written, corrected by what can be seen: without a living owner nothing runs.
fn truth(home: &Home, record: Record, mut state: State, active: bool) -> Listed {
    if state.status.is_alive() && !(active && is_active(home, &record.id)) {
        // It ended between two looks.
        state = read_state(home, &record.id).unwrap_or(state);
        if state.status.is_alive() {
            state.status = Status::Exited;
        }
    }
    Listed { record, state }
}

fn names_in(folder: std::path::PathBuf) -> Result<Vec<String>> {
    let entries = fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// The identifier behind a name, an identifier or a unique beginning of one.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::AmbiguousPrefix`].
pub fn find(home: &Home, wanted: &str) -> Result<String> {
    let missing = || Error::NoSuchInstance(wanted.to_owned());
    // docker writes names with a slash before them in places, and takes them so.
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let one_digit = wanted.len() == 1 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !names::is_valid(wanted) && !one_digit {
        return Err(missing());
    }
    if let Ok(target) = fs::read_link(home.name(wanted)) {
        let id = names::id_of(&target);
        if home.instance(&id).exists() {
            return Ok(id);
        }
    }
    let fits: Vec<String> = names_in(home.instances())?
        .into_iter()
        .filter(|id| id.starts_with(wanted))
        .collect();
    match fits.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(missing()),
        several => Err(Error::AmbiguousPrefix {
            prefix: wanted.to_owned(),
            count: several.len(),
        }),
    }
}

/// The name of an instance; the beginning of its identifier where there is no record of it.
pub(crate) fn name(home: &Home, id: &str) -> String {
    read_record(home, id).map_or_else(|_| super::short(id).to_owned(), |record| record.name)
}

/// The identifier of the instance with exactly that name, which comes from a network's packets.
pub(crate) fn with_name(home: &Home, name: &str) -> Option<String> {
    if !names::is_valid(name) {
        return None;
    }
    let target = fs::read_link(home.name(name)).ok()?;
    Some(names::id_of(&target))
}

/// The name of the running instance that has a port of the host.
pub(crate) fn with_port(
    home: &Home,
    protocol: Protocol,
    ip: Ipv4Addr,
    port: u16,
) -> Option<String> {
    let meets = |other: Ipv4Addr| ip == other || ip.is_unspecified() || other.is_unspecified();
    names_in(home.active()).ok()?.into_iter().find_map(|id| {
        let state = read_state(home, &id).ok()?;
        let held = state.bindings.iter().any(|binding| {
            (binding.protocol, binding.host_port) == (protocol, port) && meets(binding.host_ip)
        });
        held.then(|| name(home, &id))
    })
}

/// The environment that an instance's command was given, without what only the command's own user has.
pub(crate) fn environment(home: &Home, record: &Record) -> Vec<String> {
    let of_image = home
        .images()
        .and_then(|store| match base::is_base(&record.spec.image) {
            true => base::ensure(&store),
            false => Ok(store.resolve(&record.image_id)?),
        })
        .ok()
        .and_then(|image| image.config.config().as_ref()?.env().clone())
        .unwrap_or_default();
    merge_env(&of_image, &record.spec.env, &[])
}

/// An instance made from the image, if there is one.
///
/// # Errors
/// Those of [`list`].
pub fn user_of_image(home: &Home, image_id: &str) -> Result<Option<Listed>> {
    Ok(list(home)?
        .into_iter()
        .find(|item| item.record.image_id == image_id))
}

/// Whether somebody makes, starts or runs the instance at this moment.
pub fn is_owned(home: &Home, id: &str) -> bool {
    is_active(home, id)
}

/// What an instance has written, bytes: its writable layer, or the part of its disk that is in use.
pub fn size(home: &Home, id: &str) -> u64 {
    fn blocks(path: &std::path::Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let Ok(about) = fs::symlink_metadata(path) else {
            return 0;
        };
        let own = about.blocks() * 512;
        if !about.is_dir() {
            return own;
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        // A directory's own block is not what the user has written.
        entries.map(|entry| blocks(&entry.path())).sum()
    }
    let directory = home.instance(id);
    blocks(&directory.join("upper")) + blocks(&directory.join("disk.ext4"))
}
