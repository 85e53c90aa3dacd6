//! An instance's mounts from the user's flags, other instances' mounts and the image's volumes.

use std::collections::BTreeMap;

use super::{MountError, MountKind, MountSpec, Origin, VolumeMount, path};

/// The most mounts that an instance can have: far more than anybody writes, and few enough that a hostile image's list of volumes
/// costs little.
const MOUNTS_MAX: usize = 1024;

/// Another instance's mounts, for `--volumes-from`.
#[derive(Debug, Clone, Copy)]
pub struct Inherited<'a> {
    /// Whether none of them can be written to here.
    pub read_only: bool,
    /// The mounts in the other instance's record.
    pub mounts: &'a [MountSpec],
}

/// Puts an instance's mounts together, parents before what is mounted in them: what was asked for by name wins at its target, then what
/// another instance has there (the last one named), then the image's volumes. tmpfs mounts are not inherited: their content
/// lives in the instance that has them.
///
/// # Errors
/// [`MountError`] for an image that declares a volume where none can be, or too many.
pub fn merge(
    asked: &[MountSpec],
    inherited: &[Inherited<'_>],
    image_volumes: &[String],
) -> Result<Vec<MountSpec>, MountError> {
    let mut merged: BTreeMap<&str, MountSpec> = BTreeMap::new();
    for from in inherited {
        for mount in from.mounts {
            if matches!(mount.kind, MountKind::Tmpfs(_)) {
                continue;
            }
            let inherited = MountSpec {
                read_only: mount.read_only || from.read_only,
                origin: Origin::Inherited,
                ..mount.clone()
            };
            merged.insert(&mount.target, inherited);
        }
    }
    let (implied, named): (Vec<&MountSpec>, Vec<&MountSpec>) = asked
        .iter()
        .partition(|mount| mount.origin == Origin::Implied);
    for mount in named {
        merged.insert(&mount.target, mount.clone());
    }
    for mount in implied {
        merged.entry(&mount.target).or_insert_with(|| mount.clone());
    }
    let mut mounts: Vec<MountSpec> = merged.into_values().collect();
    for volume in image_volumes {
        // A count that cannot pass the limit later needs no look at each of a hostile image's entries.
        if mounts.len() > MOUNTS_MAX {
            break;
        }
        let absolute = format!("/{volume}");
        let target = path::target(&absolute)
            .map_err(|e| MountError::config("volume", format!("the image's VOLUME: {e}")))?;
        if mounts.iter().any(|mount| mount.target == target) {
            continue;
        }
        mounts.push(MountSpec {
            kind: MountKind::Volume(VolumeMount {
                anonymous: true,
                ..VolumeMount::default()
            }),
            target,
            read_only: false,
            origin: Origin::Implied,
        });
    }
    if mounts.len() > MOUNTS_MAX {
        return Err(MountError::TooMany {
            count: mounts.len().max(image_volumes.len()),
            limit: MOUNTS_MAX,
        });
    }
    mounts.sort_by(|a, b| {
        (path::depth(&a.target), &a.target).cmp(&(path::depth(&b.target), &b.target))
    });
    Ok(mounts)
}
