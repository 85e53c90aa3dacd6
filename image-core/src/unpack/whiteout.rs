//! Deleted files: as layer archives write them, and as overlayfs keeps them.
//!
//! An archive deletes `x` of the layers below by an entry `.wh.x`, and everything in a directory by `.wh..wh..opq` in it (OCI image
//! specification, layer.md, "Whiteouts"). Overlayfs deletes by a character device 0/0 in the place of the file, and by the
//! attribute `trusted.overlay.opaque` of the directory (kernel, Documentation/filesystems/overlayfs.rst).

use rustix::fs::{FileType, Stat};

/// The attribute of a directory that hides everything below it in lower layers.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// The same for whoever may not read `trusted`: the servers of virtio-fs, which have no privileges, answer from this one when the engine in
/// a VM asks for [`OPAQUE`] (microvm-core). No archive may bring it.
pub(crate) const OPAQUE_FOR_ALL: &str = "user.plimsoll.trusted.overlay.opaque";

/// What an entry's last name says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'n> {
    /// An ordinary file.
    File(&'n [u8]),
    /// This file of lower layers is deleted.
    Whiteout(&'n [u8]),
    /// Lower layers' content of the entry's directory is deleted.
    Opaque,
    /// AUFS's own bookkeeping, which no image means to hold.
    Bookkeeping,
    /// A whiteout of nothing, or of a directory itself or its parent.
    Invalid,
}

impl<'n> Name<'n> {
    pub(crate) fn of(name: &'n [u8]) -> Self {
        match name.strip_prefix(b".wh.") {
            None => Self::File(name),
            Some(b".wh..opq") => Self::Opaque,
            Some(rest) if rest.starts_with(b".wh.") => Self::Bookkeeping,
            Some(b"" | b"." | b"..") => Self::Invalid,
            Some(deleted) => Self::Whiteout(deleted),
        }
    }
}

/// Whether this is overlayfs's mark of a deleted file.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether this is a directory.
pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_deleted() {
        assert_eq!(Name::of(b"a"), Name::File(b"a"));
        assert_eq!(Name::of(b".wh.a"), Name::Whiteout(b"a"));
        assert_eq!(Name::of(b".wh..hidden"), Name::Whiteout(b".hidden"));
        assert_eq!(Name::of(b".wh..wh..opq"), Name::Opaque);
        assert_eq!(Name::of(b".wh..wh.plnk"), Name::Bookkeeping);
    }

    #[test]
    fn a_whiteout_of_a_directory_itself_or_its_parent_is_invalid() {
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(Name::of(bad), Name::Invalid);
        }
    }
}
