//! Where a copy goes and what its first name becomes, from what is at both ends.

use super::path;
use super::{ArchiveError, Result};

/// What is to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its path, with the slash or dot that the user has typed.
    pub(crate) path: String,
    pub(crate) is_directory: bool,
    /// What it is to be called, where a link that was followed had another name.
    pub(crate) renamed: Option<String>,
}

/// Where it is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Its path, with the slash or dot that the user has typed.
    pub(crate) path: String,
    /// Whether something is there; and whether that is a directory.
    pub(crate) exists: bool,
    pub(crate) is_directory: bool,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The directory that the files are put into.
    pub(crate) directory: String,
    /// The first name they get there. None: the source's own, or none where a directory's content is copied.
    pub(crate) name: Option<String>,
}

/// docker's rules (`docker cp`, reference, "SRC_PATH does specify a file/directory").
pub(crate) fn plan(source: &Source, destination: &Destination) -> Result<Placement> {
    if destination.exists && destination.is_directory {
        return Ok(Placement {
            directory: destination.path.clone(),
            name: source.renamed.clone(),
        });
    }
    if destination.exists && source.is_directory {
        return Err(ArchiveError::CannotCopyDirectory);
    }
    if !destination.exists && !source.is_directory && path::asserts_directory(&destination.path) {
        return Err(ArchiveError::NoSuchDirectory);
    }
    let (directory, name) = path::split(&destination.path);
    Ok(Placement {
        directory,
        name: Some(name).filter(|name| name != "." && name != "/"),
    })
}

/// The path and the other name of a source whose link was followed: a slash or dot at the end of what was typed stays, and so does the
/// name.
pub(crate) fn follow(typed: &str, target: &str) -> (String, Option<String>) {
    let mut target = target.to_owned();
    if path::ends_in_dot(typed) && !path::ends_in_dot(&target) {
        target.push_str("/.");
    }
    if path::ends_in_slash(typed) && !path::ends_in_slash(&target) {
        target.push('/');
    }
    let renamed = (path::base(typed) != path::base(&target)).then(|| path::base(typed).to_owned());
    (target, renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, is_directory: bool) -> Source {
        Source {
            path: path.into(),
            is_directory,
            renamed: None,
        }
    }

    fn destination(path: &str, exists: bool, is_directory: bool) -> Destination {
        Destination {
            path: path.into(),
            exists,
            is_directory,
        }
    }

    #[test]
    fn copies_go_where_docker_puts_them() {
        let (file, directory) = (source("/s/file", false), source("/s/dir", true));
        let content = source("/s/dir/.", true);
        for (from, to, placed) in [
            (&file, destination("/d", true, true), Ok(("/d", None))),
            (
                &file,
                destination("/d/x", false, false),
                Ok(("/d", Some("x"))),
            ),
            (
                &file,
                destination("/d/x", true, false),
                Ok(("/d", Some("x"))),
            ),
            (&file, destination("/x", false, false), Ok(("/", Some("x")))),
            (
                &file,
                destination("/d/x/", false, false),
                Err("no such directory"),
            ),
            (
                &directory,
                destination("/d/", true, true),
                Ok(("/d/", None)),
            ),
            (
                &directory,
                destination("/d/x", false, false),
                Ok(("/d", Some("x"))),
            ),
            (
                &directory,
                destination("/d/x/", false, false),
                Ok(("/d", Some("x"))),
            ),
            (
                &directory,
                destination("/d/x", true, false),
                Err("cannot copy directory"),
            ),
            (&content, destination("/d", true, true), Ok(("/d", None))),
            (
                &content,
                destination("/d/x", false, false),
                Ok(("/d", Some("x"))),
            ),
        ] {
            let told = plan(from, &to);
            let told = match &told {
                Ok(placement) => Ok((placement.directory.as_str(), placement.name.as_deref())),
                Err(error) => Err(error.to_string()),
            };
            assert_eq!(told, placed.map_err(str::to_owned), "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_followed_link_keeps_its_own_name() {
        for (typed, target, path, renamed) in [
            ("/a/link", "/b/file", "/b/file", Some("link")),
            ("/a/same", "/b/same", "/b/same", None),
            ("/a/link/", "/b/dir", "/b/dir/", Some("link")),
            ("/a/link/.", "/b/dir", "/b/dir/.", None),
        ] {
            let followed = follow(typed, target);
            assert_eq!(
                followed,
                (path.into(), renamed.map(str::to_owned)),
                "{typed}"
            );
        }
    }
}
