//! What a path is, as docker's API tells it of a path in a container.

use alloc::vec::Vec;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, readlinkat, statat};

use crate::failure::Failure;
use crate::json::Object;
use crate::output::Output;

/// Tells about `path` itself, not what it links to: a line of JSON with `name`, `size` in bytes, `mode` (st_mode), `uid`, `gid`,
/// `mtime` in seconds since 1970, `mtimeNs`, and for a symbolic link `linkTarget`, the path that it leads to in the end.
pub(crate) fn stat(path: &[u8], output: &mut Output<'_>) -> Result<(), Failure> {
    let about = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| Failure::at_named("stat", path, error))?;
    let target = if FileType::from_raw_mode(about.st_mode) == FileType::Symlink {
        resolve(path)?
    } else {
        Vec::new()
    };
    let line = Object::new()
        .text("name", last_part(path))
        .number("size", about.st_size)
        .number("mode", about.st_mode)
        .number("uid", about.st_uid)
        .number("gid", about.st_gid)
        .number("mtime", about.st_mtime)
        .number("mtimeNs", about.st_mtime_nsec)
        .text("linkTarget", &target)
        .line();
    output.push(line.as_bytes())
}

/// Where a symbolic link leads; when nothing is there, where it says itself.
fn resolve(path: &[u8]) -> Result<Vec<u8>, Failure> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    if let Ok(found) = openat(CWD, path, flags, Mode::empty()) {
        let name = alloc::format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&found));
        if let Ok(target) = readlinkat(CWD, name.as_str(), Vec::new()) {
            return Ok(target.into_bytes());
        }
    }
    let target = readlinkat(CWD, path, Vec::new())
        .map_err(|error| Failure::at("read the link", path, error))?
        .into_bytes();
    if target.starts_with(b"/") {
        return Ok(target);
    }
    let parent = path.len() - last_part(path).len();
    let mut whole = path.get(..parent).unwrap_or_default().to_vec();
    whole.extend_from_slice(&target);
    Ok(whole)
}

/// What follows the last slash that is not at the end; "/" for the root, "." for what ends in it.
pub(crate) fn last_part(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/');
    let Some(end) = end else {
        return if path.is_empty() { path } else { b"/" };
    };
    let whole = path.get(..=end).unwrap_or_default();
    let start = whole.iter().rposition(|byte| *byte == b'/');
    whole
        .get(start.map_or(0, |start| start + 1)..)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::io::Read;
    use std::string::String;

    fn told(path: &str) -> Result<String, Failure> {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut output = Output::new(writer.as_fd());
        stat(path.as_bytes(), &mut output)?;
        output.flush()?;
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn a_file_a_link_and_nothing_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        std::fs::write(path.join("file"), "abc").unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", path.join("lost")).unwrap();
        let at = |name: &str| std::format!("{}/{name}", path.display());
        let file = told(&at("file")).unwrap();
        assert!(
            file.starts_with("{\"name\":\"file\",\"size\":3,\"mode\":33"),
            "{file}"
        );
        assert!(file.ends_with("\"linkTarget\":\"\"}\n"), "{file}");
        let end = |name: &str| std::format!("\"linkTarget\":\"{}\"}}\n", at(name));
        assert!(told(&at("link")).unwrap().ends_with(&end("file")));
        assert!(told(&at("lost")).unwrap().ends_with(&end("nowhere")));
        assert_eq!(told(&at("absent")).unwrap_err().code, crate::NOT_FOUND);
    }

    #[test]
    fn the_last_part_of_a_path() {
        for (path, part) in [
            ("/a/b", "b"),
            ("/a/b//", "b"),
            ("a", "a"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(last_part(path.as_bytes()), part.as_bytes());
        }
    }
}
