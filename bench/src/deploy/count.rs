//! Bytes of trees.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a file, or everything below a directory, takes of the disk: blocks, hard links once.
pub(super) fn on_disk(path: &Path) -> u64 {
    fn count(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
        let Ok(about) = fs::symlink_metadata(path) else {
            return 0;
        };
        if about.nlink() > 1 && !about.is_dir() && !seen.insert((about.dev(), about.ino())) {
            return 0;
        }
        let inner = fs::read_dir(path).ok().filter(|_| about.is_dir());
        let inner = inner.into_iter().flatten().flatten();
        about.blocks() * 512 + inner.map(|entry| count(&entry.path(), seen)).sum::<u64>()
    }
    count(path, &mut BTreeSet::new())
}

/// The lengths of the files in a directory.
pub(super) fn lengths(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|about| about.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_with_its_blocks_and_a_hard_link_once() {
        let directory = tempfile::tempdir().unwrap();
        let empty = on_disk(directory.path());
        let file = directory.path().join("file");
        fs::write(&file, vec![1; 10_000]).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        let one = on_disk(directory.path());
        assert!((10_000..100_000).contains(&(one - empty)), "{one} {empty}");
        fs::hard_link(&file, directory.path().join("link")).unwrap();
        assert_eq!(on_disk(directory.path()), one);
        assert_eq!(lengths(directory.path()), 20_000);
        assert_eq!(on_disk(&directory.path().join("none")), 0);
    }
}
