//! Streams, limits, user and rights: what the process has and may do when the command starts.

use std::convert::Infallible;

use super::report::{At, Message, Outcome, Step};
use super::{ChildStdio, Gate, Setup};
use crate::plan::process::CapabilityPlan;
use crate::sys::credentials::{self, Sets};
use crate::sys::{self, Errno, Fd, file, process};

/// The numbers of capabilities end where the kernel says EINVAL; there are fewer than 64 (capabilities(7)).
const CAPABILITY_BITS: u32 = 64;

impl Setup<'_> {
    /// Puts the standard streams in their places and closes every other descriptor but the socket.
    pub(super) fn open_streams_and_close_the_rest(&self) -> Outcome<()> {
        let ChildStdio::Descriptors(mut streams) = self.stdio else {
            // A terminal was opened with the root file system.
            return self.fail(Step::Stdio, 0, libc::ENOTTY);
        };
        // A stream may sit where another one must go: those are moved out of the way first.
        for (to, stream) in streams.iter_mut().enumerate() {
            if *stream < 3 && *stream != to as i32 {
                *stream = file::dup_above(*stream, 3).at(Step::Stdio)?;
            }
        }
        for (to, from) in streams.into_iter().enumerate() {
            if from == to as i32 {
                file::clear_close_on_exec(from).at(Step::Stdio)?;
            } else {
                file::dup2(from, to as i32).at(Step::Stdio)?;
            }
            self.give_pipe_to_user(to as i32)?;
        }
        for kept in 3..3 + self.preserve {
            match file::clear_close_on_exec(kept) {
                // Nothing there: nothing to pass on.
                Ok(()) | Err(Errno(libc::EBADF)) => {}
                Err(errno) => return Err(errno).at(Step::Stdio),
            }
        }
        self.close_all_but_ours().at(Step::Stdio)
    }

    /// Closes everything from the first descriptor that the command does not get, but the socket and the gate.
    fn close_all_but_ours(&self) -> sys::Result<()> {
        let gate = match self.gate {
            Gate::Listener(listener) => listener,
            _ => self.socket,
        };
        let (low, high) = (self.socket.min(gate), self.socket.max(gate));
        file::close_range(3 + self.preserve, low - 1)?;
        file::close_range(low + 1, high - 1)?;
        file::close_range(high + 1, i32::MAX)
    }

    /// A user other than root must be able to open /dev/stdout again, which needs the right on the pipe itself.
    fn give_pipe_to_user(&self, stream: i32) -> Outcome<()> {
        if self.plan.process.uid == 0 {
            return Ok(());
        }
        let mode = file::fstat(stream).at(Step::Stdio)?.st_mode & libc::S_IFMT;
        if mode != libc::S_IFIFO {
            return Ok(());
        }
        match file::fchown(stream, self.plan.process.uid, None) {
            // Someone else's pipe, seen from a user namespace: it works as it is, opened once.
            Ok(()) | Err(Errno(libc::EPERM | libc::EINVAL | libc::EROFS)) => Ok(()),
            Err(errno) => Err(errno).at(Step::Stdio),
        }
    }

    /// Becomes the user of the specification and executes the command.
    pub(super) fn take_identity_and_run(&mut self) -> Outcome<Infallible> {
        let plan = &self.plan.process;
        for (index, limit) in plan.limits.iter().enumerate() {
            process::set_limit(limit.resource, limit.soft, limit.hard)
                .at_index(Step::Limit, index)?;
        }
        if let Some(scheduler) = &plan.scheduler {
            process::set_scheduler(scheduler).at(Step::Scheduler)?;
        }
        if let Some(policy) = &plan.memory_policy {
            process::set_memory_policy(policy).at(Step::MemoryPolicy)?;
        }
        if let Some(priority) = plan.io_priority {
            process::set_io_priority(priority).at(Step::IoPriority)?;
        }
        if let Some(persona) = plan.personality {
            process::set_personality(persona).at(Step::Personality)?;
        }
        // Root may enter directories that the user may not, as with runc; where even root is shut out, the user tries.
        let entered = self.enter_working_directory();
        // With all rights, so that no file can hide from the check; the file itself cannot change between here and
        // the call, for nothing of the container runs yet.
        self.refuse_own_program()?;

        if self.keeps_rights() {
            credentials::keep_capabilities().at(Step::Capabilities)?;
        }
        credentials::set_groups(&plan.groups).at(Step::Groups)?;
        credentials::set_group(plan.gid).at(Step::Group)?;
        credentials::set_user(plan.uid).at(Step::User)?;
        // The change of user made the process what fs.suid_dumpable says, and forgot who its parent is.
        credentials::make_undumpable().at(Step::User)?;
        if self.tied {
            credentials::set_parent_death_signal(libc::SIGKILL).at(Step::User)?;
        }
        if entered.is_err() {
            self.enter_working_directory()?;
        }
        process::set_umask(plan.umask);

        if plan.no_new_privileges {
            credentials::set_no_new_privileges().at(Step::NoNewPrivileges)?;
        }
        // Loading a filter takes CAP_SYS_ADMIN unless no_new_privs is set, so that it comes before the last rights go,
        // and as late as it can: whatever follows must pass the filter.
        self.regain_effective()?;
        let ready = Message::Ready {
            rootfs: self.rootfs_at,
            network: self.network_at,
        };
        if self.gate != Gate::Open {
            self.check_command()?;
        }
        ready.send(self.socket, None).at(Step::Launcher)?;
        self.wait_at_gate()?;
        process::reset_signals();
        // PID 1 of the container must not lose a signal that comes before it listens.
        if !self.init {
            process::unblock_signals();
        }
        if let Some(filter) = &plan.filter {
            let loaded =
                credentials::load_filter(filter.program(), filter.flags()).at(Step::Filter)?;
            if filter.notifies() {
                // The launcher takes it to who answers; from here on a call of ours may be one to be answered.
                let listener = loaded as Fd;
                Message::Listener
                    .send(self.socket, Some(listener))
                    .at(Step::Filter)?;
                file::close(listener);
            }
        }
        match &plan.capabilities {
            Some(capabilities) => self.limit_to(capabilities)?,
            // Without a word about rights, a change of user loses them, as it does everywhere.
            None if plan.uid != 0 && self.keeps_rights() => {
                credentials::set_capabilities(Sets::default()).at(Step::Capabilities)?;
            }
            None => {}
        }
        if self.init {
            self.stay_as_init()?;
        }
        self.execute()
    }

    fn enter_working_directory(&self) -> Outcome<()> {
        file::chdir(&self.plan.process.absolute_cwd).at(Step::WorkingDirectory)?;
        // A link in the image may lead to a directory that is only open here, on the host (CVE-2024-21626).
        if file::working_directory_is_inside().at(Step::WorkingDirectory)? {
            Ok(())
        } else {
            self.fail(Step::WorkingDirectory, 0, libc::EPERM)
        }
    }

    /// Takes everything out of the bounding set that the specification does not name. What the process holds itself
    /// stays with it.
    pub(super) fn bound(&self) -> Outcome<()> {
        let Some(plan) = &self.plan.process.capabilities else {
            return Ok(());
        };
        for number in 0..CAPABILITY_BITS {
            if plan.bounding & (1 << number) != 0 {
                continue;
            }
            match credentials::drop_bounding(number) {
                Ok(()) => {}
                // The last capability of this kernel is behind us.
                Err(Errno(libc::EINVAL)) => break,
                Err(errno) => {
                    // What this root does not have in the first place needs no dropping.
                    if credentials::is_bounding(number) != Ok(false) {
                        return Err(errno).at(Step::Capabilities);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether rights are needed beyond the change of user: to choose among them, or to load the filter.
    fn keeps_rights(&self) -> bool {
        self.plan.process.capabilities.is_some() || self.plan.process.filter.is_some()
    }

    /// A change of user emptied the effective set; the permitted one was kept.
    fn regain_effective(&self) -> Outcome<()> {
        if self.plan.process.uid == 0 || !self.keeps_rights() {
            return Ok(());
        }
        let mut sets = credentials::capabilities().at(Step::Capabilities)?;
        sets.effective = sets.permitted;
        credentials::set_capabilities(sets).at(Step::Capabilities)
    }

    /// The rights of the specification, less those that this host's root does not have itself.
    fn limit_to(&self, plan: &CapabilityPlan) -> Outcome<()> {
        let held = credentials::capabilities().at(Step::Capabilities)?;
        let permitted = plan.permitted & held.permitted;
        let sets = Sets {
            permitted,
            effective: plan.effective & permitted,
            // Only what is permitted or held already may become inheritable (capabilities(7)).
            inheritable: plan.inheritable & (held.inheritable | held.permitted) & plan.bounding,
        };
        credentials::set_capabilities(sets).at(Step::Capabilities)?;
        match credentials::clear_ambient() {
            Ok(()) => {}
            Err(errno) if plan.ambient != 0 => return Err(errno).at(Step::Capabilities),
            // A filter may deny it; the set is empty after the change of user anyway.
            Err(_) => {}
        }
        for number in 0..CAPABILITY_BITS {
            if plan.ambient & sets.permitted & sets.inheritable & (1 << number) != 0 {
                credentials::raise_ambient(number).at(Step::Capabilities)?;
            }
        }
        Ok(())
    }

    /// Ends the set-up with the errno of a call of [`sys`].
    pub(super) fn refuse<T>(&self, refusal: super::report::Refusal, errno: Errno) -> Outcome<T> {
        sys::Result::<T>::Err(errno).at_index(Step::Execute, refusal as usize)
    }
}
