//! `network connect` and `disconnect`.

use super::end::change;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed, Lock, write_record};
use crate::network::{self, Attachment, BRIDGE, NetworkError, NetworkMode};
use crate::supervisor::protocol::Request;

/// Puts an instance on one more network, now and at every later start.
///
/// # Errors
/// [`NetworkError`], [`Error::NoSuchInstance`], [`Error::Unsupported`] for a VM that runs.
pub fn connect(home: &Home, wanted: &str, attachment: &Attachment) -> Result<()> {
    let found = changeable(home, wanted)?;
    let name = network::find(home, &attachment.network)?.name;
    let attachment = Attachment {
        network: name,
        ..attachment.clone()
    };
    let mut record = found.record;
    join(
        &mut record.spec.network.attachments,
        &attachment,
        &record.name,
    )?;
    record.spec.network.check(record.spec.backend)?;
    if found.state.status.is_alive() {
        return change(home, &record.id, &Request::Connect(Box::new(attachment)));
    }
    let lock = Lock::take(home, &record.id)?;
    write_record(home, &record)?;
    lock.release()
}

/// Takes an instance off a network.
///
/// # Errors
/// As for [`connect`].
pub fn disconnect(home: &Home, wanted: &str, network: &str) -> Result<()> {
    let found = changeable(home, wanted)?;
    let name = network::find(home, network)?.name;
    let mut record = found.record;
    leave(&mut record.spec.network.attachments, &name, &record.name)?;
    if found.state.status.is_alive() {
        return change(home, &record.id, &Request::Disconnect(name));
    }
    if record.spec.network.attachments.is_empty() {
        record.spec.network.mode = NetworkMode::None;
    }
    let lock = Lock::take(home, &record.id)?;
    write_record(home, &record)?;
    lock.release()
}

/// An instance whose networks can be changed as it is.
fn changeable(home: &Home, wanted: &str) -> Result<Listed> {
    let found = instance::look(home, wanted)?;
    let spec = &found.record.spec;
    match spec.network.mode {
        NetworkMode::Host => {
            return Err(NetworkError::Refused(
                "container sharing network namespace with the host cannot be connected to any other network".into(),
            )
            .into());
        }
        NetworkMode::Container(_) => {
            return Err(NetworkError::Refused(
                "container sharing network namespace with another container cannot be connected to any other network".into(),
            )
            .into());
        }
        NetworkMode::None if found.is_running() => {
            return Err(NetworkError::Refused(
                "container cannot be connected to networks while it runs with --network none: stop it first".into(),
            )
            .into());
        }
        _ => {}
    }
    if spec.backend.is_machine() && found.is_running() {
        return Err(Error::Unsupported(
            "network connect and disconnect are refused for a VM that runs: its devices are fixed when it boots; stop it first".into(),
        ));
    }
    Ok(found)
}

/// Adds a place to those that an instance has asked for.
pub(crate) fn join(
    places: &mut Vec<Attachment>,
    attachment: &Attachment,
    instance: &str,
) -> Result<()> {
    if places.is_empty() {
        places.push(Attachment::to(BRIDGE));
    }
    if places
        .iter()
        .any(|place| place.network == attachment.network)
    {
        return Err(NetworkError::AlreadyThere {
            instance: instance.to_owned(),
            network: attachment.network.clone(),
        }
        .into());
    }
    places.push(attachment.clone());
    Ok(())
}

/// Removes a place from those that an instance has asked for.
pub(crate) fn leave(places: &mut Vec<Attachment>, network: &str, instance: &str) -> Result<()> {
    if places.is_empty() {
        places.push(Attachment::to(BRIDGE));
    }
    let before = places.len();
    places.retain(|place| place.network != network);
    if places.len() == before {
        return Err(NetworkError::NotThere {
            instance: instance.to_owned(),
            network: network.to_owned(),
        }
        .into());
    }
    Ok(())
}
