//! `-v` and `--volumes-from`.

use std::path::Path;

use super::{BindMount, MountError, MountKind, MountSpec, Origin, Propagation, VolumeMount, path};
use crate::volume;

/// `--volumes-from`: another instance's mounts are wanted too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumesFrom {
    /// Name or identifier of the instance.
    pub instance: String,
    /// Whether none of them can be written to.
    pub read_only: bool,
}

/// What stands behind the target.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mode {
    read_only: bool,
    nocopy: bool,
    propagation: Option<Propagation>,
}

impl Mode {
    /// Reads `ro,z,rslave`. None for an unknown word, or two of one kind (docker's rule).
    fn parse(text: &str) -> Option<Self> {
        let mut mode = Self::default();
        if text.is_empty() {
            return Some(mode);
        }
        let mut kinds: Vec<&str> = Vec::new();
        for word in text.split(',') {
            let kind = match word {
                "ro" | "rw" => {
                    mode.read_only = word == "ro";
                    "access"
                }
                // SELinux labels: nothing to relabel where there is no SELinux, and docker takes them there too.
                "z" | "Z" => "label",
                "nocopy" => {
                    mode.nocopy = true;
                    "copy"
                }
                // docker's words for its own macOS machine; without meaning here, as in docker on Linux.
                "consistent" | "cached" | "delegated" => "consistency",
                _ => {
                    mode.propagation = Some(Propagation::from_word(word)?);
                    "propagation"
                }
            };
            if kinds.contains(&kind) {
                return None;
            }
            kinds.push(kind);
        }
        Some(mode)
    }
}

/// Reads `-v /target`, `-v NAME:/target[:MODE]` or `-v /source:/target[:MODE]`. A source that begins with a dot is taken from
/// `directory`.
///
/// # Errors
/// [`MountError`], with docker's words.
pub fn parse_volume(text: &str, directory: &Path) -> Result<MountSpec, MountError> {
    if text.is_empty() {
        return Err(MountError::Empty);
    }
    let sections: Vec<&str> = text.split(':').collect();
    let wrong = |reason| MountError::Sections {
        spec: text.to_owned(),
        reason,
    };
    if sections.iter().any(|section| section.is_empty()) {
        return Err(wrong("empty section between colons"));
    }
    let refused = |reason: Option<MountError>| MountError::Volume {
        spec: text.to_owned(),
        reason: reason.map(Box::new),
    };
    let (source, target, mode) = match sections[..] {
        [target] => {
            return Ok(MountSpec {
                kind: MountKind::Volume(VolumeMount {
                    anonymous: true,
                    ..VolumeMount::default()
                }),
                target: path::target(target)?,
                read_only: false,
                origin: Origin::Implied,
            });
        }
        // `-v /data:ro` says neither where from nor where to.
        [_, target] if Mode::parse(target).is_some() => return Err(refused(None)),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(wrong("too many colons")),
    };
    let Some(mode) = Mode::parse(mode) else {
        return Err(MountError::Mode(mode.to_owned()));
    };
    let field = |kind: &str, field: &str| {
        refused(Some(MountError::config(
            kind,
            format!("field {field} must not be specified"),
        )))
    };
    let source = if source.starts_with('.') {
        path::absolute(source, directory)
    } else {
        source.to_owned()
    };
    let kind = if source.starts_with('/') {
        if mode.nocopy {
            return Err(field("bind", "VolumeOptions"));
        }
        MountKind::Bind(BindMount {
            source: path::clean(&source),
            create_missing: true,
            propagation: mode.propagation.unwrap_or_default(),
            ..BindMount::default()
        })
    } else {
        if mode.propagation.is_some() {
            return Err(field("volume", "BindOptions"));
        }
        volume::check_name(&source)?;
        MountKind::Volume(VolumeMount {
            name: Some(source),
            nocopy: mode.nocopy,
            ..VolumeMount::default()
        })
    };
    let kind_name = match kind {
        MountKind::Bind(_) => "bind",
        _ => "volume",
    };
    Ok(MountSpec {
        target: path::target(target)
            .map_err(|e| refused(Some(MountError::config(kind_name, e.to_string()))))?,
        kind,
        read_only: mode.read_only,
        origin: Origin::Asked,
    })
}

/// Reads `--volumes-from INSTANCE[:ro|rw]`.
///
/// # Errors
/// [`MountError::NoInstance`] and [`MountError::Mode`].
pub fn parse_volumes_from(text: &str) -> Result<VolumesFrom, MountError> {
    let (instance, mode) = text.split_once(':').unwrap_or((text, ""));
    if instance.is_empty() {
        return Err(MountError::NoInstance);
    }
    let parsed = Mode::parse(mode).filter(|mode| mode.propagation.is_none() && !mode.nocopy);
    let Some(parsed) = parsed else {
        return Err(MountError::Mode(mode.to_owned()));
    };
    Ok(VolumesFrom {
        instance: instance.to_owned(),
        read_only: parsed.read_only,
    })
}
