//! Whether a file is an archive, as `ADD` wants to know.

use std::fs::File;
use std::io::{BufReader, Read, Seek};

use super::{CHUNK, Compression, Decoder, is_tar};
use crate::{Error, Result};

/// The bytes of a tar archive, inflated if it was compressed.
pub struct Archive(Decoder<'static, BufReader<File>>);

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Opens a file as a tar archive: plain, or in gzip or zstd. None if it is none.
///
/// # Errors
/// [`Error::Malformed`] for a compression that is known but not supported, since docker would unpack such a file; or when the
/// file, which errors call by `name`, cannot be read.
pub fn open_archive(mut file: File, name: &str) -> Result<Option<Archive>> {
    let failed = |e| Error::reading(name, e);
    let mut start = Vec::new();
    // A header; a compressed file may have been given any name.
    (&mut file)
        .take(512)
        .read_to_end(&mut start)
        .map_err(failed)?;
    file.rewind().map_err(failed)?;
    let compression = match Compression::detect(&start) {
        Ok(Compression::None) if !is_tar(&start) => return Ok(None),
        Ok(compression) => compression,
        Err(other) => {
            return Err(Error::Malformed {
                archive: name.to_owned(),
                reason: format!(
                    "it is compressed with {other}, but only gzip and zstd are supported"
                ),
            });
        }
    };
    let open =
        |file| Decoder::new(compression, BufReader::with_capacity(CHUNK, file)).map_err(failed);
    if compression != Compression::None {
        let again = file.try_clone().map_err(failed)?;
        let mut inside = Vec::new();
        // What cannot be inflated is a file like any other.
        let read = open(again)?.take(512).read_to_end(&mut inside);
        file.rewind().map_err(failed)?;
        if read.is_err() || !is_tar(&inside) {
            return Ok(None);
        }
    }
    Ok(Some(Archive(open(file)?)))
}
