//! Cgroups by the names of their instances: where they are, which there are, and removing them.

use std::path::{Component, Path, PathBuf};

use super::directory::Directory;
use super::{Cgroup, Error, PARENT, Result, detect};
use crate::sys::Errno;

/// Where an instance's cgroup is: `plimsoll/<id>`, below the top of each hierarchy.
pub fn path_of_id(id: &str) -> Result<PathBuf> {
    if id.is_empty() || id.starts_with('.') || id.contains(['/', '\0']) {
        return Err(Error::Invalid {
            field: "id".to_owned(),
            reason: format!("{id:?} cannot name a cgroup"),
        });
    }
    Ok(Path::new(PARENT).join(id))
}

/// Where `linux.cgroupsPath` of a specification leads: an absolute path from the top of each hierarchy, a relative one
/// from our own parent.
pub fn path_of_spec(path: &Path) -> Result<PathBuf> {
    let invalid = |reason: &str| Error::Invalid {
        field: "linux.cgroupsPath".to_owned(),
        reason: reason.to_owned(),
    };
    let mut result = if path.is_absolute() {
        PathBuf::new()
    } else {
        PathBuf::from(PARENT)
    };
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid("must not contain \"..\""));
            }
        }
    }
    if path.to_string_lossy().contains(':') {
        return Err(invalid(
            "slice:prefix:name is for hosts with systemd; give a path",
        ));
    }
    if result.as_os_str().is_empty() {
        return Err(invalid("must name a cgroup below the top"));
    }
    Ok(result)
}

/// Kills whatever is left in an instance's cgroups and removes them. Can be repeated; what is not there is fine.
pub fn remove_by_id(id: &str) -> Result<()> {
    match Cgroup::open(&path_of_id(id)?)? {
        Some(cgroup) => cgroup.remove(),
        None => Ok(()),
    }
}

/// The IDs of all cgroups below our parent, in whichever hierarchy: what a killed launcher may have left.
pub fn list() -> Result<Vec<String>> {
    let hierarchies = detect()?;
    let tops = hierarchies.v2().into_iter().chain(
        hierarchies
            .v1()
            .iter()
            .map(|hierarchy| hierarchy.mount.as_path()),
    );
    let mut ids = Vec::new();
    for top in tops {
        let Some(parent) = Directory::open(top.join(PARENT))? else {
            continue;
        };
        ids.extend(parent.children()?);
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Removes our parent from every hierarchy, where nothing is left below it.
pub fn remove_parent() -> Result<()> {
    let hierarchies = detect()?;
    let tops = hierarchies.v2().into_iter().chain(
        hierarchies
            .v1()
            .iter()
            .map(|hierarchy| hierarchy.mount.as_path()),
    );
    for top in tops {
        let path = top.join(PARENT);
        match std::fs::remove_dir(&path).map_err(Errno::from) {
            Ok(()) | Err(Errno(libc::ENOENT | libc::EBUSY | libc::ENOTEMPTY)) => {}
            Err(errno) => {
                return Err(Error::File {
                    doing: "remove".to_owned(),
                    path,
                    errno,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_specification_stays_below_the_top() {
        assert_eq!(path_of_spec(Path::new("/a/b")).unwrap(), Path::new("a/b"));
        assert_eq!(
            path_of_spec(Path::new("a")).unwrap(),
            Path::new("plimsoll/a")
        );
        for wrong in ["/../x", "/", "system.slice:plimsoll:x"] {
            assert!(path_of_spec(Path::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_names_one_cgroup_below_our_parent() {
        assert_eq!(path_of_id("x1").unwrap(), Path::new("plimsoll/x1"));
        for wrong in ["", ".", "..", "a/b"] {
            assert!(path_of_id(wrong).is_err(), "{wrong:?}");
        }
    }
}
