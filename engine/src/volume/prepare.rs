//! From an instance's list of mounts to open files and directories, made where they may be.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::hold::{self, Held};
use super::options::Backing;
use super::{
    NewVolume, Volume, VolumeError, check_same_options, copy, create, read, remove_anonymous,
};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::mount::{BindMount, MountError, MountKind, MountSpec, Origin, VolumeMount};

/// A mount whose source is there.
#[derive(Debug)]
pub struct ResolvedMount {
    /// What it is, its volume named.
    pub spec: MountSpec,
    /// The source (O_PATH), whatever its path leads to from now on. None for a tmpfs.
    pub source: Option<OwnedFd>,
    /// The source's path on the host. None for a tmpfs.
    pub path: Option<PathBuf>,
    /// A part of a volume as a mount of its own, attached nowhere: programs with the volume could put a link in the place of its
    /// path. None: the path is nobody's but the host's.
    pub tree: Option<OwnedFd>,
    /// Whether the source is a directory; a tmpfs is.
    pub is_directory: bool,
    /// Whether writing is refused: by the mount, or by the volume's own options.
    pub read_only: bool,
}

impl ResolvedMount {
    /// A path that leads to the source for whoever mounts it in a mount namespace of its own: the host's, or that of the detached
    /// tree, which container-core takes as it is, once. None for a tmpfs.
    pub fn source_path(&self) -> Option<PathBuf> {
        match &self.tree {
            Some(tree) => Some(format!("/proc/self/fd/{}", tree.as_raw_fd()).into()),
            None => self.path.clone(),
        }
    }

    /// The mount in the words of the OCI runtime specification, good for as long as this is held.
    pub fn oci(&self) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination(self.spec.target.clone().into());
        let (kind, source) = match self.source_path() {
            Some(source) => ("bind", source),
            None => ("tmpfs", "tmpfs".into()),
        };
        mount.set_typ(Some(kind.to_owned()));
        mount.set_source(Some(source));
        let effective = MountSpec {
            read_only: self.read_only,
            ..self.spec.clone()
        };
        mount.set_options(Some(effective.options()));
        mount
    }
}

/// An instance's mounts, their volumes held: nobody removes one before this is dropped. It is kept until the instance's record,
/// which names the volumes, has been written.
#[derive(Debug)]
pub struct Prepared {
    /// The mounts, in the order given.
    pub mounts: Vec<ResolvedMount>,
    held: Vec<Held>,
    /// Volumes that this made and that only the record will name.
    made: Vec<MountSpec>,
}

impl Prepared {
    /// The mounts for the instance's record: as they were, anonymous volumes named.
    pub fn specs(&self) -> Vec<MountSpec> {
        self.mounts.iter().map(|mount| mount.spec.clone()).collect()
    }

    /// Takes back the anonymous volumes that were made, for an instance that could not be made.
    ///
    /// # Errors
    /// Those of [`remove_anonymous`].
    pub fn discard(self, home: &Home) -> Result<()> {
        let Self { held, made, .. } = self;
        drop(held);
        remove_anonymous(home, "", &made)
    }
}

/// Opens the sources of an instance's mounts, in order. Missing volumes are made, and missing sources of `-v`; missing ones of `--mount`
/// are refused. Empty volumes are filled from the image whose layers (topmost first) are given; none are given when an
/// instance starts again.
///
/// # Errors
/// [`MountError`], [`VolumeError`], [`Error::Io`], and the image store's. Anonymous volumes that were made are removed again.
pub fn prepare(home: &Home, mounts: &[MountSpec], layers: Option<&[PathBuf]>) -> Result<Prepared> {
    let mut prepared = Prepared {
        mounts: Vec::with_capacity(mounts.len()),
        held: Vec::new(),
        made: Vec::new(),
    };
    for mount in mounts {
        if let Err(error) = prepared.add(home, mount, layers) {
            // The first failure is the one to tell.
            let _ = prepared.discard(home);
            return Err(error);
        }
    }
    Ok(prepared)
}

impl Prepared {
    fn add(&mut self, home: &Home, mount: &MountSpec, layers: Option<&[PathBuf]>) -> Result<()> {
        let mut spec = mount.clone();
        let mut tree = None;
        let (source, path, read_only) = match &mount.kind {
            MountKind::Tmpfs(_) => (None, None, false),
            MountKind::Bind(bind) => {
                let path = PathBuf::from(&bind.source);
                (Some(bind_source(bind)?), Some(path), false)
            }
            MountKind::Volume(volume) => {
                let (found, held, backing) = self.volume(home, volume)?;
                let name = found.name.clone();
                if found.is_anonymous() && (!volume.anonymous || mount.origin == Origin::Inherited)
                {
                    held.share_out()
                        .map_err(|e| Error::io("note the sharing of", &found.mountpoint, e))?;
                }
                spec.kind = MountKind::Volume(VolumeMount {
                    name: Some(name.clone()),
                    ..volume.clone()
                });
                if volume.anonymous && volume.name.is_none() {
                    self.made.push(spec.clone());
                }
                let opened = content(home, &name, &held, &backing)?;
                if let Some(layers) = layers.filter(|_| is_filled(mount, volume, &backing)) {
                    copy::up(
                        &held,
                        opened.as_fd(),
                        layers,
                        &mount.target,
                        !volume.anonymous,
                    )?;
                }
                let mut path = match &backing {
                    Backing::Own => found.mountpoint,
                    Backing::Directory { path, .. } => path.clone(),
                };
                let source = match &volume.subpath {
                    None => opened,
                    Some(subpath) => {
                        let part = below(opened.as_fd(), subpath)?;
                        path.push(subpath);
                        tree = Some(detached(&part, subpath)?);
                        part
                    }
                };
                self.held.push(held);
                let read_only = matches!(
                    backing,
                    Backing::Directory {
                        read_only: true,
                        ..
                    }
                );
                (Some(source), Some(path), read_only)
            }
        };
        let is_directory = match &source {
            None => true,
            Some(source) => {
                let stat = rustix::fs::fstat(source)
                    .map_err(|e| Error::io("examine", &mount.target, e.into()))?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
        };
        self.mounts.push(ResolvedMount {
            read_only: spec.read_only || read_only,
            spec,
            source,
            path,
            tree,
            is_directory,
        });
        Ok(())
    }

    /// Finds or makes a volume, and holds it.
    fn volume(&self, home: &Home, volume: &VolumeMount) -> Result<(Volume, Held, Backing)> {
        let new = NewVolume {
            name: volume.name.clone(),
            labels: volume.labels.clone(),
            options: volume.options.clone(),
        };
        loop {
            let name = match &volume.name {
                Some(name) => name.clone(),
                None => create(home, &new)?.name,
            };
            if let Some(held) = hold::shared(home, &name)? {
                let found = read(home, &name)?;
                check_same_options(&found, &volume.options)?;
                let backing = Backing::of(&name, &found.options)?;
                return Ok((found, held, backing));
            }
            if volume.name.is_some() {
                create_named(home, &name, volume)?;
            }
        }
    }
}

/// Makes a volume that a mount names. An anonymous one whose record outlived it comes back with its label.
fn create_named(home: &Home, name: &str, volume: &VolumeMount) -> Result<()> {
    let mut labels = volume.labels.clone();
    if volume.anonymous {
        labels.insert(super::ANONYMOUS_LABEL.to_owned(), String::new());
    }
    let new = NewVolume {
        name: Some(name.to_owned()),
        labels,
        options: volume.options.clone(),
    };
    create(home, &new).map(drop)
}

/// Whether an empty volume takes the image's files.
fn is_filled(mount: &MountSpec, volume: &VolumeMount, backing: &Backing) -> bool {
    let writable = !matches!(
        backing,
        Backing::Directory {
            read_only: true,
            ..
        }
    );
    // docker: not by --volumes-from, and not where only a part of the volume is mounted.
    !volume.nocopy && volume.subpath.is_none() && mount.origin != Origin::Inherited && writable
}

/// Opens a bind's source, following links: they are the host's.
fn bind_source(bind: &BindMount) -> Result<OwnedFd> {
    let open = || rustix::fs::open(&bind.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let refused = |reason: String| MountError::Config {
        kind: "bind".into(),
        reason,
    };
    match open() {
        Err(Errno::NOENT) if bind.create_missing => {
            let failed = |source: io::Error| VolumeError::Source {
                path: bind.source.clone(),
                source,
            };
            DirBuilder::new()
                .mode(0o755)
                .recursive(true)
                .create(&bind.source)
                .map_err(failed)?;
            Ok(open().map_err(|e| failed(e.into()))?)
        }
        Err(Errno::NOENT) => {
            let reason = format!("bind source path does not exist: {}", bind.source);
            Err(refused(reason).into())
        }
        Err(error) => {
            let reason = format!("stat {}: {}", bind.source, io::Error::from(error));
            Err(refused(reason).into())
        }
        Ok(source) => Ok(source),
    }
}

/// Opens a volume's content.
fn content(home: &Home, name: &str, held: &Held, backing: &Backing) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match backing {
        Backing::Own => {
            let flags = flags | OFlags::NOFOLLOW;
            rustix::fs::openat(held.directory(), "_data", flags, Mode::empty()).map_err(|e| {
                let path = super::directory(home, name).join("_data");
                Error::io("open", path, e.into())
            })
        }
        Backing::Directory { path, .. } => rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|e| {
                VolumeError::Access {
                    path: path.display().to_string(),
                    source: e.into(),
                }
                .into()
            }),
    }
}

/// Opens a path below a volume, whose links are its programs' doing and may lead nowhere else.
fn below(volume: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let opened = image_core::openat2(
        volume,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    );
    opened.map_err(|e| {
        VolumeError::Access {
            path: path.to_owned(),
            source: e.into(),
        }
        .into()
    })
}

/// A mount of what is open, attached nowhere: it shows that file or directory and nothing else, whatever becomes of its path.
fn detached(part: &OwnedFd, path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(part, "", flags).map_err(|e| {
        VolumeError::Access {
            path: path.to_owned(),
            source: e.into(),
        }
        .into()
    })
}
