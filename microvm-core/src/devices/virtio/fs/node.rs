//! What the guest knows of: nodes, by the numbers under which it refers to them.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::host::{self, FileHandle, Identity};
use super::wire::{Answer, Attributes, Errno, ROOT};
use crate::share::Shared;

/// The node of the first share; the others follow in their order.
const FIRST_SHARE: u64 = ROOT + 1;

/// How many bits of an inode number are the host file system's own; above them stands which file system it is on.
const INODE_BITS: u32 = 48;

/// What a guest may make this process hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Descriptors: of nodes, open files and locks.
    pub(super) descriptors: usize,
    /// Nodes.
    pub(super) nodes: usize,
}

/// Everything that the guest knows of.
#[derive(Debug)]
pub(super) struct Nodes {
    shares: Vec<Export>,
    nodes: HashMap<u64, Node>,
    by_file: HashMap<(usize, Identity), u64>,
    next: u64,
    /// The file systems that were met, in the order in which they were.
    devices: Vec<(u32, u32)>,
    /// How many nodes hold a descriptor.
    held: usize,
    limits: Limits,
}

/// A share, as it is served.
#[derive(Debug)]
struct Export {
    name: String,
    read_only: bool,
    place: Arc<OwnedFd>,
    /// The shared directory, open to find files by their handles, and the mount on which they are.
    mount: Option<(File, u64)>,
}

#[derive(Debug)]
struct Node {
    place: Place,
    share: usize,
    file: Identity,
    /// The kind of file: the S_IFMT part of its mode, which never changes.
    kind: u32,
    /// How many times the guest was told of it and has not forgotten that.
    references: u64,
}

/// How a node is reached.
#[derive(Debug)]
enum Place {
    Held(Arc<OwnedFd>),
    /// Looked for on the share's mount each time. So it is when descriptors run short.
    Found(FileHandle),
}

/// A node with what is needed to work on it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) place: Arc<OwnedFd>,
    pub(super) share: usize,
    pub(super) kind: u32,
    pub(super) read_only: bool,
}

impl Found {
    pub(super) fn writable(self) -> Answer<Self> {
        match self.read_only {
            true => Err(Errno(libc::EROFS)),
            false => Ok(self),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }
}

impl Nodes {
    pub(super) fn new(shares: Vec<Shared>, limits: Limits) -> Answer<Self> {
        let mut exports = Vec::with_capacity(shares.len());
        for shared in shares {
            let (identity, _) = host::stat(shared.source.as_fd())?;
            let mount = match shared.directory {
                true => Some((host::open_directory(shared.source.as_fd())?, identity.mount)),
                false => None,
            };
            exports.push(Export {
                name: shared.name,
                read_only: shared.read_only,
                place: Arc::new(shared.source),
                mount,
            });
        }
        let mut nodes = Self {
            shares: exports,
            nodes: HashMap::new(),
            by_file: HashMap::new(),
            next: 0,
            devices: Vec::new(),
            held: 0,
            limits,
        };
        nodes.forget_all()?;
        Ok(nodes)
    }

    /// Goes back to the beginning: only the shares themselves are known.
    pub(super) fn forget_all(&mut self) -> Answer<()> {
        self.nodes.clear();
        self.by_file.clear();
        self.held = 0;
        self.next = FIRST_SHARE;
        for (share, export) in self.shares.iter().enumerate() {
            let (file, attributes) = host::stat(export.place.as_fd())?;
            let node = Node {
                place: Place::Held(Arc::clone(&export.place)),
                share,
                file,
                kind: attributes.mode & libc::S_IFMT,
                references: 0,
            };
            self.nodes.insert(self.next, node);
            self.by_file.insert((share, file), self.next);
            self.next += 1;
        }
        Ok(())
    }

    /// How many descriptors the nodes hold.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The shares that may be written.
    pub(super) fn writable_shares(&self) -> impl Iterator<Item = u64> + '_ {
        (FIRST_SHARE..)
            .zip(&self.shares)
            .filter_map(|(id, share)| (!share.read_only).then_some(id))
    }

    /// The names in the root directory, each with its node and kind.
    pub(super) fn root_entries(&self) -> impl Iterator<Item = (u64, &str, u32)> + '_ {
        (FIRST_SHARE..).zip(&self.shares).map(|(id, share)| {
            let kind = self.nodes.get(&id).map_or(0, |node| node.kind);
            (id, share.name.as_str(), kind)
        })
    }

    /// A node that is not the root.
    pub(super) fn get(&self, id: u64) -> Answer<Found> {
        let node = self.nodes.get(&id).ok_or(match id {
            ROOT => Errno(libc::EROFS),
            _ => Errno(libc::ESTALE),
        })?;
        let export = self.shares.get(node.share).ok_or(Errno(libc::EIO))?;
        let place = match (&node.place, &export.mount) {
            (Place::Held(place), _) => Arc::clone(place),
            (Place::Found(handle), Some((mount, _))) => Arc::new(host::open_handle(mount, handle)?),
            (Place::Found(_), None) => return Err(Errno(libc::ESTALE)),
        };
        Ok(Found {
            place,
            share: node.share,
            kind: node.kind,
            read_only: export.read_only,
        })
    }

    /// A directory that is not the root.
    pub(super) fn directory(&self, id: u64) -> Answer<Found> {
        let found = self.get(id)?;
        match found.is_directory() {
            true => Ok(found),
            false => Err(Errno(libc::ENOTDIR)),
        }
    }

    /// What is known of a node.
    pub(super) fn attributes(&mut self, id: u64) -> Answer<Attributes> {
        if id == ROOT {
            return Ok(self.root_attributes());
        }
        let (file, attributes) = host::stat(self.get(id)?.place.as_fd())?;
        Ok(self.shown(&file, attributes))
    }

    fn root_attributes(&self) -> Attributes {
        Attributes {
            inode: ROOT,
            mode: libc::S_IFDIR | 0o555,
            links: 2,
            block_size: 4096,
            ..Attributes::default()
        }
    }

    /// Attributes as the guest sees them: it has one file system where the host may have several, so that a number of an
    /// inode says which it is on too. On the first, numbers are the host's.
    pub(super) fn shown(&mut self, file: &Identity, attributes: Attributes) -> Attributes {
        Attributes {
            inode: self.inode_number(file.device, attributes.inode),
            ..attributes
        }
    }

    pub(super) fn inode_number(&mut self, device: (u32, u32), inode: u64) -> u64 {
        let known = self.devices.iter().position(|known| *known == device);
        let index = known.unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        inode ^ (index as u64) << INODE_BITS
    }

    /// Tells the guest of what a name in a directory stands for.
    pub(super) fn lookup(&mut self, parent: u64, name: &CStr) -> Answer<(u64, Attributes)> {
        if parent == ROOT {
            let found = self
                .root_entries()
                .find(|(_, known, _)| known.as_bytes() == name.to_bytes())
                .map(|(id, _, _)| id);
            let id = found.ok_or(Errno(libc::ENOENT))?;
            return Ok((id, self.attributes(id)?));
        }
        let directory = self.directory(parent)?;
        let place = host::lookup(directory.place.as_fd(), name)?;
        self.tell(directory.share, place)
    }

    /// Tells the guest of a place in a share: one reference more.
    pub(super) fn tell(&mut self, share: usize, place: OwnedFd) -> Answer<(u64, Attributes)> {
        let (file, attributes) = host::stat(place.as_fd())?;
        let shown = self.shown(&file, attributes);
        if let Some(id) = self.by_file.get(&(share, file)).copied()
            && let Some(node) = self.nodes.get_mut(&id)
        {
            let same = match &node.place {
                // While it is held its number is not given to another file.
                Place::Held(_) => true,
                Place::Found(handle) => host::file_handle(place.as_fd()).as_ref() == Ok(handle),
            };
            if same {
                node.references = node.references.saturating_add(1);
                return Ok((id, shown));
            }
        }
        if self.nodes.len() >= self.limits.nodes {
            return Err(Errno(libc::ENFILE));
        }
        let place = match self.held < self.limits.descriptors / 2 {
            true => Place::Held(Arc::new(place)),
            false => self.without_descriptor(share, &file, place)?,
        };
        self.held += usize::from(matches!(place, Place::Held(_)));
        let id = self.next;
        self.next += 1;
        let node = Node {
            place,
            share,
            file,
            kind: attributes.mode & libc::S_IFMT,
            references: 1,
        };
        self.nodes.insert(id, node);
        self.by_file.insert((share, file), id);
        Ok((id, shown))
    }

    /// A way to find a place again, if its file system has one and this process may use it.
    fn without_descriptor(
        &self,
        share: usize,
        file: &Identity,
        place: OwnedFd,
    ) -> Answer<Place> {
        if let Some(Export {
            mount: Some((mount, number)),
            ..
        }) = self.shares.get(share)
            && *number == file.mount
            && let Ok(handle) = host::file_handle(place.as_fd())
            && host::open_handle(mount, &handle).is_ok()
        {
            return Ok(Place::Found(handle));
        }
        // The other half is for open files and locks; three quarters may go to nodes when there is no other way.
        match self.held < self.limits.descriptors / 4 * 3 {
            true => Ok(Place::Held(Arc::new(place))),
            false => Err(Errno(libc::ENFILE)),
        }
    }

    /// The guest forgets that it was told of a node so many times; true when it does not know of it any more.
    pub(super) fn forget(&mut self, id: u64, times: u64) -> bool {
        if id < FIRST_SHARE + self.shares.len() as u64 {
            return false;
        }
        let Some(node) = self.nodes.get_mut(&id) else {
            return false;
        };
        node.references = node.references.saturating_sub(times);
        if node.references > 0 {
            return false;
        }
        if let Some(node) = self.nodes.remove(&id) {
            self.held -= usize::from(matches!(node.place, Place::Held(_)));
            let key = (node.share, node.file);
            if self.by_file.get(&key) == Some(&id) {
                self.by_file.remove(&key);
            }
        }
        true
    }
}
