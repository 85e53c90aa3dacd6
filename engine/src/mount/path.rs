//! Paths by their text: what docker does with Go's `filepath`.

use std::path::Path;

use super::MountError;

/// A path without `.`, `..`, doubled slashes and a slash at the end, worked out from the text alone. A relative one is taken from the
/// root.
pub(crate) fn clean(path: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    format!("/{}", components.join("/"))
}

/// The target of a mount, cleaned.
pub(crate) fn target(path: &str) -> Result<String, MountError> {
    // Images may hold whatever JSON can say; the kernel's paths end at a NUL.
    if !path.starts_with('/') || path.contains('\0') {
        return Err(MountError::Relative(path.escape_debug().to_string()));
    }
    let cleaned = clean(path);
    if cleaned == "/" {
        return Err(MountError::Root);
    }
    Ok(cleaned)
}

/// A source of the user's, which begins with a dot, as an absolute path.
pub(crate) fn absolute(path: &str, directory: &Path) -> String {
    clean(&directory.join(path).to_string_lossy())
}

/// Whether a path stays below where it begins: Go's `filepath.IsLocal`.
pub(crate) fn is_local(path: &str) -> bool {
    let mut depth = 0_usize;
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    !path.is_empty() && !path.starts_with('/')
}

/// How deep a cleaned path is.
pub(crate) fn depth(path: &str) -> usize {
    path.split('/')
        .filter(|component| !component.is_empty())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        for (path, cleaned) in [
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../../x", "/x"),
            ("a/b", "/a/b"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn a_local_path_never_climbs_above_its_beginning() {
        for path in ["a", "a/b", "a/../b", "./a", "."] {
            assert!(is_local(path), "{path}");
        }
        for path in ["", "/a", "..", "a/../../b", "../a"] {
            assert!(!is_local(path), "{path}");
        }
    }
}
