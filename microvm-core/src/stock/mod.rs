//! Kernels that others have built: a vmlinux or a bzImage of a distribution's, with drivers in modules.
//!
//! [`prepare`] makes of one what a machine boots from: the kernel unpacked, and an initial RAM disk with the modules that the
//! guest needs before it can mount its root. Both are kept, so that only a kernel's first machine waits for them. The file
//! and the modules may come from anywhere: they are bounded and checked.

mod bzimage;
mod cache;
mod drivers;
mod facts;
#[cfg(test)]
pub(crate) mod fuzz;
mod modinfo;
mod modules;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use drivers::Wants;

use crate::config::Discovery;
use crate::kernel::Kernel;
use crate::{Accelerator, Error, Result, Substrate};
use bzimage::BzImage;
use cache::{Cache, Making, identity};
use facts::{Facts, hex};
use modules::Tree;

/// More than any compressed kernel has, bytes.
const MOST_COMPRESSED: u64 = 256 << 20;

/// Part of the names of what is kept, to be raised when it is made otherwise.
const RECIPE: u32 = 1;

/// What is asked for.
pub struct Request<'a> {
    /// The kernel: a vmlinux or a bzImage.
    pub kernel: &'a Path,
    /// The directory for what is kept; it is made when it is missing.
    pub cache: &'a Path,
    /// What the machine has.
    pub wants: Wants,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Where KVM is what runs it, what that is here.
    pub substrate: Substrate,
    /// What tells this initial RAM disk, without its modules, from any other: a digest.
    pub agent: &'a str,
    /// Makes the initial RAM disk with these modules, in the order they are to be loaded in.
    pub initramfs: &'a dyn Fn(&[Module]) -> Vec<u8>,
}

/// A module as it goes into an initial RAM disk.
#[derive(Debug)]
pub struct Module {
    /// Its file's name, such as `virtio_mmio.ko`.
    pub name: String,
    /// Its bytes, unpacked.
    pub contents: Vec<u8>,
}

/// What a machine boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The kernel, as [`VmConfig::kernel`](crate::VmConfig::kernel) takes it.
    pub kernel: PathBuf,
    /// The initial RAM disk with the kernel's modules; nothing when it needs none.
    pub initramfs: Option<PathBuf>,
    /// How the kernel finds its devices.
    pub discovery: Discovery,
    /// `uname -r`, as far as it is known before it runs.
    pub release: Option<String>,
}

/// What is known of a kernel's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    digest: String,
    /// It is compressed, and its vmlinux is kept.
    unpacked: bool,
    facts: Facts,
}

/// Which modules a kernel takes, as long as none of the files it was worked out from is written to.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    modules: Vec<PathBuf>,
    /// The files and their identities.
    from: Vec<(PathBuf, String)>,
}

/// Makes of a kernel what a machine boots from.
///
/// # Errors
/// When the file is no kernel for x86-64, is cut short or compressed in a way that is not supported; when it lacks a driver or an
/// option, by its name; when its modules are needed and not there; when it cannot run on this KVM; or when a file cannot be
/// read or kept.
pub fn prepare(request: &Request<'_>) -> Result<Prepared> {
    let failed = |what| {
        let path = request.kernel.to_owned();
        move |source| Error::File { path, what, source }
    };
    // With links resolved, since modules and configuration lie beside the kernel itself.
    let path = fs::canonicalize(request.kernel).map_err(failed("cannot open the guest kernel"))?;
    let file = File::open(&path).map_err(failed("cannot open the guest kernel"))?;
    let meta = file
        .metadata()
        .map_err(failed("cannot read the guest kernel"))?;
    if !meta.is_file() {
        return Err(refuse(request.kernel, "is no file, so it is no kernel"));
    }
    let cache = Cache(request.cache);
    let key = format!("{}-v{RECIPE}.json", identity(&meta));
    let known = cache
        .get::<About>(&["by-file", &key])
        .filter(|about| !about.unpacked || unpacked(&cache, &about.digest).is_file());
    let about = match known {
        Some(about) => about,
        None => {
            let making = cache.make()?;
            let about = examine(request.kernel, &file, meta.len(), &cache, &making)?;
            making.keep_json(&["by-file", &key], &about)?;
            about
        }
    };
    let emulated = request.accelerator != Accelerator::Tcg && request.substrate == Substrate::Pvm;
    if emulated && !about.facts.pvm {
        return Err(refuse(
            request.kernel,
            "cannot boot on this /dev/kvm, which is kvm_pvm: only kernels with Plimsoll's patch can (guest/kernel/kvm_pvm.patch); \
             use --accel tcg, or leave --kernel out",
        ));
    }
    let discovery = match &about.facts {
        facts if facts.acpi => Discovery::Acpi,
        facts if facts.named_devices => Discovery::CommandLine,
        _ => {
            return Err(refuse(
                request.kernel,
                "has neither CONFIG_ACPI nor CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES, without which it finds no device",
            ));
        }
    };
    let initramfs = initramfs(request, &path, &about, &cache)?;
    Ok(Prepared {
        kernel: match about.unpacked {
            true => unpacked(&cache, &about.digest),
            false => path,
        },
        initramfs,
        discovery,
        release: about.facts.release,
    })
}

fn refuse(path: &Path, why: impl Into<String>) -> Error {
    Error::Kernel {
        path: path.to_owned(),
        why: why.into(),
    }
}

fn unpacked(cache: &Cache<'_>, digest: &str) -> PathBuf {
    cache.path(&[digest, "vmlinux"])
}

/// Reads a kernel, unpacks it if it is compressed, and finds out what can be known of it.
fn examine(
    path: &Path,
    file: &File,
    bytes: u64,
    cache: &Cache<'_>,
    making: &Making<'_>,
) -> Result<About> {
    let failed = |source| Error::File {
        path: path.to_owned(),
        what: "cannot read the guest kernel",
        source,
    };
    let mut start = Vec::new();
    file.take(4096).read_to_end(&mut start).map_err(failed)?;
    if start.starts_with(b"\x7fELF") {
        Kernel::open(path)?;
        let rest = start.as_slice().chain(file);
        let found = facts::read(rest).map_err(failed)?;
        return Ok(About {
            digest: found.digest,
            unpacked: false,
            facts: found.facts,
        });
    }
    if !bzimage::claims(&start) {
        return Err(refuse(path, bzimage::name_other(&start)));
    }
    if bytes > MOST_COMPRESSED {
        let why =
            format!("has {bytes} bytes, and no compressed kernel has more than {MOST_COMPRESSED}");
        return Err(refuse(path, why));
    }
    let mut whole = start;
    file.take(MOST_COMPRESSED)
        .read_to_end(&mut whole)
        .map_err(failed)?;
    let image = BzImage::parse(&whole).map_err(|why| refuse(path, why))?;
    let kernel = image.unpack().map_err(|why| refuse(path, why))?;
    let digest = hex(&Sha256::digest(&whole));
    let mut facts = facts::read(kernel.as_slice()).map_err(failed)?.facts;
    facts.release = facts.release.or(image.release);
    if !unpacked(cache, &digest).is_file() {
        let check = |part: &Path| match Kernel::open(part) {
            Err(Error::Kernel { why, .. }) => {
                Err(refuse(path, format!("has a kernel in it that {why}")))
            }
            other => other.map(drop),
        };
        making.keep_checked(&[&digest, "vmlinux"], &kernel, check)?;
    }
    Ok(About {
        digest,
        unpacked: true,
        facts,
    })
}

/// The initial RAM disk with the modules that a kernel takes, or nothing when it takes none.
fn initramfs(
    request: &Request<'_>,
    path: &Path,
    about: &About,
    cache: &Cache<'_>,
) -> Result<Option<PathBuf>> {
    let release = about.facts.release.as_deref();
    let places = release.map_or_else(Vec::new, |release| modules::places(path, release));
    let root = modules::find(&places);
    let name = short(&[
        &request.wants.word(),
        &root.unwrap_or(Path::new("")).to_string_lossy(),
    ]);
    let parts = [
        about.digest.as_str(),
        &format!("plan-{name}-v{RECIPE}.json"),
    ];
    let plan = match cache.get::<Plan>(&parts).filter(Plan::holds) {
        Some(plan) => plan,
        None => {
            let plan = work_out(request, path, about, root)?;
            cache.make()?.keep_json(&parts, &plan)?;
            plan
        }
    };
    if plan.modules.is_empty() {
        return Ok(None);
    }
    let stamps: Vec<&str> = plan.from.iter().map(|(_, stamp)| stamp.as_str()).collect();
    let name = short(&[request.agent, &name, &stamps.join(" ")]);
    let parts = [
        about.digest.as_str(),
        &format!("initramfs-{name}-v{RECIPE}.cpio"),
    ];
    let kept = cache.path(&parts);
    if kept.is_file() {
        return Ok(Some(kept));
    }
    let load = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.split(".ko").next().unwrap_or_default();
        modules::contents(path).map(|contents| Module {
            name: format!("{plain}.ko"),
            contents,
        })
    };
    let loaded = plan.modules.iter().map(load).collect::<Result<Vec<_>>>()?;
    let bytes = (request.initramfs)(&loaded);
    cache.make()?.keep(&parts, &bytes).map(Some)
}

/// Decides which modules a kernel takes.
fn work_out(
    request: &Request<'_>,
    path: &Path,
    about: &About,
    root: Option<&Path>,
) -> Result<Plan> {
    let release = about.facts.release.as_deref();
    let tree = root.map(Tree::open).transpose()?;
    let beside = match &about.facts.config {
        Some(_) => None,
        None => config_beside(path, release, root),
    };
    let read = |path: &PathBuf| modules::read_bounded(path, 4 << 20);
    let text = beside.as_ref().map(read).transpose()?;
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let config = about.facts.config.as_ref().or(text.as_ref());
    let config = config.map(String::as_str);
    let chosen = drivers::choose(
        request.kernel,
        release,
        tree.as_ref(),
        config,
        request.wants,
    )?;
    let modules = match &tree {
        Some(tree) => tree.in_order(&chosen)?,
        None => Vec::new(),
    };
    let built_in = root.map(|root| root.join("modules.builtin"));
    let from = modules.iter().cloned().chain(beside).chain(built_in);
    let stamp = |path: PathBuf| {
        let stamp = fs::metadata(&path).map(|about| identity(&about));
        (path, stamp.unwrap_or_default())
    };
    Ok(Plan {
        from: from.map(stamp).collect(),
        modules,
    })
}

impl Plan {
    /// Whether it would be the same if it were made now.
    fn holds(&self) -> bool {
        self.from.iter().all(|(path, stamp)| {
            let now = fs::metadata(path).map(|about| identity(&about));
            now.unwrap_or_default() == *stamp
        })
    }
}

/// The file with a kernel's configuration: where packages put it, or where guest/kernel/build.sh does.
fn config_beside(kernel: &Path, release: Option<&str>, root: Option<&Path>) -> Option<PathBuf> {
    let folder = kernel.parent()?;
    let named = release.map(|release| format!("config-{release}"));
    let places = [
        named.as_ref().map(|named| folder.join(named)),
        Some(folder.join("config")),
        root.map(|root| root.join("config")),
        named.as_ref().map(|named| Path::new("/boot").join(named)),
    ];
    places.into_iter().flatten().find(|place| place.is_file())
}

/// A name for something that is made of these.
fn short(of: &[&str]) -> String {
    let mut name = hex(&Sha256::digest(of.join("\0")));
    name.truncate(16);
    name
}
