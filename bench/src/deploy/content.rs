//! What is deployed: two images of real Debian files on one base, made from the packages of this host, and the same as disks of
//! virtual machines. All of it is made once and kept, with the registry that holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::arm::plimsoll;
use crate::error::{Error, Result};
use crate::peers;

use super::registry::Registry;

/// Raised whenever the same packages become other files.
const VERSION: u32 = 1;

/// The packages of the first and the second image, besides the base: each has a command that shows that it works.
const APPLICATIONS: [(&str, [&str; 2]); 2] = [
    ("apt", ["apt", "--version"]),
    ("openssl", ["openssl", "version"]),
];

/// The images, in the order of [`APPLICATIONS`].
pub(super) const IMAGES: [&str; 2] = ["first", "second"];
/// The same as disks: images of one layer with one file, as KubeVirt's container disks are.
pub(super) const DISKS: [&str; 2] = ["first-disk", "second-disk"];

/// The least that counts for a base, bytes.
const BASE_MIN: u64 = 32 << 20;

/// What does not come along: documentation and translations, which slim images leave out too.
const LEFT_OUT: [&str; 4] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
];

/// Where packages of before the merged /usr have their files.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// A layer as it is moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Layer {
    /// Its file, gzip -6.
    pub(super) file: PathBuf,
    /// The file's digest.
    pub(super) digest: String,
    diff_id: String,
    /// Bytes of the files in it.
    bytes: u64,
    files: usize,
}

/// Everything that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Content {
    /// Where it lies.
    folder: PathBuf,
    /// The base, and what each image adds.
    pub(super) layers: [Layer; 3],
    /// The two disks; none where mke2fs is missing.
    pub(super) disks: Option<[Layer; 2]>,
    /// Bytes of the guest's kernel after gzip -6, and as it lies on the disk; none where there is no kernel.
    pub(super) kernel: Option<(u64, u64)>,
    /// What it is, as sentences.
    pub(super) about: String,
}

impl Content {
    /// Makes it where it is missing.
    pub(super) fn prepare(command: &plimsoll::Command, base: &Path) -> Result<Self> {
        let packages = Packages::installed()?;
        let [essential, applications @ ..] = packages.sets()?;
        let kernel = fs::canonicalize(&command.kernel).ok();
        let key = key(
            &packages,
            [&essential, &applications[0], &applications[1]],
            kernel.as_deref(),
        );
        let parent = base.join("deploy");
        let folder = parent.join(key);
        let record = folder.join("content.json");
        if let Ok(text) = fs::read(&record)
            && let Ok(content) = serde_json::from_slice(&text)
        {
            return Ok(content);
        }
        eprintln!("  making the images that are deployed, once");
        // What another version has made, or a killed run left.
        let _ = fs::remove_dir_all(&parent);
        let failed = |error| Error::io("create", &folder, error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let content = make(
            &folder,
            &packages,
            [essential, applications[0].clone(), applications[1].clone()],
            kernel.as_deref(),
        )?;
        content.check(command)?;
        let text = serde_json::to_vec(&content).unwrap_or_default();
        fs::write(&record, text).map_err(|error| Error::io("write", &record, error))?;
        Ok(content)
    }

    /// Where the registry keeps what is pushed to it.
    pub(super) fn storage(&self) -> PathBuf {
        self.folder.join("registry")
    }

    /// An image as an archive that `load` takes.
    pub(super) fn archive(&self, image: &str) -> PathBuf {
        self.folder.join(format!("{image}.tar"))
    }

    /// Names of the images that there are.
    fn names(&self) -> Vec<&'static str> {
        let disks = if self.disks.is_some() {
            &DISKS[..]
        } else {
            &[]
        };
        [&IMAGES, disks].concat()
    }

    /// Puts the images into the registry, unless that has been done.
    pub(super) fn push(&self, command: &plimsoll::Command, registry: &Registry) -> Result<()> {
        let done = self.folder.join("pushed");
        if done.exists() {
            return Ok(());
        }
        let publisher = Publisher::new(command, &self.folder);
        for image in self.names() {
            let name = registry.name(image);
            publisher.run(&[
                "load",
                "-q",
                "-i",
                &self.archive(image).display().to_string(),
            ])?;
            publisher.run(&["tag", &format!("{image}:1"), &name])?;
            publisher.run(&["push", "-q", &name])?;
        }
        fs::write(&done, "").map_err(|error| Error::io("write", &done, error))
    }

    /// Runs the command of each image, so that what is measured is known to work.
    fn check(&self, command: &plimsoll::Command) -> Result<()> {
        let publisher = Publisher::new(command, &self.folder);
        for (image, (_, words)) in IMAGES.iter().zip(APPLICATIONS) {
            publisher.run(&[
                "load",
                "-q",
                "-i",
                &self.archive(image).display().to_string(),
            ])?;
            let run = ["run", "--rm", "--network", "none", &format!("{image}:1")];
            publisher.run(&[&run[..], &words].concat())?;
        }
        Ok(())
    }
}

/// A state directory that goes with this.
struct Publisher<'c> {
    command: &'c plimsoll::Command,
    root: PathBuf,
}

impl<'c> Publisher<'c> {
    fn new(command: &'c plimsoll::Command, folder: &Path) -> Self {
        let root = folder.join("publisher");
        Self { command, root }
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let mut process = Command::new(&self.command.program);
        process.args(words).env("PLIMSOLL_ROOT", &self.root);
        program(&mut process, &format!("plimsoll {}", words.join(" "))).map(drop)
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn program(command: &mut Command, what: &str) -> Result<String> {
    peers::output(command).map_err(|message| Error::Program {
        program: what.to_owned(),
        message,
    })
}

/// What dpkg knows of a package.
struct Package {
    version: String,
    essential: bool,
    needs: Vec<String>,
}

/// The packages that are installed.
struct Packages(BTreeMap<String, Package>);

impl Packages {
    fn installed() -> Result<Self> {
        const FORMAT: &str = "${db:Status-Status}\t${Package}\t${Version}\t${Essential}\t${Pre-Depends}, ${Depends}\n";
        let text = program(
            Command::new("dpkg-query").args(["-W", "-f", FORMAT]),
            "dpkg-query -W",
        )?;
        Ok(Self::parse(&text))
    }

    /// What dpkg-query has printed.
    fn parse(text: &str) -> Self {
        let package = |line: &str| {
            let mut fields = line.split('\t');
            let installed = fields.next()? == "installed";
            let (name, version) = (fields.next()?, fields.next()?);
            let essential = fields.next()? == "yes";
            // The first of alternatives, without version and architecture.
            let needs = fields.next()?.split(',').filter_map(|need| {
                let name = need.trim().split([' ', '(', ':', '|']).next()?;
                (!name.is_empty()).then(|| name.to_owned())
            });
            installed.then(|| {
                let package = Package {
                    version: version.to_owned(),
                    essential,
                    needs: needs.collect(),
                };
                (name.to_owned(), package)
            })
        };
        Self(text.lines().filter_map(package).collect())
    }

    /// Packages with all that they need, as far as it is installed.
    fn closure<'p>(&'p self, names: impl IntoIterator<Item = &'p str>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut left: Vec<&str> = names.into_iter().collect();
        while let Some(name) = left.pop() {
            if let Some(package) = self.0.get(name)
                && found.insert(name.to_owned())
            {
                left.extend(package.needs.iter().map(String::as_str));
            }
        }
        found
    }

    /// The base's packages, and what each application adds to them.
    fn sets(&self) -> Result<[BTreeSet<String>; 3]> {
        let essential = self.0.iter().filter(|(_, package)| package.essential);
        let base = self.closure(essential.map(|(name, _)| name.as_str()));
        let mut sets = [base, BTreeSet::new(), BTreeSet::new()];
        for (index, (name, _)) in APPLICATIONS.into_iter().enumerate() {
            if !self.0.contains_key(name) {
                return Err(Error::Program {
                    program: "dpkg-query -W".to_owned(),
                    message: format!("{name} is not installed: apt-get install {name}"),
                });
            }
            sets[index + 1] = self.closure([name]).difference(&sets[0]).cloned().collect();
        }
        Ok(sets)
    }
}

/// The same packages of the same versions are the same content.
fn key(packages: &Packages, sets: [&BTreeSet<String>; 3], kernel: Option<&Path>) -> String {
    let mut hasher = DefaultHasher::new();
    (VERSION, kernel, LEFT_OUT).hash(&mut hasher);
    for set in sets {
        for name in set {
            (name, packages.0.get(name).map(|package| &package.version)).hash(&mut hasher);
        }
        0u8.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

fn make(
    folder: &Path,
    packages: &Packages,
    sets: [BTreeSet<String>; 3],
    kernel: Option<&Path>,
) -> Result<Content> {
    let names = ["base", APPLICATIONS[0].0, APPLICATIONS[1].0];
    let mut trees = Vec::new();
    for set in &sets {
        trees.push(files(set)?);
    }
    let made: Vec<Result<Layer>> = std::thread::scope(|scope| {
        let jobs: Vec<_> = names
            .iter()
            .zip(&trees)
            .map(|(name, files)| scope.spawn(|| layer(folder, name, files, *name == "base")))
            .collect();
        jobs.into_iter().map(join).collect()
    });
    let layers: Vec<Layer> = made.into_iter().collect::<Result<_>>()?;
    let layers: [Layer; 3] = layers
        .try_into()
        .map_err(|_| Error::Report("a layer is missing".to_owned()))?;
    if layers[0].bytes < BASE_MIN {
        return Err(Error::Report(format!(
            "the essential packages of this host have only {} MiB, and a base of at least {} is wanted",
            layers[0].bytes >> 20,
            BASE_MIN >> 20
        )));
    }
    for (index, image) in IMAGES.iter().enumerate() {
        archive(folder, image, &[&layers[0], &layers[index + 1]])?;
    }
    let disks = disks(folder, &layers, kernel)?;
    let kernel = kernel.map(kernel_bytes).transpose()?;
    let mib = |layer: &Layer| layer.bytes as f64 / f64::from(1 << 20);
    let about = format!(
        "What is deployed is made from this host's Debian packages, without documentation and translations: a base of the {} essential \
         ones and what they need ({} files, {:.0} MiB), on which the first image adds {} ({:.1} MiB) and the second {} ({:.1} MiB); \
         layers are compressed by gzip -6.",
        sets[0].len(),
        layers[0].files,
        mib(&layers[0]),
        described(packages, APPLICATIONS[0].0),
        mib(&layers[1]),
        described(packages, APPLICATIONS[1].0),
        mib(&layers[2]),
    );
    for tar in names.iter().map(|name| folder.join(format!("{name}.tar"))) {
        let _ = fs::remove_file(tar);
    }
    Ok(Content {
        folder: folder.to_owned(),
        layers,
        disks,
        kernel,
        about,
    })
}

fn described(packages: &Packages, name: &str) -> String {
    let version = packages.0.get(name).map_or("", |package| &package.version);
    format!("{name} {version} with what that needs")
}

fn join<T>(job: std::thread::ScopedJoinHandle<'_, T>) -> T {
    job.join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The files of packages, as paths below the root with all links of directories resolved.
fn files(set: &BTreeSet<String>) -> Result<BTreeSet<PathBuf>> {
    let text = program(
        Command::new("dpkg-query").arg("-L").args(set),
        "dpkg-query -L",
    )?;
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with('/')) {
        let path = Path::new(line);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        // What a package has and this host does not is passed over: somebody has removed it, or it is diverted.
        let Ok(parent) = fs::canonicalize(parent) else {
            continue;
        };
        let path = parent.join(name);
        let is_file =
            fs::symlink_metadata(&path).is_ok_and(|about| about.is_file() || about.is_symlink());
        let inner = path.strip_prefix("/").unwrap_or(&path).to_owned();
        let text = inner.to_string_lossy();
        if is_file
            && !MERGED.contains(&text.as_ref())
            && LEFT_OUT.iter().all(|prefix| !text.starts_with(prefix))
        {
            found.insert(inner);
        }
    }
    Ok(found)
}

/// Packs files, always in the same way, and compresses them.
fn layer(folder: &Path, name: &str, files: &BTreeSet<PathBuf>, is_base: bool) -> Result<Layer> {
    let path = folder.join(format!("{name}.tar"));
    let failed = |error| Error::io("write", &path, error);
    let file = File::create(&path).map_err(failed)?;
    let mut tar = tar::Builder::new(BufWriter::new(file));
    let header = |kind, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_mtime(0);
        header
    };
    if is_base {
        for directory in ["dev", "proc", "root", "run", "sys", "tmp", "var/tmp"] {
            let mode = if directory.ends_with("tmp") {
                0o1777
            } else {
                0o755
            };
            tar.append_data(
                &mut header(tar::EntryType::Directory, mode),
                directory,
                &[][..],
            )
            .map_err(failed)?;
        }
        for link in MERGED {
            let mut header = header(tar::EntryType::Symlink, 0o777);
            tar.append_link(&mut header, link, format!("usr/{link}"))
                .map_err(failed)?;
        }
    }
    let mut bytes = 0;
    for inner in files {
        let whole = Path::new("/").join(inner);
        let about =
            fs::symlink_metadata(&whole).map_err(|error| Error::io("examine", &whole, error))?;
        if about.is_symlink() {
            let target = fs::read_link(&whole).map_err(|error| Error::io("read", &whole, error))?;
            let mut header = header(tar::EntryType::Symlink, 0o777);
            tar.append_link(&mut header, inner, target)
                .map_err(failed)?;
            continue;
        }
        let content = fs::read(&whole).map_err(|error| Error::io("read", &whole, error))?;
        let mut header = header(tar::EntryType::Regular, about.mode() & 0o7777);
        header.set_uid(about.uid().into());
        header.set_gid(about.gid().into());
        header.set_size(content.len() as u64);
        bytes += content.len() as u64;
        tar.append_data(&mut header, inner, content.as_slice())
            .map_err(failed)?;
    }
    let mut out = tar.into_inner().map_err(failed)?;
    out.flush().map_err(failed)?;
    compress(&path, bytes, files.len())
}

/// A tar archive as a layer.
fn compress(tar: &Path, bytes: u64, files: usize) -> Result<Layer> {
    let file = tar.with_extension("tar.gz");
    gzip(
        tar,
        File::create(&file)
            .map_err(|error| Error::io("create", &file, error))?
            .into(),
    )?;
    Ok(Layer {
        digest: digest(&file)?,
        diff_id: digest(tar)?,
        file,
        bytes,
        files,
    })
}

fn gzip(from: &Path, to: Stdio) -> Result<()> {
    let status = Command::new("gzip")
        .arg("-6nc")
        .arg(from)
        .stdin(Stdio::null())
        .stdout(to)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(Error::Program {
            program: format!("gzip {}", from.display()),
            message: other.map_or_else(|error| error.to_string(), crate::launch::describe),
        }),
    }
}

fn digest(file: &Path) -> Result<String> {
    let text = program(Command::new("sha256sum").arg(file), "sha256sum")?;
    Ok(format!(
        "sha256:{}",
        text.split(' ').next().unwrap_or_default()
    ))
}

/// An image as docker's archive.
fn archive(folder: &Path, image: &str, layers: &[&Layer]) -> Result<()> {
    let path = folder.join(format!("{image}.tar"));
    let failed = |error| Error::io("write", &path, error);
    let names: Vec<String> = layers
        .iter()
        .map(|layer| format!("{}.tar.gz", &layer.diff_id["sha256:".len()..]))
        .collect();
    let diff_ids: Vec<&String> = layers.iter().map(|layer| &layer.diff_id).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [format!("{image}:1")], "Layers": names}]);
    let mut tar = tar::Builder::new(File::create(&path).map_err(failed)?);
    for (layer, name) in layers.iter().zip(&names) {
        tar.append_path_with_name(&layer.file, name)
            .map_err(failed)?;
    }
    for (name, document) in [("config.json", config), ("manifest.json", manifest)] {
        let text = document.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes())
            .map_err(failed)?;
    }
    tar.finish().map_err(failed)
}

/// The two images as disks of virtual machines: one ext4 each, with the kernel in /boot.
fn disks(folder: &Path, layers: &[Layer; 3], kernel: Option<&Path>) -> Result<Option<[Layer; 2]>> {
    let (Some(kernel), true) = (kernel, Path::new("/sbin/mke2fs").exists()) else {
        return Ok(None);
    };
    let made: Vec<Result<Layer>> = std::thread::scope(|scope| {
        let jobs: Vec<_> = DISKS
            .iter()
            .zip(&layers[1..])
            .map(|(name, added)| scope.spawn(|| disk(folder, name, [&layers[0], added], kernel)))
            .collect();
        jobs.into_iter().map(join).collect()
    });
    let made: Vec<Layer> = made.into_iter().collect::<Result<_>>()?;
    for (name, layer) in DISKS.iter().zip(&made) {
        archive(folder, name, &[layer])?;
    }
    Ok(made.try_into().ok())
}

fn disk(folder: &Path, name: &str, layers: [&Layer; 2], kernel: &Path) -> Result<Layer> {
    let tree = folder.join(format!("{name}.root"));
    let boot = tree.join("boot");
    fs::create_dir_all(&boot).map_err(|error| Error::io("create", &boot, error))?;
    for layer in layers {
        unpack_command(&tree, Some(&layer.file))?;
    }
    fs::copy(kernel, boot.join("vmlinux")).map_err(|error| Error::io("copy", kernel, error))?;
    let image = folder.join(format!("{name}.img"));
    // A tenth more than the files take, which is what ext4 needs for itself.
    let kib = super::count::on_disk(&tree) / 1024 * 11 / 10 + 4096;
    program(
        Command::new("/sbin/mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-m",
                "0",
                "-O",
                "^has_journal,^resize_inode",
                "-d",
            ])
            .arg(&tree)
            .arg(&image)
            .arg(format!("{kib}k")),
        "mke2fs",
    )?;
    let _ = fs::remove_dir_all(&tree);
    let tar = folder.join(format!("{name}-layer.tar"));
    let failed = |error| Error::io("write", &tar, error);
    let bytes = fs::metadata(&image).map_err(failed)?.len();
    let mut builder = tar::Builder::new(File::create(&tar).map_err(failed)?);
    builder
        .append_path_with_name(&image, "disk/disk.img")
        .map_err(failed)?;
    builder.finish().map_err(failed)?;
    let _ = fs::remove_file(&image);
    let layer = compress(&tar, bytes, 1)?;
    let _ = fs::remove_file(&tar);
    Ok(layer)
}

fn unpack_command(tree: &Path, file: Option<&Path>) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("-C").arg(tree).arg("-xzf").args(file);
    program(&mut command, "tar").map(drop)
}

/// What the guest's kernel takes on the way and on the disk.
fn kernel_bytes(path: &Path) -> Result<(u64, u64)> {
    let failed = |error| Error::io("compress", path, error);
    let (mut reader, writer) = std::io::pipe().map_err(failed)?;
    let counted = std::thread::scope(|scope| {
        let counting = scope.spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        gzip(path, writer.into())?;
        join(counting).map_err(failed)
    })?;
    Ok((counted, super::count::on_disk(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "installed\tbash\t5\tyes\t, libc6 (>= 2.36), base-files (>= 2)\n\
        installed\tlibc6\t2\tno\t, libgcc-s1\n\
        installed\tlibgcc-s1\t1\tno\t, libc6\n\
        installed\tapt\t2\tno\tlibc6:any, gpgv | gpgv2, perl\n\
        installed\tgpgv\t1\tno\t, \n\
        config-files\tperl\t5\tno\t, \n\
        installed\topenssl\t3\tno\t, libssl3\n\
        nonsense\n";

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn the_base_is_what_is_essential_with_its_needs_and_an_application_what_that_lacks() {
        let [base, first, second] = Packages::parse(KNOWN).sets().unwrap();
        assert_eq!(names(&base), ["bash", "libc6", "libgcc-s1"]);
        assert_eq!(names(&first), ["apt", "gpgv"]);
        assert_eq!(names(&second), ["openssl"]);
    }

    #[test]
    fn a_missing_application_is_named_with_what_to_install() {
        let text = KNOWN.replace("openssl", "other");
        let said = Packages::parse(&text).sets().unwrap_err().to_string();
        assert!(said.contains("apt-get install openssl"), "{said}");
    }

    #[test]
    fn another_version_of_a_package_is_other_content() {
        let key_of = |text: &str| {
            let packages = Packages::parse(text);
            let [base, first, second] = packages.sets().unwrap();
            key(&packages, [&base, &first, &second], None)
        };
        assert_eq!(key_of(KNOWN), key_of(KNOWN));
        assert_ne!(
            key_of(KNOWN),
            key_of(&KNOWN.replace("openssl\t3", "openssl\t4"))
        );
        assert_eq!(key_of(KNOWN), key_of(&KNOWN.replace("perl\t5", "perl\t6")));
    }

    #[test]
    fn a_layer_is_the_same_bytes_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let files = BTreeSet::from([PathBuf::from("etc/hostname"), PathBuf::from("usr/bin/dpkg")]);
        let made: Vec<Layer> = ["one", "two"]
            .iter()
            .map(|name| layer(directory.path(), name, &files, true).unwrap())
            .collect();
        assert_eq!(made[0].digest, made[1].digest);
        assert_eq!(made[0].diff_id, made[1].diff_id);
        assert_eq!(made[0].files, 2);
    }
}
