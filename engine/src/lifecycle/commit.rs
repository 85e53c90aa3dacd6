//! `commit` and `export`: what an instance has written as a layer, and all its files as an archive.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image_core::{
    Change, Image, LayerChild, LayerView, Lease, Reference, Selection, Step, Store, StoredLayer,
    Times, TreePacker, apply, derive, pack_upper, source_date,
};
use oci_spec::image::Config;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};

use super::files::{image_of, root, talk, tools};
use super::{pause, unpause};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed, Lock, Status};
use crate::spec::{BackendKind, merge_env};

/// What a new image is called and says of itself.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Its name; without one it is found by its identifier.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: Option<String>,
    /// What is said of it.
    pub message: Option<String>,
    /// Changes to its configuration.
    pub changes: Vec<Change>,
    /// Whether a running instance stands still meanwhile.
    pub pause: bool,
}

/// Makes an image of an instance: its image with what it has written as one more layer. Volumes are no part of that.
///
/// # Errors
/// [`Error::NoSuchInstance`]; [`Error::Unsupported`] for a running VM that was to stand still; the store's.
pub fn commit(home: &Home, wanted: &str, options: &CommitOptions) -> Result<Image> {
    let found = instance::look(home, wanted)?;
    let is_vm = found.record.spec.backend == BackendKind::Vm;
    if is_vm && found.is_running() && options.pause {
        return Err(Error::Unsupported(format!(
            "commit --pause is refused for the running VM {}: its disk is read by a helper inside, which would stand still too; stop it \
             first, or use --pause=false",
            found.record.short_id()
        )));
    }
    let (store, image) = image_of(home, &found)?;
    let lease = store.lease()?;
    lease.hold(&image)?;
    let created = source_date()?;
    let times = match created.and_then(seconds) {
        Some(limit) => Times::NotAfter(limit),
        None => Times::Kept,
    };
    let config = apply(Some(&own_config(&found, &image)), &options.changes)?;

    let stands_still = options.pause && !is_vm && found.state.status == Status::Running;
    if stands_still {
        pause(home, &found.record.id)?;
    }
    let layer = upper(home, &found, &lease).and_then(|upper| {
        let mut layers = store.image_layers(&image)?;
        let below = store.layer_dirs(&image)?;
        layers.push(store_layer(
            &store,
            &lease,
            &below,
            &upper.directory,
            times,
        )?);
        Ok(layers)
    });
    if stands_still {
        // It may have ended or been unpaused meanwhile: the layer counts.
        let _ = unpause(home, &found.record.id);
    }
    let layers = layer?;
    let command = found.record.command.join(" ");
    let step = Step {
        created: created.unwrap_or_else(SystemTime::now),
        created_by: &command,
        comment: options.message.as_deref(),
        author: options.author.as_deref(),
        layer: layers.last().map(|layer| layer.diff_id),
    };
    let config = derive(&store.raw_config(&image)?, &config, &step)?;
    let names: Vec<Reference> = options.name.iter().cloned().collect();
    Ok(store.add_image(&lease, &config, &layers, &names)?)
}

/// Writes all files of an instance, as it sees them, into one archive; what is mounted in it is left out.
///
/// # Errors
/// [`Error::NoSuchInstance`], and what `output` answers.
pub fn export(home: &Home, wanted: &str, output: &mut dyn Write) -> Result<()> {
    let found = instance::look(home, wanted)?;
    let (store, image) = image_of(home, &found)?;
    let lease = store.lease()?;
    lease.hold(&image)?;
    let (root, _lock) = if found.record.spec.backend == BackendKind::Vm {
        (merged(home, &found, &store, &image, &lease)?, None)
    } else {
        root(home, &found)?
    };
    let mut packer = TreePacker::new(output, Times::Kept);
    let selection = Selection {
        one_file_system: true,
        ..Selection::default()
    };
    packer.add(root.as_fd(), b"", b"", &selection)?;
    Ok(packer.finish()?)
}

/// A VM's files on the host, without mounting what the guest has written: its upper directory is unpacked like any archive, and
/// laid over the image's layers.
fn merged(
    home: &Home,
    found: &Listed,
    store: &Store,
    image: &Image,
    lease: &Lease,
) -> Result<OwnedFd> {
    let upper = upper(home, found, lease)?;
    let work = lease.directory()?;
    let layers = store.layer_dirs(image)?;
    Ok(container_core::mount_overlay(
        &layers,
        &upper.directory,
        &work,
        true,
    )?)
}

/// Stores an upper directory over these layers as a layer.
pub(crate) fn store_layer(
    store: &Store,
    lease: &Lease,
    below: &[PathBuf],
    upper: &Path,
    times: Times,
) -> Result<StoredLayer> {
    let upper = File::open(upper).map_err(|e| Error::io("open", upper, e))?;
    let ours = places_of_engine(below, upper.as_fd())?;
    let skip = |path: &[u8]| ours.iter().any(|own| own == path);
    Ok(store.add_layer(lease, |output| {
        pack_upper(upper.as_fd(), times, &skip, output)
    })?)
}

/// An instance's upper directory on the host.
struct Upper {
    directory: PathBuf,
    /// Held while it is looked at, of an instance that does not run.
    lock: Option<Lock>,
}

impl Drop for Upper {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            // What stays is settled by the next command.
            let _ = lock.release();
        }
    }
}

fn upper(home: &Home, found: &Listed, lease: &Lease) -> Result<Upper> {
    let directory = home.instance(&found.record.id);
    if found.record.spec.backend != BackendKind::Vm {
        let lock = if found.is_running() {
            None
        } else {
            Some(Lock::take(home, &found.record.id)?)
        };
        let upper = directory.join("upper");
        return Ok(Upper {
            // Before the first start there is none.
            directory: if upper.is_dir() {
                upper
            } else {
                lease.directory()?
            },
            lock,
        });
    }
    if !directory.join("disk.ext4").exists() && !found.is_running() {
        return Ok(Upper {
            directory: lease.directory()?,
            lock: None,
        });
    }
    let (tools, lock) = tools(home, found.clone())?;
    let (mut reader, mut writer) = io::pipe().map_err(|source| Error::System {
        action: "make a pipe",
        source,
    })?;
    let number = guest_protocol::UPPER_FD.to_string();
    let (said, unpacked) = std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || {
            let unpacked = lease.unpack(&mut reader);
            // Whoever writes does not notice that nobody wants to know any more: it is read to the end.
            let _ = io::copy(&mut reader, &mut io::sink());
            unpacked
        });
        let said = talk(tools.as_ref(), &["upper-out", &number], None, &mut writer);
        drop(writer);
        let unpacked = unpacking.join();
        (
            said,
            unpacked.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    let (code, said) = said?;
    if code != 0 {
        return Err(Error::Guest {
            message: said,
            code: 125,
        });
    }
    Ok(Upper {
        directory: unpacked?,
        lock,
    })
}

/// What the engine itself has put into a container for lack of it in the image: places for mounts, still empty.
pub(crate) fn places_of_engine(layers: &[PathBuf], upper: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    const PLACES: [&str; 6] = [
        "dev",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
        "proc",
        "sys",
    ];
    let view = LayerView::open(layers)?;
    let mut ours = Vec::new();
    for place in PLACES {
        let mut directory = Some(view.root());
        let mut found = false;
        for name in place.split('/') {
            let Some(here) = directory.take() else {
                found = false;
                break;
            };
            match view.child(&here, name.as_bytes())? {
                None => found = false,
                Some(LayerChild::File(_)) => found = true,
                Some(LayerChild::Directory(inner, _)) => {
                    found = true;
                    directory = Some(inner);
                }
            }
        }
        if !found && is_empty(upper, place) {
            ours.push(place.as_bytes().to_vec());
        }
    }
    Ok(ours)
}

/// Whether `path` below an upper directory is an empty file or directory.
fn is_empty(upper: BorrowedFd<'_>, path: &str) -> bool {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = image_core::openat2(upper, path, flags, Mode::empty(), how) else {
        return false;
    };
    let Ok(about) = rustix::fs::fstat(&file) else {
        return false;
    };
    match FileType::from_raw_mode(about.st_mode) {
        FileType::RegularFile => about.st_size == 0,
        FileType::Directory => Dir::read_from(&file).is_ok_and(|entries| {
            // Its own name and its parent's.
            entries.flatten().take(3).count() <= 2
        }),
        _ => false,
    }
}

/// What an instance was told, in the words of an image's configuration.
fn own_config(found: &Listed, image: &Image) -> Config {
    let spec = &found.record.spec;
    let mut config = image.config.config().clone().unwrap_or_default();
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let own_env = config.env().clone().unwrap_or_default();
    config.set_env(some(merge_env(&own_env, &spec.env, &[])));
    if let Some(entrypoint) = &spec.entrypoint {
        config.set_entrypoint(some(entrypoint.clone()));
        config.set_cmd(None);
    }
    if !spec.command.is_empty() {
        config.set_cmd(Some(spec.command.clone()));
    }
    if let Some(user) = &spec.user {
        config.set_user(Some(user.clone()));
    }
    if let Some(workdir) = &spec.workdir {
        config.set_working_dir(Some(workdir.clone()));
    }
    if !spec.labels.is_empty() {
        config.set_labels(Some(spec.labels.clone().into_iter().collect()));
    }
    config
}

fn seconds(time: SystemTime) -> Option<i64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}
