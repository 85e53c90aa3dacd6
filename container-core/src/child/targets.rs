//! Places below the root: paths of the specification in an image whose links may lead anywhere.

use super::Setup;
use crate::plan::mounts::Inside;
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use crate::sys::{self, Errno, Fd};

impl Setup<'_> {
    /// Fails with ELOOP where a link is on the way: an image could otherwise have /proc mounted where the paths to be masked
    /// in it are not looked for (CVE-2019-19921).
    pub(super) fn refuse_links(&self, target: &Inside) -> sys::Result<()> {
        match file::openat2(
            self.root,
            &target.path,
            libc::O_PATH,
            0,
            RESOLVE_NO_SYMLINKS,
        ) {
            Ok(there) => {
                let kind = file::fstat(there).map(|stat| stat.st_mode & libc::S_IFMT);
                file::close(there);
                match kind? {
                    libc::S_IFLNK => Err(Errno(libc::ELOOP)),
                    _ => Ok(()),
                }
            }
            Err(Errno(libc::ENOENT)) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a path below the root, making what is missing of it. Links in the image are followed within the root.
    pub(super) fn make_target(&self, target: &Inside, directory: bool) -> sys::Result<Fd> {
        match self.open_inside(target, 0) {
            Err(Errno(libc::ENOENT)) => {}
            other => return other,
        }
        for ancestor in &target.ancestors {
            self.make_directory(ancestor)?;
        }
        if directory {
            self.make_directory(&target.path)?;
        } else {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_NOCTTY | libc::O_NONBLOCK;
            let made = file::openat2(self.root, &target.path, flags, 0o644, RESOLVE_IN_ROOT)?;
            file::close(made);
        }
        self.open_inside(target, 0)
    }

    /// Opens a path below the root for *at calls and as the target of a mount.
    pub(super) fn open_inside(&self, path: &Inside, flags: libc::c_int) -> sys::Result<Fd> {
        file::openat2(
            self.root,
            &path.path,
            libc::O_PATH | flags,
            0,
            RESOLVE_IN_ROOT,
        )
    }

    pub(super) fn make_directory(&self, path: &std::ffi::CStr) -> sys::Result<()> {
        self.make_directory_through(path, LINKS)
    }

    /// Makes a directory whose parent is there. Where the image has a link that leads nowhere yet, such as /var/run to a
    /// /run that is missing, what it leads to below the root is made.
    fn make_directory_through(&self, path: &std::ffi::CStr, links: usize) -> sys::Result<()> {
        // mkdirat resolves from the root directory of the process: the parent is opened below the root first.
        let (parent, name) = split(path)?;
        let parent = match parent.as_c_str() {
            None => self.root,
            Some(parent) => file::openat2(
                self.root,
                parent,
                libc::O_PATH | libc::O_DIRECTORY,
                0,
                RESOLVE_IN_ROOT,
            )?,
        };
        let made = match file::mkdirat(parent, name, 0o755) {
            Err(Errno(libc::EEXIST)) => self.complete_link(path, parent, name, links),
            other => other,
        };
        if parent != self.root {
            file::close(parent);
        }
        made
    }

    /// Makes what a name leads to, if it is a link that leads nowhere.
    fn complete_link(
        &self,
        path: &std::ffi::CStr,
        parent: Fd,
        name: &std::ffi::CStr,
        links: usize,
    ) -> sys::Result<()> {
        match file::openat2(self.root, path, libc::O_PATH, 0, RESOLVE_IN_ROOT) {
            Err(Errno(libc::ENOENT)) if links > 0 => {}
            Ok(there) => {
                file::close(there);
                return Ok(());
            }
            Err(errno) => return Err(errno),
        }
        let mut text = [0; libc::PATH_MAX as usize];
        let length = file::readlinkat(parent, name, &mut text)?;
        let link = text.get(..length).unwrap_or_default();
        // From the root, or from the directory that holds the link.
        let mut joined = Joined::new();
        if link.first() != Some(&b'/') {
            let (parent, _) = split(path)?;
            joined.push(parent.as_c_str().map_or(b"", |parent| parent.to_bytes()))?;
        }
        for part in link.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => joined.pop(),
                part => joined.push(part)?,
            }
            if let Some(path) = joined.as_c_str() {
                self.make_directory_through(path, links - 1)?;
            }
        }
        Ok(())
    }
}

/// How many links that lead nowhere are followed, one within another.
const LINKS: usize = 4;

/// A path put together on the stack, of components without `.` and `..`.
struct Joined {
    text: [u8; libc::PATH_MAX as usize],
    length: usize,
}

impl Joined {
    fn new() -> Self {
        Self {
            text: [0; libc::PATH_MAX as usize],
            length: 0,
        }
    }

    fn push(&mut self, part: &[u8]) -> sys::Result<()> {
        let slash = usize::from(self.length > 0 && !part.is_empty());
        let end = self.length + slash + part.len();
        // One byte is kept for the terminator.
        if end >= self.text.len() {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        if let Some(room) = self.text.get_mut(self.length..self.length + slash) {
            room.fill(b'/');
        }
        if let Some(room) = self.text.get_mut(self.length + slash..end) {
            room.copy_from_slice(part);
        }
        self.length = end;
        Ok(())
    }

    fn pop(&mut self) {
        let text = self.text.get(..self.length).unwrap_or_default();
        let start = text.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        if let Some(rest) = self.text.get_mut(start..self.length) {
            rest.fill(0);
        }
        self.length = start;
    }

    fn as_c_str(&self) -> Option<&std::ffi::CStr> {
        match self.length {
            0 => None,
            _ => std::ffi::CStr::from_bytes_until_nul(&self.text).ok(),
        }
    }
}

/// The parent of a path, on the stack: a path of the plan is bounded by PATH_MAX or the kernel refuses it.
struct Parent {
    text: [u8; libc::PATH_MAX as usize],
    length: usize,
}

impl Parent {
    fn as_c_str(&self) -> Option<&std::ffi::CStr> {
        if self.length == 0 {
            None
        } else {
            std::ffi::CStr::from_bytes_until_nul(&self.text).ok()
        }
    }
}

/// Splits the last component from a path.
fn split(path: &std::ffi::CStr) -> sys::Result<(Parent, &std::ffi::CStr)> {
    let bytes = path.to_bytes_with_nul();
    let mut parent = Parent {
        text: [0; libc::PATH_MAX as usize],
        length: 0,
    };
    let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/') else {
        return Ok((parent, path));
    };
    let (Some(room), Some(head), Some(tail)) = (
        parent.text.get_mut(..slash),
        bytes.get(..slash),
        bytes.get(slash + 1..),
    ) else {
        return Err(Errno(libc::ENAMETOOLONG));
    };
    if slash + 1 >= libc::PATH_MAX as usize {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    room.copy_from_slice(head);
    parent.length = slash;
    let name = std::ffi::CStr::from_bytes_with_nul(tail).map_err(|_| Errno(libc::EINVAL))?;
    Ok((parent, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_splits_at_its_last_slash() {
        let (parent, name) = split(c"a/b/c").unwrap();
        assert_eq!((parent.as_c_str(), name), (Some(c"a/b"), c"c"));
        let (parent, name) = split(c"a").unwrap();
        assert_eq!((parent.as_c_str(), name), (None, c"a"));
    }

    #[test]
    fn a_path_is_put_together_without_climbing_out() {
        let mut joined = Joined::new();
        joined.pop();
        joined.push(b"a").unwrap();
        joined.push(b"b").unwrap();
        assert_eq!(joined.as_c_str(), Some(c"a/b"));
        joined.pop();
        joined.push(b"c").unwrap();
        assert_eq!(joined.as_c_str(), Some(c"a/c"));
        joined.pop();
        joined.pop();
        joined.pop();
        assert_eq!(joined.as_c_str(), None);
        assert!(joined.push(&[b'x'; 5000]).is_err());
    }

    #[test]
    fn a_path_beyond_the_kernels_bound_is_refused() {
        let long = std::ffi::CString::new("a/".repeat(2500) + "b").unwrap();
        assert_eq!(split(&long).err(), Some(Errno(libc::ENAMETOOLONG)));
    }
}
