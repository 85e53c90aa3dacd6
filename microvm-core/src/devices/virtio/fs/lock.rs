//! Locks: those of the guest's processes are locks on the host, so that they hold against other machines and containers.
//!
//! A POSIX lock belongs to a process, an flock(2) lock to an open file. On the host both belong to an open file, so each
//! owner that the guest names has one of its own for each node it locks: POSIX locks are taken there as open file
//! description locks, and given up as a whole by closing it.

use std::collections::BTreeMap;
use std::fs::File;

use super::host;
use super::wire::{Answer, Errno, Fields, LOCK_FLOCK, Put};

/// Whose lock it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) node: u64,
    pub(super) kind: Kind,
    pub(super) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Posix,
    Flock,
}

/// A lock that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) owner: Owner,
    start: u64,
    end: u64,
    mode: i32,
}

impl Wanted {
    /// Takes a struct fuse_lk_in apart.
    pub(super) fn parse(node: u64, mut fields: Fields<'_>) -> Answer<Self> {
        fields.skip(8)?; // the file's handle: the owner says enough
        let number = fields.u64()?;
        let (start, end, mode) = (fields.u64()?, fields.u64()?, fields.u32()?);
        fields.skip(4)?; // the process: it means nothing here
        let kind = match fields.u32()? & LOCK_FLOCK {
            0 => Kind::Posix,
            _ => Kind::Flock,
        };
        let mode = i32::try_from(mode).map_err(|_| Errno(libc::EINVAL))?;
        let known = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK].contains(&mode);
        if !known || start > end || end > i64::MAX as u64 {
            return Err(Errno(libc::EINVAL));
        }
        Ok(Self {
            owner: Owner { node, kind, number },
            start,
            end,
            mode,
        })
    }

    pub(super) fn unlocks(&self) -> bool {
        self.mode == libc::F_UNLCK
    }

    fn whole(&self) -> bool {
        self.start == 0 && self.end == i64::MAX as u64
    }

    fn raw(&self) -> libc::flock {
        // SAFETY: flock is plain numbers; all zeros is a value, and the OFD commands want the process's ID to be zero.
        let mut raw: libc::flock = unsafe { std::mem::zeroed() };
        raw.l_type = self.mode as i16;
        raw.l_whence = libc::SEEK_SET as i16;
        raw.l_start = self.start as i64;
        raw.l_len = match self.end == i64::MAX as u64 {
            true => 0,
            false => (self.end - self.start + 1) as i64,
        };
        raw
    }
}

/// The locks' files.
#[derive(Debug, Default)]
pub(super) struct Locks(BTreeMap<Owner, File>);

impl Locks {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has(&self, owner: &Owner) -> bool {
        self.0.contains_key(owner)
    }

    /// Takes the owner's file, with which it can lock from now on.
    pub(super) fn add(&mut self, owner: Owner, file: File) {
        self.0.insert(owner, file);
    }

    /// Locks or unlocks, without waiting: EAGAIN when somebody else's lock is in the way.
    pub(super) fn set(&mut self, wanted: &Wanted) -> Answer<()> {
        let Some(file) = self.0.get(&wanted.owner) else {
            // Who has no file has no lock.
            return match wanted.unlocks() {
                true => Ok(()),
                false => Err(Errno(libc::ENOLCK)),
            };
        };
        if wanted.unlocks() && (wanted.owner.kind == Kind::Flock || wanted.whole()) {
            self.0.remove(&wanted.owner);
            return Ok(());
        }
        let set = match wanted.owner.kind {
            Kind::Posix => host::lock_range(file, libc::F_OFD_SETLK, &mut wanted.raw()),
            Kind::Flock if wanted.mode == libc::F_RDLCK => host::lock_whole(file, libc::LOCK_SH),
            Kind::Flock => host::lock_whole(file, libc::LOCK_EX),
        };
        match set {
            Err(Errno(libc::EACCES)) => Err(Errno(libc::EAGAIN)),
            other => other,
        }
    }

    /// What is in a lock's way, as a struct fuse_lk_out.
    pub(super) fn ask(&self, wanted: &Wanted, out: &mut Vec<u8>) -> Answer<()> {
        let file = self.0.get(&wanted.owner).ok_or(Errno(libc::ENOLCK))?;
        let mut raw = wanted.raw();
        host::lock_range(file, libc::F_OFD_GETLK, &mut raw)?;
        let end = match raw.l_len {
            0 => i64::MAX,
            length => raw.l_start.saturating_add(length - 1),
        };
        out.put_u64(raw.l_start as u64);
        out.put_u64(end as u64);
        out.put_u32(raw.l_type as u32);
        // The host's number of a process means nothing in the guest.
        out.put_u32(0);
        Ok(())
    }

    /// Gives up everything of one owner.
    pub(super) fn release(&mut self, owner: &Owner) {
        self.0.remove(owner);
    }

    /// Gives up everything on a node.
    pub(super) fn forget(&mut self, node: u64) {
        let from = |node| Owner {
            node,
            kind: Kind::Posix,
            number: 0,
        };
        let of_node: Vec<Owner> = self
            .0
            .range(from(node)..from(node.saturating_add(1)))
            .map(|(owner, _)| *owner)
            .collect();
        of_node.iter().for_each(|owner| drop(self.0.remove(owner)));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
