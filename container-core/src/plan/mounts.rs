//! The mounts of a specification, taken apart beforehand so that the container's process need not allocate.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use oci_spec::runtime::Mount;

use super::namespaces::Namespaces;
use super::{c_string, prepared};
use crate::error::{Error, Result};
use crate::sys::mount::{
    ATTR_ATIME, ATTR_NOATIME, ATTR_NODEV, ATTR_NODIRATIME, ATTR_NOEXEC, ATTR_NOSUID,
    ATTR_NOSYMFOLLOW, ATTR_RDONLY, ATTR_STRICTATIME, MountAttr,
};

/// A path below the container's root, and every directory on the way to it.
#[derive(Debug)]
pub(crate) struct Inside {
    /// The path, without a leading slash; `.` for the root itself.
    pub(crate) path: CString,
    /// Its ancestors from the top, each a path below the root, with the last component of each.
    pub(crate) ancestors: Vec<CString>,
}

impl Inside {
    /// A path of the specification as one below the root. `..` cannot be meant there and is refused.
    pub(crate) fn new(field: &str, path: &Path) -> Result<Self> {
        let mut text = Vec::new();
        let mut ancestors = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    if !text.is_empty() {
                        ancestors.push(c_string(field, text.clone())?);
                        text.push(b'/');
                    }
                    text.extend_from_slice(name.as_bytes());
                }
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(Error::invalid(
                        field,
                        format!("{} must not contain \"..\"", path.display()),
                    ));
                }
            }
        }
        if text.is_empty() {
            text.push(b'.');
        }
        Ok(Self {
            path: c_string(field, text)?,
            ancestors,
        })
    }

    /// Whether this is `other` or lies below it, by its text.
    pub(crate) fn is_below(&self, other: &Self) -> bool {
        Path::new(OsStr::from_bytes(self.path.as_bytes()))
            .starts_with(OsStr::from_bytes(other.path.as_bytes()))
    }
}

/// A parameter of a file system: a flag, or a key with its value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    Flag(CString),
    Value(CString, CString),
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A new instance (or the namespace's own instance) of a file system.
    FileSystem {
        name: CString,
        source: CString,
        parameters: Vec<Parameter>,
    },
    /// An existing file or directory of the host.
    Bind { source: CString, recursive: bool },
    /// The same, made by the launcher where only it can: with other owners, or as a peer of the host's own mount.
    Prepared { source: CString, tree: OwnedFd },
    /// The container's view of its cgroups.
    Cgroup,
}

impl Kind {
    /// Whether it shows the kernel itself, so that an image must have no say in where it is.
    pub(crate) fn is_of_the_kernel(&self) -> bool {
        matches!(self, Self::FileSystem { name, .. } if matches!(name.to_bytes(), b"proc" | b"sysfs"))
    }
}

/// One mount, ready to be made.
#[derive(Debug)]
pub(crate) struct MountPlan {
    pub(crate) kind: Kind,
    pub(crate) target: Inside,
    /// Attributes of the mount itself.
    pub(crate) attributes: MountAttr,
    /// Attributes of the mount and everything below it (`rro` and its like).
    pub(crate) recursive_attributes: MountAttr,
    /// Propagation to set afterwards, and whether recursively.
    pub(crate) propagation: Option<(u64, bool)>,
    /// A tmpfs begins with what the directory below it holds.
    pub(crate) copy_up: bool,
    /// It shows a namespace that the container gets only when the launcher has finished its part.
    pub(crate) needs_launcher: bool,
}

/// Options that change attributes of the mount: name, attribute, whether the option clears it.
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", ATTR_RDONLY, false),
    ("rw", ATTR_RDONLY, true),
    ("nosuid", ATTR_NOSUID, false),
    ("suid", ATTR_NOSUID, true),
    ("nodev", ATTR_NODEV, false),
    ("dev", ATTR_NODEV, true),
    ("noexec", ATTR_NOEXEC, false),
    ("exec", ATTR_NOEXEC, true),
    ("nodiratime", ATTR_NODIRATIME, false),
    ("diratime", ATTR_NODIRATIME, true),
    ("nosymfollow", ATTR_NOSYMFOLLOW, false),
    ("symfollow", ATTR_NOSYMFOLLOW, true),
];

/// Access time policies: they share one field, which is cleared before it is set.
const ACCESS_TIMES: &[(&str, u64)] = &[
    ("noatime", ATTR_NOATIME),
    ("atime", 0),
    ("relatime", 0),
    ("norelatime", 0),
    ("strictatime", ATTR_STRICTATIME),
    ("nostrictatime", 0),
];

const PROPAGATIONS: &[(&str, u64, bool)] = &[
    ("private", libc::MS_PRIVATE, false),
    ("rprivate", libc::MS_PRIVATE, true),
    ("slave", libc::MS_SLAVE, false),
    ("rslave", libc::MS_SLAVE, true),
    ("shared", libc::MS_SHARED, false),
    ("rshared", libc::MS_SHARED, true),
    ("unbindable", libc::MS_UNBINDABLE, false),
    ("runbindable", libc::MS_UNBINDABLE, true),
];

/// Options of the superblock that fsconfig(2) takes as flags of the same name.
const SUPERBLOCK_FLAGS: &[&str] = &["sync", "dirsync", "mand", "lazytime"];

/// Options that ask for what is so anyway.
const WITHOUT_EFFECT: &[&str] = &[
    "defaults",
    "async",
    "nomand",
    "silent",
    "loud",
    "nolazytime",
    "noiversion",
];

/// The names of all options of mounts that are not parameters of a file system, in the order of the alphabet.
pub fn mount_options() -> Vec<String> {
    let attributes = ATTRIBUTES
        .iter()
        .map(|(name, ..)| *name)
        .chain(ACCESS_TIMES.iter().map(|(name, _)| *name));
    let mut names: Vec<String> = attributes
        .flat_map(|name| [name.to_owned(), format!("r{name}")])
        .chain(
            PROPAGATIONS
                .iter()
                .map(|(name, ..)| (*name).to_owned())
                .chain(SUPERBLOCK_FLAGS.iter().map(|name| (*name).to_owned()))
                .chain(WITHOUT_EFFECT.iter().map(|name| (*name).to_owned()))
                .chain(OTHERS.iter().map(|name| (*name).to_owned())),
        )
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Options that are neither attributes nor parameters.
const OTHERS: &[&str] = &["bind", "rbind", "idmap", "ridmap", "tmpcopyup"];

/// The flag of a propagation by its name in `rootfsPropagation` (`private`, `rslave`, …).
pub(crate) fn propagation(name: &str) -> Option<(u64, bool)> {
    PROPAGATIONS
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|&(_, flag, recursive)| (flag, recursive))
}

fn apply(attributes: &mut MountAttr, option: &str) -> bool {
    if let Some((_, attribute, clears)) = ATTRIBUTES.iter().find(|(name, ..)| *name == option) {
        if *clears {
            attributes.set &= !attribute;
            attributes.clear |= attribute;
        } else {
            attributes.set |= attribute;
            attributes.clear &= !attribute;
        }
        return true;
    }
    if let Some((_, policy)) = ACCESS_TIMES.iter().find(|(name, _)| *name == option) {
        attributes.clear |= ATTR_ATIME;
        attributes.set = attributes.set & !ATTR_ATIME | policy;
        return true;
    }
    false
}

/// Takes a mount of the specification apart.
///
/// `namespaces` are the container's: an idmapped mount without mappings of its own takes those of its users.
pub(crate) fn plan(index: usize, mount: &Mount, namespaces: &Namespaces) -> Result<MountPlan> {
    let field = format!("mounts[{index}]");
    let destination = mount.destination();
    let target = Inside::new(&format!("{field}.destination"), destination)?;
    if target.path.as_bytes() == b"." {
        return Err(Error::invalid(
            format!("{field}.destination"),
            "the root cannot be mounted over: use root.path",
        ));
    }

    let mut attributes = MountAttr::default();
    let mut recursive_attributes = MountAttr::default();
    let mut propagation_set = None;
    let mut bind = None;
    let mut copy_up = false;
    let mut idmap = None;
    let mut parameters = Vec::new();
    for option in mount.options().iter().flatten() {
        let recursive_option = option
            .strip_prefix('r')
            .filter(|rest| *rest != "w" && *rest != "o");
        match option.as_str() {
            "bind" => bind = bind.or(Some(false)),
            "rbind" => bind = Some(true),
            "tmpcopyup" => copy_up = true,
            "idmap" => idmap = idmap.or(Some(false)),
            "ridmap" => idmap = Some(true),
            "remount" => {
                return Err(Error::unsupported(
                    format!("{field}.options"),
                    "remount has nothing to act on",
                ));
            }
            option if WITHOUT_EFFECT.contains(&option) => {}
            option if apply(&mut attributes, option) => {}
            option if propagation(option).is_some() => propagation_set = propagation(option),
            _ if recursive_option
                .is_some_and(|option| apply(&mut recursive_attributes, option)) => {}
            option if SUPERBLOCK_FLAGS.contains(&option) => {
                parameters.push(Parameter::Flag(c_string(&field, option)?))
            }
            option => parameters.push(match option.split_once('=') {
                Some((key, value)) => {
                    // fsconfig(2) takes up to 255 bytes, the terminator not counted.
                    if value.len() > 255 {
                        return Err(Error::invalid(
                            format!("{field}.options"),
                            format!("the value of {key} is longer than the kernel's 255 bytes"),
                        ));
                    }
                    Parameter::Value(c_string(&field, key)?, c_string(&field, value)?)
                }
                None => Parameter::Flag(c_string(&field, option)?),
            }),
        }
    }
    let name = mount
        .typ()
        .as_deref()
        .unwrap_or(if bind.is_some() { "bind" } else { "none" });
    // A type that some generators write.
    let (name, bind) = match name {
        "rbind" => ("bind", Some(true)),
        name => (name, bind),
    };
    let kind = match (name, bind) {
        ("bind", None) | (_, Some(_)) => {
            let source = mount.source().as_deref().ok_or_else(|| {
                Error::invalid(format!("{field}.source"), "a bind mount needs a source")
            })?;
            if !source.is_absolute() {
                return Err(Error::invalid(
                    format!("{field}.source"),
                    format!("{} must be an absolute path", source.display()),
                ));
            }
            // What is left over are data of a file system, and a bind has none (runc ignores them too).
            Kind::Bind {
                source: c_string(&format!("{field}.source"), source.as_os_str().as_bytes())?,
                recursive: bind.unwrap_or(false),
            }
        }
        ("cgroup" | "cgroup2", None) => Kind::Cgroup,
        ("none" | "", None) => {
            return Err(Error::invalid(
                format!("{field}.type"),
                "a mount that is not a bind needs a type",
            ));
        }
        (name, None) => {
            // What mountinfo shows in its place.
            let source = mount
                .source()
                .as_deref()
                .map_or(name.as_bytes(), |source| source.as_os_str().as_bytes());
            let source = source.get(..source.len().min(255)).unwrap_or_default();
            Kind::FileSystem {
                name: c_string(&format!("{field}.type"), name)?,
                source: c_string(&format!("{field}.source"), source)?,
                parameters,
            }
        }
    };
    let needs_launcher = matches!(name, "sysfs" | "cgroup" | "cgroup2");
    if copy_up && name != "tmpfs" {
        return Err(Error::invalid(
            format!("{field}.options"),
            "tmpcopyup is for a tmpfs",
        ));
    }
    let owners = prepared::owners(&field, mount, idmap, namespaces)?;
    let is_peer = propagation_set.is_some_and(|(flag, _)| flag == libc::MS_SHARED);
    let kind = match kind {
        // Root of a user namespace may not reach what the host's may: the launcher opens it.
        Kind::Bind { source, recursive }
            if owners.is_some() || is_peer || namespaces.has_user() =>
        {
            let tree = prepared::prepare(
                &field,
                &source,
                recursive,
                owners,
                &mut attributes,
                &mut recursive_attributes,
            )?;
            Kind::Prepared { source, tree }
        }
        _ if owners.is_some() => {
            return Err(Error::unsupported(
                format!("{field}.uidMappings"),
                "only a bind mount can be idmapped",
            ));
        }
        kind => kind,
    };
    Ok(MountPlan {
        copy_up,
        kind,
        target,
        attributes,
        recursive_attributes,
        propagation: propagation_set,
        needs_launcher,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use oci_spec::runtime::MountBuilder;

    use super::*;

    fn plan(index: usize, mount: &Mount) -> Result<MountPlan> {
        super::plan(index, mount, &Namespaces::none())
    }

    fn mount(kind: &str, options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination(PathBuf::from("/data"))
            .typ(kind)
            .source(PathBuf::from("/srv"))
            .options(
                options
                    .iter()
                    .map(|option| (*option).to_owned())
                    .collect::<Vec<_>>(),
            )
            .build()
            .unwrap()
    }

    #[test]
    fn a_later_option_overrides_an_earlier_one() {
        let plan = plan(0, &mount("bind", &["ro", "nosuid", "rw"])).unwrap();
        assert_eq!(plan.attributes.set, ATTR_NOSUID);
        assert_eq!(plan.attributes.clear, ATTR_RDONLY);
    }

    #[test]
    fn rro_reaches_what_is_mounted_below_and_ro_does_not() {
        let below = plan(0, &mount("bind", &["rbind", "rro"])).unwrap();
        assert_eq!(
            (below.attributes.set, below.recursive_attributes.set),
            (0, ATTR_RDONLY)
        );
        let top = plan(0, &mount("bind", &["rbind", "ro"])).unwrap();
        assert_eq!(
            (top.attributes.set, top.recursive_attributes.set),
            (ATTR_RDONLY, 0)
        );
        let writable = plan(0, &mount("bind", &["rw"])).unwrap();
        assert_eq!(writable.recursive_attributes, MountAttr::default());
    }

    #[test]
    fn rbind_may_be_the_type() {
        let plan = plan(0, &mount("rbind", &[])).unwrap();
        assert!(matches!(
            plan.kind,
            Kind::Bind {
                recursive: true,
                ..
            }
        ));
    }

    #[test]
    fn relatime_is_not_taken_for_a_recursive_option() {
        let plan = plan(0, &mount("tmpfs", &["relatime", "noatime"])).unwrap();
        assert_eq!(
            (plan.attributes.set, plan.attributes.clear),
            (ATTR_NOATIME, ATTR_ATIME)
        );
        assert!(plan.recursive_attributes.is_empty());
    }

    #[test]
    fn what_is_no_attribute_becomes_a_parameter_of_the_file_system() {
        let plan = plan(
            0,
            &mount(
                "tmpfs",
                &["mode=755", "nosuid", "size=64m", "sync", "noswap"],
            ),
        )
        .unwrap();
        let Kind::FileSystem { parameters, .. } = plan.kind else {
            panic!("{:?}", plan.kind)
        };
        assert_eq!(
            parameters,
            [
                Parameter::Value(c"mode".into(), c"755".into()),
                Parameter::Value(c"size".into(), c"64m".into()),
                Parameter::Flag(c"sync".into()),
                Parameter::Flag(c"noswap".into()),
            ]
        );
    }

    #[test]
    fn a_destination_cannot_climb_out_of_the_root() {
        assert!(Inside::new("x", Path::new("/a/../../etc")).is_err());
        let inside = Inside::new("x", Path::new("//a/./b/c")).unwrap();
        assert_eq!(inside.path.as_c_str(), c"a/b/c");
        assert_eq!(inside.ancestors, [c"a".to_owned(), c"a/b".to_owned()]);
    }

    #[test]
    fn a_relative_bind_source_is_refused() {
        let mut relative = mount("bind", &["bind"]);
        relative.set_source(Some(PathBuf::from("srv")));
        assert!(
            plan(0, &relative)
                .unwrap_err()
                .to_string()
                .contains("absolute")
        );
    }
}
