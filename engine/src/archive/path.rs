//! Paths by their text, as docker's client reads them: what ends in `/` or `/.` asserts a directory.

use crate::mount::path::clean;

/// Whether the path ends in a slash.
pub(crate) fn ends_in_slash(path: &str) -> bool {
    path.ends_with('/')
}

/// Whether the path's last name is `.`.
pub(crate) fn ends_in_dot(path: &str) -> bool {
    base(path) == "."
}

/// Whether the path can only mean a directory.
pub(crate) fn asserts_directory(path: &str) -> bool {
    ends_in_slash(path) || ends_in_dot(path)
}

/// The last name: Go's `filepath.Base`.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((_, last)) => last,
        None if trimmed.is_empty() => "/",
        None => trimmed,
    }
}

/// An absolute path, cleaned, with the slash or dot at the end that `original` has.
pub(crate) fn absolute(path: &str, original: &str) -> String {
    let mut path = clean(path);
    if !ends_in_dot(&path) && ends_in_dot(original) {
        if !ends_in_slash(&path) {
            path.push('/');
        }
        path.push('.');
    }
    if !ends_in_slash(&path) && ends_in_slash(original) {
        path.push('/');
    }
    path
}

/// A path's directory and its last name there, which is `.` where the path says so and `/` for the root.
pub(crate) fn split(path: &str) -> (String, String) {
    let cleaned = clean(path);
    if ends_in_dot(path) {
        return (cleaned, ".".to_owned());
    }
    match cleaned.rsplit_once('/') {
        Some(("", "")) | None => ("/".to_owned(), "/".to_owned()),
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((directory, name)) => (directory.to_owned(), name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_what_asserts_a_directory() {
        for (path, kept) in [
            ("/a/../b/", "/b/"),
            ("/a/.", "/a/."),
            ("/a/./", "/a/./"),
            ("/", "/"),
            ("/.", "/."),
            ("/a//b", "/a/b"),
        ] {
            assert_eq!(absolute(path, path), kept, "{path}");
        }
    }

    #[test]
    fn paths_are_split_as_dockers_client_splits_them() {
        for (path, directory, name) in [
            ("/a/b", "/a", "b"),
            ("/a/b/", "/a", "b"),
            ("/a/b/.", "/a/b", "."),
            ("/a", "/", "a"),
            ("/", "/", "/"),
            ("/.", "/", "."),
        ] {
            assert_eq!(split(path), (directory.into(), name.into()), "{path}");
        }
    }
}
