//! The images that all arms run, and where their files lie on the host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::{Image, Store};

use crate::arm::plimsoll;
use crate::error::{Error, Result};
use crate::peers;

/// The image that is there without any import: what starts are measured with.
pub(crate) const BASE: &str = "plimsoll/base";
/// The file of the data image that file work reads, relative to its root.
pub(crate) const DATA_FILE: &str = "srv/bench-data";
/// Its size: 16 sequential blocks of 1 MiB; small enough for the page cache of a VM of 256 MiB.
const DATA_BYTES: u64 = 16 << 20;
/// Raised when the content of [`DATA_FILE`] changes.
const DATA_VERSION: u32 = 1;

/// One image and its files.
#[derive(Debug, Clone)]
pub(crate) struct OnDisk {
    /// The name that `plimsoll run` is given.
    pub(crate) name: String,
    /// Its identity.
    pub(crate) digest: String,
    /// Its unpacked layers, topmost first.
    pub(crate) layers: Vec<PathBuf>,
    /// What a VM gets in their place; empty where they could not be made.
    pub(crate) erofs: Vec<PathBuf>,
}

/// The two images of a run.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// [`BASE`].
    pub(crate) base: OnDisk,
    /// The same with a file to read, made by the harness: what resident workloads run in.
    pub(crate) data: OnDisk,
}

impl OnDisk {
    fn find(store: &Store, name: &str) -> Result<Self> {
        let image: Image = store.resolve(name)?;
        let layers = store.layer_dirs(&image)?;
        let erofs = store
            .erofs_layers(&image)
            .map(|layers| layers.into_iter().map(|layer| layer.path).collect());
        Ok(Self {
            name: name.to_owned(),
            digest: image.id.to_string(),
            layers,
            // Without mkfs.erofs there are no VMs, and their arms say so themselves.
            erofs: erofs.unwrap_or_default(),
        })
    }

    /// Where a file of the image lies on the host: in the topmost layer that has it.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        let mut places = self.layers.iter().map(|layer| layer.join(path));
        places
            .clone()
            .find(|place| place.exists())
            .or_else(|| places.next_back())
            .unwrap_or_default()
    }
}

impl Images {
    /// Makes both images where they are missing.
    ///
    /// # Errors
    /// When the command under test cannot run a container at all, or the store cannot be used.
    pub(crate) fn prepare(command: &plimsoll::Command, scratch: &Path) -> Result<Self> {
        // The first run makes the built-in image.
        run(command, &["run", "--rm", BASE, "/bin/workload", "true"])?;
        let store = Store::open(&command.root.join("images"))?;
        let base = OnDisk::find(&store, BASE)?;
        let short: String = base
            .digest
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        let name = format!("plimsoll/bench:{short}-{DATA_VERSION}");
        if store.resolve(&name).is_err() {
            let archive = scratch.join("bench-image.tar");
            build(&base, &archive)?;
            let imported = run(command, &["import", &archive.display().to_string(), &name]);
            let _ = fs::remove_file(&archive);
            imported?;
        }
        let data = OnDisk::find(&store, &name)?;
        Ok(Self { base, data })
    }

    /// A copy of the base image's root file system for launchers that know no images: they may make mount points in it,
    /// and a layer is only ever read.
    pub(crate) fn copy_rootfs(&self, to: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to).map_err(|error| Error::io("create", to, error))?;
        for layer in self.base.layers.iter().rev() {
            let copied = peers::output(
                Command::new("/bin/cp")
                    .arg("-a")
                    .arg(layer.join("."))
                    .arg(to),
            );
            copied.map_err(|message| Error::Program {
                program: format!("cp -a {}", layer.display()),
                message,
            })?;
        }
        Ok(())
    }
}

/// Runs the command under test to its end.
fn run(command: &plimsoll::Command, args: &[&str]) -> Result<()> {
    let mut process = Command::new(&command.program);
    process.args(args).env("PLIMSOLL_ROOT", &command.root);
    peers::output(&mut process)
        .map(|_| ())
        .map_err(|message| Error::Program {
            program: format!("plimsoll {}", args.join(" ")),
            message,
        })
}

/// An archive of the base image with [`DATA_FILE`] added.
fn build(base: &OnDisk, archive: &Path) -> Result<()> {
    let failed = |error| Error::io("write", archive, error);
    let file = File::create(archive).map_err(failed)?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    tar.follow_symlinks(false);
    for layer in base.layers.iter().rev() {
        tar.append_dir_all(".", layer).map_err(failed)?;
    }
    // The workload fills its own files, so that it knows what to find in them.
    let data = archive.with_extension("data");
    let workload = base.file("bin/workload");
    peers::output(
        Command::new(&workload)
            .arg("fill")
            .arg(&data)
            .arg(DATA_BYTES.to_string()),
    )
    .map_err(|message| Error::Program {
        program: format!("{} fill", workload.display()),
        message,
    })?;
    let added = tar.append_path_with_name(&data, DATA_FILE);
    let _ = fs::remove_file(&data);
    added.map_err(failed)?;
    let mut out = tar.into_inner().map_err(failed)?;
    std::io::Write::flush(&mut out).map_err(failed)
}
