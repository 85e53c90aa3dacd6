//! Extended attributes that travel with a file.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The kernel's limit for an attribute's value and for a list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX), bytes.
const BYTES: usize = 65_536;

/// Names and values.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Whether an attribute belongs to the file, and not to overlayfs, to us or to the host's security modules.
fn is_passed_on(name: &[u8]) -> bool {
    matches!(
        name,
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
    ) || name.starts_with(b"user.")
        && !name.starts_with(b"user.overlay.")
        && !name.starts_with(b"user.plimsoll.")
}

/// The attributes of an open file that travel with it. What cannot be read has none.
pub fn of(file: BorrowedFd<'_>) -> Attributes {
    // Most files have none: that costs one call and no memory.
    match rustix::fs::flistxattr_query(file) {
        Ok(0) | Err(_) => return Vec::new(),
        Ok(_) => {}
    }
    let mut names = vec![0; BYTES];
    let length = rustix::fs::flistxattr(file, &mut names[..]).unwrap_or(0);
    names.truncate(length);
    names
        .split(|byte| *byte == 0)
        .filter(|name| is_passed_on(name))
        .filter_map(|name| {
            let mut value = vec![0; BYTES];
            let length = rustix::fs::fgetxattr(file, name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name.to_vec(), value))
        })
        .collect()
}

/// Sets those of the attributes that may travel; a file system without attributes keeps what it can.
///
/// # Errors
/// The system's, for the first that cannot be set.
pub fn set(file: BorrowedFd<'_>, attributes: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in attributes.iter().filter(|(name, _)| is_passed_on(name)) {
        match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
