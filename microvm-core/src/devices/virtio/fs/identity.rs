//! As whom the server acts on the host: files belong to the guest's user who makes them.
//!
//! The guest's kernel decides who may do what (its mount has `default_permissions`, since it alone knows groups and
//! capabilities), so the server keeps its power over permissions. What it gives up is the power that changes what a call
//! means: with CAP_FSETID a write would leave set-user-ID bits where they are.

use std::marker::PhantomData;

use super::wire::{Answer, Errno};

/// CAP_SETGID, CAP_SETUID, CAP_FSETID: linux/capability.h.
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const FSETID: u32 = 4;

/// _LINUX_CAPABILITY_VERSION_3: linux/capability.h.
const VERSION_3: u32 = 0x2008_0522;

/// Effective, permitted and inheritable capabilities, low and high half.
type Sets = [[u32; 3]; 2];

/// Who the server is by itself.
#[derive(Debug)]
pub(super) struct Identity {
    uid: u32,
    gid: u32,
    capabilities: Sets,
}

/// Until this is dropped, the thread acts as somebody else.
#[derive(Debug)]
pub(super) struct Acting<'a> {
    back_to: Option<&'a Identity>,
    ids: bool,
    // What is changed is the thread's.
    _thread: PhantomData<*const ()>,
}

impl Identity {
    /// Who this thread is.
    pub(super) fn own() -> Self {
        let mut capabilities = [[0; 3]; 2];
        let header = [VERSION_3, 0];
        // SAFETY: the kernel reads a header of two words and writes two structures of three words, as this version has;
        // geteuid and getegid take nothing.
        unsafe {
            libc::syscall(
                libc::SYS_capget,
                header.as_ptr(),
                capabilities.as_mut_ptr(),
            );
            Self {
                uid: libc::geteuid(),
                gid: libc::getegid(),
                capabilities,
            }
        }
    }

    fn can(&self, capability: u32) -> bool {
        self.capabilities[0][0] >> capability & 1 == 1
    }

    /// Makes what follows belong to this user and group. A server that has no power to do so stays who it is: then
    /// everything belongs to whoever runs the machine.
    pub(super) fn act_as(&self, uid: u32, gid: u32) -> Answer<Acting<'_>> {
        let itself = (uid, gid) == (self.uid, self.gid);
        if itself || !self.can(SETUID) || !self.can(SETGID) {
            return Ok(Acting::unchanged());
        }
        let acting = Acting {
            back_to: Some(self),
            ids: true,
            _thread: PhantomData,
        };
        set_ids(uid, gid);
        if current_ids() != (uid, gid) {
            return Err(Errno(libc::EINVAL));
        }
        // A change of user takes the power over permissions with it.
        self.without_fsetid()?;
        Ok(acting)
    }

    /// Makes what follows take set-user-ID and set-group-ID bits as for anybody.
    pub(super) fn act_unprivileged(&self) -> Answer<Acting<'_>> {
        if !self.can(FSETID) {
            return Ok(Acting::unchanged());
        }
        self.without_fsetid()?;
        Ok(Acting {
            back_to: Some(self),
            ids: false,
            _thread: PhantomData,
        })
    }

    fn without_fsetid(&self) -> Answer<()> {
        let mut sets = self.capabilities;
        sets[0][0] &= !(1 << FSETID);
        set_capabilities(&sets)
    }
}

impl Acting<'_> {
    fn unchanged() -> Self {
        Self {
            back_to: None,
            ids: false,
            _thread: PhantomData,
        }
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        if let Some(identity) = self.back_to {
            if self.ids {
                set_ids(identity.uid, identity.gid);
            }
            // It only gives back what was permitted all the time, so that it cannot fail.
            let _ = set_capabilities(&identity.capabilities);
        }
    }
}

/// Sets the IDs that count for files, of this thread alone: the raw calls do not go to the others.
fn set_ids(uid: u32, gid: u32) {
    // SAFETY: both take a number.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

/// An ID that cannot be set changes nothing, and the present one comes back.
fn current_ids() -> (u32, u32) {
    // SAFETY: both take a number.
    unsafe {
        (
            libc::syscall(libc::SYS_setfsuid, u32::MAX) as u32,
            libc::syscall(libc::SYS_setfsgid, u32::MAX) as u32,
        )
    }
}

fn set_capabilities(sets: &Sets) -> Answer<()> {
    let header = [VERSION_3, 0];
    // SAFETY: the kernel reads a header of two words and two structures of three words, as this version has.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}
