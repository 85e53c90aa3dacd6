//! What is given to fuzz this part, and with what to begin.

use super::{bzimage, facts, modinfo};

/// Takes a file for a compressed kernel; how much comes out of it.
pub(crate) fn kernel(file: &[u8]) -> Result<usize, String> {
    let image = bzimage::BzImage::parse(file)?;
    let kernel = image.unpack()?;
    let found = facts::read(kernel.as_slice()).map_err(|error| error.to_string())?;
    Ok(kernel.len() + found.facts.release.map_or(0, |release| release.len()))
}

/// Takes a file for a module; the keys of what it says of itself.
pub(crate) fn module(file: &[u8]) -> Option<Vec<String>> {
    let entries = modinfo::entries(file)?;
    Some(entries.iter().map(|(key, _)| (*key).to_owned()).collect())
}

/// A file with this kernel in it as it is.
pub(crate) fn bzimage(kernel: &[u8]) -> Vec<u8> {
    bzimage::tests::image(None, kernel)
}

/// A module that says this of itself.
pub(crate) fn module_file(info: &str) -> Vec<u8> {
    modinfo::tests::module(info)
}

/// Seeds whose bytes depend on who has packed them: written once, and kept.
#[test]
#[ignore = "writes to the source tree"]
fn write_packed_seeds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/bzimage");
    std::fs::create_dir_all(&folder).unwrap();
    for format in super::unpack::tests::ALL {
        let kernel = b"\x7fELF Linux version 6.1.0-x (a@b)".repeat(20);
        let file = bzimage::tests::image(Some(format), &kernel);
        std::fs::write(folder.join(format.name()), file).unwrap();
    }
}
