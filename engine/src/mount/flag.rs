//! `--mount`.

use std::path::Path;

use super::{
    BindMount, MountError, MountKind, MountSpec, Origin, Propagation, Recursion, TmpfsMount,
    VolumeMount, csv, path,
};
use crate::spec::Bytes;
use crate::volume;

/// Everything that the fields of a `--mount` can say, before its type decides which of them may be there.
#[derive(Default)]
struct Fields {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    /// Whether a key of that group was given.
    has_bind: bool,
    has_volume: bool,
    has_tmpfs: bool,
    create_missing: bool,
    propagation: String,
    recursion: Recursion,
    volume: VolumeMount,
    driver: String,
    tmpfs: Vec<String>,
}

/// Reads `--mount type=…,source=…,target=…`. A source that begins with `./` is taken from `directory`.
///
/// # Errors
/// [`MountError`], with docker's words.
pub fn parse_mount(text: &str, directory: &Path) -> Result<MountSpec, MountError> {
    let wrong = |reason: String| MountError::Flag {
        value: text.to_owned(),
        reason,
    };
    let mut fields = Fields {
        kind: "volume".to_owned(),
        ..Fields::default()
    };
    for field in csv::fields(text).map_err(wrong)? {
        fields.set(&field, directory).map_err(wrong)?;
    }
    fields.check_groups().map_err(wrong)?;
    fields.finish()
}

impl Fields {
    fn set(&mut self, field: &str, directory: &Path) -> Result<(), String> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => self.read_only = true,
                "volume-nocopy" => {
                    self.has_volume = true;
                    self.volume.nocopy = true;
                }
                "bind-nonrecursive" => {
                    self.has_bind = true;
                    self.recursion = Recursion::Disabled;
                }
                "bind-create-src" => {
                    self.has_bind = true;
                    self.create_missing = true;
                }
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            return Ok(());
        };
        let wrong = || format!("invalid value for {key}: {value}");
        self.has_bind |= key.starts_with("bind-");
        self.has_volume |= key.starts_with("volume-");
        self.has_tmpfs |= key.starts_with("tmpfs-");
        match key.as_str() {
            "type" => self.kind = value.to_lowercase(),
            "source" | "src" => {
                self.source = if value == "." || value.starts_with("./") {
                    path::absolute(value, directory)
                } else {
                    value.to_owned()
                };
            }
            "target" | "dst" | "destination" => self.target = value.to_owned(),
            "readonly" | "ro" => self.read_only = boolean(value).ok_or_else(wrong)?,
            // docker's words for its own macOS machine; without meaning here, as in docker on Linux.
            "consistency" => match value.to_lowercase().as_str() {
                "consistent" | "cached" | "delegated" | "default" => {}
                _ => return Err(wrong()),
            },
            "bind-propagation" => self.propagation = value.to_lowercase(),
            "bind-nonrecursive" => {
                if boolean(value).ok_or_else(wrong)? {
                    self.recursion = Recursion::Disabled;
                }
            }
            "bind-create-src" => self.create_missing = boolean(value).ok_or_else(wrong)?,
            "bind-recursive" => {
                self.recursion = match value {
                    "enabled" => Recursion::Enabled,
                    "disabled" => Recursion::Disabled,
                    "writable" => Recursion::Writable,
                    "readonly" => Recursion::ReadOnly,
                    _ => {
                        return Err(format!(
                            "{} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
                            wrong()
                        ));
                    }
                }
            }
            "volume-subpath" => self.volume.subpath = Some(value.to_owned()),
            "volume-nocopy" => self.volume.nocopy = boolean(value).ok_or_else(wrong)?,
            "volume-label" => insert(&mut self.volume.labels, value),
            "volume-driver" => self.driver = value.to_owned(),
            "volume-opt" => insert(&mut self.volume.options, value),
            "tmpfs-size" => {
                let Bytes(bytes) = value.parse().map_err(|_| wrong())?;
                // Zero means docker's default; to the kernel it would mean no limit at all.
                if bytes != 0 {
                    self.tmpfs.push(format!("size={bytes}"));
                }
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| wrong())?;
                // Zero means docker's default, which is tmpfs's own.
                if mode != 0 {
                    self.tmpfs.push(format!("mode={:o}", mode & 0o7777));
                }
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
        Ok(())
    }

    /// What only makes sense with certain others.
    fn check_groups(&self) -> Result<(), String> {
        let kind = &self.kind;
        if kind.is_empty() {
            return Err("type is required".to_owned());
        }
        if self.target.is_empty() {
            return Err("target is required".to_owned());
        }
        for (given, group) in [
            (self.has_volume, "volume"),
            (self.has_bind, "bind"),
            (self.has_tmpfs, "tmpfs"),
        ] {
            if given && kind != group {
                return Err(format!(
                    "cannot mix '{group}-*' options with mount type '{kind}'"
                ));
            }
        }
        let needs = match self.recursion {
            Recursion::Writable if !self.read_only => Some("readonly"),
            Recursion::ReadOnly if !self.read_only => Some("readonly"),
            Recursion::ReadOnly if self.propagation != "rprivate" => {
                Some("bind-propagation=rprivate")
            }
            _ => None,
        };
        if let Some(needs) = needs {
            let recursion = match self.recursion {
                Recursion::Writable => "writable",
                _ => "readonly",
            };
            return Err(format!(
                "option 'bind-recursive={recursion}' requires '{needs}' to be specified in conjunction"
            ));
        }
        Ok(())
    }

    fn finish(self) -> Result<MountSpec, MountError> {
        let wrong = |reason: &str| MountError::config(&self.kind, reason);
        let target = path::target(&self.target).map_err(|e| wrong(&e.to_string()))?;
        let kind = match self.kind.as_str() {
            "bind" => {
                if self.source.is_empty() {
                    return Err(wrong("field Source must not be empty"));
                }
                if !self.source.starts_with('/') {
                    return Err(wrong(
                        &MountError::Relative(self.source.clone()).to_string(),
                    ));
                }
                let propagation = if self.propagation.is_empty() {
                    Propagation::default()
                } else {
                    Propagation::from_word(&self.propagation).ok_or_else(|| {
                        wrong(&format!("invalid propagation mode: {}", self.propagation))
                    })?
                };
                MountKind::Bind(BindMount {
                    source: path::clean(&self.source),
                    create_missing: self.create_missing,
                    propagation,
                    recursion: self.recursion,
                })
            }
            "volume" => self.volume_kind()?,
            "tmpfs" => {
                if !self.source.is_empty() {
                    return Err(wrong("field Source must not be specified"));
                }
                MountKind::Tmpfs(TmpfsMount {
                    options: self.tmpfs,
                    by_mount: true,
                })
            }
            "image" | "npipe" | "cluster" => {
                return Err(wrong(
                    "plimsoll does not have this type: use bind, volume or tmpfs",
                ));
            }
            _ => return Err(wrong("mount type unknown")),
        };
        Ok(MountSpec {
            kind,
            target,
            read_only: self.read_only,
            origin: Origin::Asked,
        })
    }

    fn volume_kind(&self) -> Result<MountKind, MountError> {
        let wrong = |reason: &str| MountError::config("volume", reason);
        let anonymous = self.source.is_empty();
        if let Some(subpath) = &self.volume.subpath {
            if anonymous {
                return Err(wrong("must not set Subpath when using anonymous volumes"));
            }
            if !path::is_local(subpath) {
                return Err(wrong("subpath must be a relative path within the volume"));
            }
        }
        if anonymous && self.read_only {
            return Err(wrong(
                "must not set ReadOnly mode when using anonymous volumes",
            ));
        }
        if !anonymous {
            volume::check_name(&self.source)?;
        }
        volume::check_driver(&self.source, &self.driver)?;
        volume::check_options(&self.source, &self.volume.options)?;
        Ok(MountKind::Volume(VolumeMount {
            name: (!anonymous).then(|| self.source.clone()),
            anonymous,
            ..self.volume.clone()
        }))
    }
}

fn insert(map: &mut std::collections::BTreeMap<String, String>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if !key.is_empty() {
        map.insert(key.to_owned(), value.to_owned());
    }
}

/// What Go's ParseBool takes.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
