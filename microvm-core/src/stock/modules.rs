//! A kernel's modules: the tree that its package has them in, and which of them must be loaded before others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::modinfo;
use super::unpack::Format;
use crate::{Error, Result};

/// More than any module takes, packed or not, bytes.
const MOST_MODULE: u64 = 64 << 20;

/// More files than any tree has: Debian's largest has about 4500 modules.
const MOST_FILES: usize = 100_000;

/// A list of built-in modules has a few hundred lines.
const MOST_LIST: u64 = 4 << 20;

/// A module's name as the kernel has it: files are named with `-` or `_` alike.
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The modules of one kernel.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: PathBuf,
    /// By name, the file.
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    /// There is a list of what is built in, so that what is in neither place does not exist.
    complete: bool,
}

/// Where the modules of a kernel may be: beside the kernel as its package has it, and where packages are installed.
pub(super) fn places(kernel: &Path, release: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let folder = kernel.parent();
    // Some distributions keep the kernel with its modules.
    if let Some(folder) = folder
        && folder.file_name().is_some_and(|name| name == release)
    {
        places.push(folder.to_owned());
    }
    let roots = [folder.and_then(Path::parent), folder, Some(Path::new("/"))];
    for root in roots.into_iter().flatten() {
        for lib in ["lib/modules", "usr/lib/modules"] {
            places.push(root.join(lib).join(release));
        }
    }
    places
}

/// The first of these places that is a tree of modules.
pub(super) fn find(places: &[PathBuf]) -> Option<&Path> {
    let is_tree =
        |place: &&PathBuf| place.join("modules.builtin").is_file() || place.join("kernel").is_dir();
    places.iter().find(is_tree).map(PathBuf::as_path)
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, what, source }
}

fn refuse(path: &Path, why: impl Into<String>) -> Error {
    Error::Kernel {
        path: path.to_owned(),
        why: why.into(),
    }
}

/// Reads a file of at most so many bytes.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let what = "cannot read";
    let file = fs::File::open(path).map_err(failed(path, what))?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(failed(path, what))?;
    match bytes.len() as u64 > most {
        true => Err(refuse(path, format!("has more than {most} bytes"))),
        false => Ok(bytes),
    }
}

impl Tree {
    /// Lists the tree.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let mut tree = Self {
            root: root.to_owned(),
            ..Self::default()
        };
        let list = root.join("modules.builtin");
        if list.is_file() {
            let text = read_bounded(&list, MOST_LIST)?;
            let names = text.split(|byte| *byte == b'\n');
            let name = |line| std::str::from_utf8(line).ok().and_then(module_name);
            tree.built_in = names.filter_map(name).collect();
            tree.complete = true;
        }
        tree.walk()?;
        Ok(tree)
    }

    fn walk(&mut self) -> Result<()> {
        let what = "cannot list the kernel's modules";
        let (mut open, mut seen) = (vec![self.root.clone()], 0);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).map_err(failed(&folder, what))? {
                let entry = entry.map_err(failed(&folder, what))?;
                seen += 1;
                if seen > MOST_FILES {
                    let why =
                        format!("has more than {MOST_FILES} files, which no kernel's modules have");
                    return Err(refuse(&self.root, why));
                }
                // Not a link's target: `build` and `source` lead away from here.
                let kind = entry.file_type().map_err(failed(&folder, what))?;
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file()
                    && let Some(name) = entry.file_name().to_str().and_then(module_name)
                {
                    let path = entry.path();
                    // What was built later has precedence, as with depmod.
                    let updated = path.starts_with(self.root.join("updates"));
                    if updated || !self.files.contains_key(&name) {
                        self.files.insert(name, path);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the kernel has this, built in or as a module. Nothing when the tree does not tell.
    pub(super) fn has(&self, name: &str) -> Option<bool> {
        match self.built_in.contains(name) || self.files.contains_key(name) {
            true => Some(true),
            false => self.complete.then_some(false),
        }
    }

    /// The files of these modules and of all that they need, each after what it needs. What is built in has none.
    pub(super) fn in_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Order {
            tree: self,
            begun: BTreeSet::new(),
            files: Vec::new(),
        };
        for name in names {
            order.add(&canonical(name))?;
        }
        Ok(order.files)
    }
}

/// A sort in the making.
struct Order<'a> {
    tree: &'a Tree,
    /// So that a circle ends.
    begun: BTreeSet<String>,
    files: Vec<PathBuf>,
}

impl Order<'_> {
    /// Adds a module after what it needs. The recursion is as deep as there are modules in a chain, each once.
    fn add(&mut self, name: &str) -> Result<()> {
        if !self.begun.insert(name.to_owned()) || self.tree.built_in.contains(name) {
            return Ok(());
        }
        let Some(path) = self.tree.files.get(name) else {
            return Ok(());
        };
        let module = contents(path)?;
        let entries = modinfo::entries(&module)
            .ok_or_else(|| refuse(path, "is no kernel module for a 64-bit machine"))?;
        for (key, value) in &entries {
            match *key {
                "depends" => {
                    for needed in value.split(',').filter(|needed| !needed.is_empty()) {
                        let needed = canonical(needed);
                        if self.tree.has(&needed) != Some(true) {
                            let root = self.tree.root.display();
                            let why =
                                format!("needs the module {needed}, which is not below {root}");
                            return Err(refuse(path, why));
                        }
                        self.add(&needed)?;
                    }
                }
                "softdep" => self.add_soft(value)?,
                _ => {}
            }
        }
        self.files.push(path.clone());
        Ok(())
    }

    /// Adds what should be there before: `pre: NAME… post: NAME…`. A name may be an alias, such as that of an algorithm, which
    /// the plain implementation has with `_generic` behind it; what is not there is done without.
    fn add_soft(&mut self, value: &str) -> Result<()> {
        let mut before = false;
        for word in value.split_whitespace() {
            match word {
                "pre:" => before = true,
                "post:" => before = false,
                name if before => {
                    let name = canonical(name);
                    self.add(&name)?;
                    self.add(&format!("{name}_generic"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name of the module that a file is by its own name, packed or not.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let plain = [".xz", ".zst", ".gz"]
        .iter()
        .find_map(|end| file.strip_suffix(end))
        .unwrap_or(file);
    let name = plain.strip_suffix(".ko")?;
    (!name.is_empty()).then(|| canonical(name))
}

/// A module's bytes, unpacked.
pub(super) fn contents(path: &Path) -> Result<Vec<u8>> {
    let bytes = read_bounded(path, MOST_MODULE)?;
    if bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    let format = Format::of(&bytes).map_err(|what| {
        refuse(
            path,
            format!("is packed with {what}, which is not supported"),
        )
    })?;
    format
        .unpack(&bytes, MOST_MODULE)
        .map_err(|error| refuse(path, format!("does not unpack: {error}")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::modinfo::tests::module;
    use super::super::unpack::tests::pack;
    use super::*;

    /// A tree of modules: path and what the module says of itself.
    pub(in crate::stock) fn tree(root: &Path, modules: &[(&str, &str)], built_in: &[&str]) {
        for (path, info) in modules {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let module = module(info);
            let bytes = match path.extension().and_then(|end| end.to_str()) {
                Some("xz") => pack(Format::Xz, &module),
                Some("zst") => pack(Format::Zstd, &module),
                Some("gz") => pack(Format::Gzip, &module),
                _ => module,
            };
            fs::write(path, bytes).unwrap();
        }
        fs::create_dir_all(root).unwrap();
        fs::write(root.join("modules.builtin"), built_in.join("\n")).unwrap();
    }

    fn names(files: &[PathBuf]) -> Vec<String> {
        let name = |path: &PathBuf| module_name(path.to_str().unwrap()).unwrap();
        files.iter().map(name).collect()
    }

    #[test]
    fn modules_come_after_what_they_need_however_they_are_packed() {
        let folder = tempfile::tempdir().unwrap();
        tree(
            folder.path(),
            &[
                ("kernel/a/net.ko.xz", "depends=net-failover,ring\0"),
                ("kernel/a/net_failover.ko.zst", "depends=failover\0"),
                ("kernel/b/failover.ko", "depends=\0"),
                ("kernel/b/ring.ko.gz", "depends=virtio,net\0"),
                ("kernel/b/erofs.ko", "depends=libcrc32c\0"),
                ("kernel/b/libcrc32c.ko", "softdep=pre: crc32c post: never\0"),
                ("kernel/b/crc32c_generic.ko", ""),
            ],
            &["kernel/drivers/virtio.ko"],
        );
        let tree = Tree::open(folder.path()).unwrap();
        let order = tree.in_order(&["net", "virtio", "erofs", "erofs"]).unwrap();
        assert_eq!(
            names(&order),
            [
                "failover",
                "net_failover",
                "ring",
                "net",
                "crc32c_generic",
                "libcrc32c",
                "erofs"
            ]
        );
        assert_eq!(tree.has("virtio"), Some(true));
        assert_eq!(tree.has("fuse"), Some(false));
    }

    #[test]
    fn a_module_that_lacks_another_or_is_none_is_refused_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), &[("kernel/net.ko", "depends=gone\0")], &[]);
        fs::write(folder.path().join("kernel/bad.ko"), "#!/bin/sh").unwrap();
        fs::write(folder.path().join("kernel/cut.ko.xz"), b"\xfd7zXZ\0\0").unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        let refused = |name| tree.in_order(&[name]).unwrap_err().to_string();
        assert!(refused("net").contains("net.ko: needs the module gone"));
        assert!(refused("bad").contains("bad.ko: is packed with something unknown"));
        assert!(refused("cut").contains("cut.ko.xz: does not unpack"));
    }

    #[test]
    fn a_kernels_modules_are_looked_for_beside_it_first() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("boot/vmlinuz-6.1");
        let places = places(&kernel, "6.1");
        assert_eq!(places[0], folder.path().join("lib/modules/6.1"));
        assert_eq!(places.last().unwrap(), Path::new("/usr/lib/modules/6.1"));
        assert_eq!(find(&places), None);
        let place = folder.path().join("usr/lib/modules/6.1");
        tree(&place, &[], &[]);
        assert_eq!(find(&places), Some(place.as_path()));
    }

    #[test]
    fn an_updated_module_takes_the_place_of_the_kernels() {
        let folder = tempfile::tempdir().unwrap();
        let modules = [("kernel/x.ko", ""), ("updates/x.ko", "")];
        tree(folder.path(), &modules, &[]);
        let tree = Tree::open(folder.path()).unwrap();
        let order = tree.in_order(&["x"]).unwrap();
        assert_eq!(order, [folder.path().join("updates/x.ko")]);
    }
}
