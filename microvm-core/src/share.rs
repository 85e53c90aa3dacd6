//! What is shared with a guest, checked before anything is started.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::{Error, Result, Share};

/// How many shares a machine may have: far more than anybody mounts, and few enough to look through.
const MOST: usize = 256;

/// The longest name of a share.
const NAME_MAX: usize = 16;

/// A share that was checked, with a descriptor of its own.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) source: OwnedFd,
    pub(crate) read_only: bool,
    pub(crate) directory: bool,
}

/// Checks shares, and takes hold of what they share.
pub(crate) fn open(shares: &[Share]) -> Result<Vec<Shared>> {
    if shares.len() > MOST {
        return Err(Error::OutOfRange {
            what: "the number of shares",
            given: shares.len() as u64,
            least: 0,
            most: MOST as u64,
        });
    }
    let mut all: Vec<Shared> = Vec::with_capacity(shares.len());
    for share in shares {
        let refuse = |why: &str| Error::Share {
            name: share.name.clone(),
            why: why.to_owned(),
        };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !(1..=NAME_MAX).contains(&share.name.len()) || !share.name.bytes().all(plain) {
            return Err(refuse("its name is not 1 to 16 of a-z and 0-9"));
        }
        if all.iter().any(|other| other.name == share.name) {
            return Err(refuse("another share has this name"));
        }
        let source = File::from(
            share
                .source
                .try_clone()
                .map_err(Error::system("copy a share's descriptor"))?,
        );
        let kind = source
            .metadata()
            .map_err(Error::system("look at what is shared"))?
            .file_type();
        if !kind.is_dir() && !kind.is_file() {
            return Err(refuse(
                "it is neither a directory nor a regular file: share the directory it is in",
            ));
        }
        all.push(Shared {
            name: share.name.clone(),
            source: source.into(),
            read_only: share.read_only,
            directory: kind.is_dir(),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(path: &str, name: &str) -> Share {
        Share {
            name: name.to_owned(),
            source: File::open(path).unwrap().into(),
            read_only: false,
        }
    }

    #[test]
    fn directories_and_files_can_be_shared_and_nothing_else() {
        let opened = open(&[share("/etc", "0"), share("/etc/passwd", "file1")]).unwrap();
        assert!(opened[0].directory && !opened[1].directory);
        let error = open(&[share("/dev/null", "0")]).unwrap_err().to_string();
        assert!(error.contains("neither a directory nor"), "{error}");
    }

    #[test]
    fn names_are_short_and_plain_and_used_once() {
        for bad in ["", "a/b", "..", "A", "seventeenletters1", "é"] {
            assert!(open(&[share("/etc", bad)]).is_err(), "{bad}");
        }
        let error = open(&[share("/etc", "0"), share("/etc", "0")]).unwrap_err();
        assert!(error.to_string().contains("another share"), "{error}");
    }
}
