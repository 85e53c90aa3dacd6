//! Images and the instances made from them: what may be removed, and what is in use.

use std::collections::BTreeMap;

use image_core::{Image, ImageSummary, Removed, Store};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed, Lock};

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedImages {
    /// Names and images that are gone.
    pub removed: Vec<Removed>,
    /// Bytes that the files in their layers had, as far as no other image has those.
    pub bytes: u64,
}

/// The instances made from each image, by its identifier.
///
/// # Errors
/// When the state directory cannot be read.
pub fn instances_by_image(home: &Home) -> Result<BTreeMap<String, Vec<Listed>>> {
    let mut users: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    for item in instance::list(home)? {
        users
            .entry(item.record.image_id.clone())
            .or_default()
            .push(item);
    }
    Ok(users)
}

/// Removes a name of an image, and the image with its last one, unless an instance needs it: one that runs always, one
/// that does not unless `force`d. Content that no image refers to goes with it.
///
/// # Errors
/// [`Error::ImageInUse`], and the store's.
pub fn remove(home: &Home, store: &Store, name: &str, force: bool) -> Result<Vec<Removed>> {
    // From here on nobody makes an instance until the image is gone.
    let _alone = store.hold_images_alone()?;
    let image = store.resolve(name)?;
    // Another name keeps the image.
    let stays = image.names.len() > 1 && !is_identifier(name, &image);
    let _held = if stays {
        Held(Vec::new())
    } else {
        hold(home, &image, name, force)?
    };
    Ok(store.remove(name, force)?)
}

/// Removes the images that `goes` picks and no instance is made from, with all their names.
///
/// # Errors
/// When the store or the state directory cannot be read or written.
pub fn prune(
    home: &Home,
    store: &Store,
    goes: &dyn Fn(&ImageSummary, &Image) -> bool,
) -> Result<PrunedImages> {
    let before = store.usage()?.bytes();
    let mut pruned = PrunedImages::default();
    for summary in store.list()? {
        let id = summary.id.to_string();
        let _alone = store.hold_images_alone()?;
        // An earlier turn may have taken it with another name.
        let Ok(image) = store.resolve(&id) else {
            continue;
        };
        if !goes(&summary, &image) || instance::user_of_image(home, &id)?.is_some() {
            continue;
        }
        pruned.removed.extend(store.remove(&id, true)?);
    }
    pruned.bytes = before.saturating_sub(store.usage()?.bytes());
    Ok(pruned)
}

/// Whether `text` means the image by its identifier, not by a name.
fn is_identifier(text: &str, image: &Image) -> bool {
    !text
        .parse::<image_core::Reference>()
        .is_ok_and(|name| image.names.contains(&name.to_string()))
}

/// Instances that cannot be started until this is dropped.
struct Held(Vec<Lock>);

impl Drop for Held {
    fn drop(&mut self) {
        for lock in self.0.drain(..) {
            // What stays is settled by the next command.
            let _ = lock.release();
        }
    }
}

/// Makes sure that no instance runs from the image, or comes to while it is being removed.
fn hold(home: &Home, image: &Image, name: &str, force: bool) -> Result<Held> {
    let id = image.id.to_string();
    let mut held = Held(Vec::new());
    for item in instance::list(home)? {
        if item.record.image_id != id {
            continue;
        }
        let in_use = |running| Error::ImageInUse {
            image: name.to_owned(),
            instance: item.record.short_id().to_owned(),
            running,
        };
        if item.is_running() {
            return Err(in_use(true));
        }
        if !force {
            return Err(in_use(false));
        }
        match Lock::take(home, &item.record.id) {
            Ok(lock) => held.0.push(lock),
            Err(Error::Running(_)) => return Err(in_use(true)),
            Err(other) => return Err(other),
        }
    }
    Ok(held)
}
