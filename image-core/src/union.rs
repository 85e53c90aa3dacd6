//! Single files out of an image, as they would be seen in its overlay, without mounting anything.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::unpack::{OPAQUE, is_directory, is_whiteout};
use crate::{Error, Image, Result, Store};

/// Links followed on one way, as in the kernel (MAXSYMLINKS, namei.h).
const LINKS: usize = 40;

/// A directory of the merged tree: the layers' directories it consists of, topmost first.
type Merged = Rc<Vec<OwnedFd>>;

/// What a name in a merged directory is.
enum Found {
    Directory(Merged),
    File { layer: usize, stat: Stat },
}

impl Store {
    /// Reads a file of an image through its layers: whiteouts hide, links are followed inside the image and never out of
    /// it. None if there is no such file.
    ///
    /// # Errors
    /// When it is no regular file, has more than `max_bytes`, or links lead in a circle.
    pub fn read_file(&self, image: &Image, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>> {
        let fail = |reason: String| Error::ImageFile {
            path: path.to_owned(),
            reason,
        };
        let mut layers = Vec::new();
        for tree in self.layer_dirs(image)? {
            layers.push(
                open(CWD, tree.as_os_str().as_encoded_bytes(), OFlags::DIRECTORY)
                    .map_err(Error::io("open", &tree))?,
            );
        }
        let walk = Walk {
            root: Rc::new(layers),
        };
        let found = walk
            .find(path.as_bytes())
            .map_err(|e| fail(std::io::Error::from(e).to_string()))?;
        let Some((directory, name, layer, stat)) = found else {
            return Ok(None);
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(fail("it is a directory".to_owned())),
            _ => return Err(fail("it is not a regular file".to_owned())),
        }
        let too_large = || fail(format!("it has more than {max_bytes} bytes"));
        if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > max_bytes {
            return Err(too_large());
        }
        let file = open(directory[layer].as_fd(), &name, OFlags::empty())
            .map_err(|e| fail(std::io::Error::from(e).to_string()))?;
        let mut bytes = Vec::new();
        let read = File::from(file).take(max_bytes).read_to_end(&mut bytes);
        read.map_err(|e| fail(e.to_string()))?;
        Ok(Some(bytes))
    }
}

struct Walk {
    root: Merged,
}

impl Walk {
    /// Walks to `path`. Gives the merged directory, the last name, the layer it is in, and what it is there.
    fn find(&self, path: &[u8]) -> Result<Option<(Merged, Vec<u8>, usize, Stat)>, Errno> {
        let mut ahead: Vec<Vec<u8>> = split(path);
        // The directories from the root to here, the root first.
        let mut above: Vec<Merged> = vec![Rc::clone(&self.root)];
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let here = above
                .last()
                .map_or_else(|| Rc::clone(&self.root), Rc::clone);
            if name == b".." {
                // Above the root is the root.
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            match look_up(&here, &name)? {
                None => return Ok(None),
                Some(Found::Directory(inner)) => above.push(inner),
                Some(Found::File { layer, stat })
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink =>
                {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&here[layer], name.as_slice(), Vec::new())?
                        .into_bytes();
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    ahead.extend(split(&target));
                }
                Some(Found::File { layer, stat }) => {
                    if !ahead.is_empty() {
                        return Ok(None);
                    }
                    return Ok(Some((here, name, layer, stat)));
                }
            }
        }
        // It ended in a directory.
        let here = above
            .last()
            .map_or_else(|| Rc::clone(&self.root), Rc::clone);
        let Some(top) = here.first() else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(top)?;
        Ok(Some((Rc::clone(&here), b".".to_vec(), 0, stat)))
    }
}

/// A path's components, the last one first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path
        .split(|c| *c == b'/')
        .filter(|c| !c.is_empty() && *c != b".");
    let mut components: Vec<Vec<u8>> = components.map(<[u8]>::to_vec).collect();
    components.reverse();
    components
}

/// What overlayfs would find under `name`: the topmost layer decides; directories merge until something hides the rest.
fn look_up(directory: &Merged, name: &[u8]) -> Result<Option<Found>, Errno> {
    let mut merged = Vec::new();
    for (layer, part) in directory.iter().enumerate() {
        let stat = match rustix::fs::statat(part, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NAMETOOLONG) => continue,
            Err(error) => return Err(error),
            Ok(stat) => stat,
        };
        if is_whiteout(&stat) {
            break;
        }
        if !is_directory(&stat) {
            if merged.is_empty() {
                return Ok(Some(Found::File { layer, stat }));
            }
            break;
        }
        let opened = open(part.as_fd(), name, OFlags::DIRECTORY)?;
        let hides = is_opaque(opened.as_fd())?;
        merged.push(opened);
        if hides {
            break;
        }
    }
    Ok((!merged.is_empty()).then(|| Found::Directory(Rc::new(merged))))
}

fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0u8; 1];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens one name, never a link's target, without waiting for a FIFO's other end.
fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
