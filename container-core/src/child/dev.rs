//! The container's /dev: devices, links, and the terminal.

use std::ffi::CStr;

use super::report::{At, Message, Outcome, Step};
use super::{ChildStdio, HERE, Setup};
use crate::plan::devices::{DEFAULT_DEVICES, DEFAULT_LINKS, DevicePlan};
use crate::plan::mounts::Inside;
use crate::sys::file::{self, RESOLVE_IN_ROOT};
use crate::sys::{self, Errno, Fd, mount, tty};

/// The kernel's memory, to which /dev/core leads.
const KCORE: &CStr = c"/proc/kcore";

/// What is there already stays: a mount of the specification may have put it there.
fn or_there(made: sys::Result<()>) -> sys::Result<()> {
    match made {
        Err(Errno(libc::EEXIST)) => Ok(()),
        other => other,
    }
}

/// Makes a file to mount something on.
fn make_file(directory: Fd, name: &CStr) -> sys::Result<()> {
    or_there(file::mknodat(directory, name, libc::S_IFREG | 0o644, 0))
}

impl Setup<'_> {
    fn open_dev(&self) -> sys::Result<Fd> {
        file::openat2(
            self.root,
            c"dev",
            libc::O_PATH | libc::O_DIRECTORY,
            0,
            RESOLVE_IN_ROOT,
        )
    }

    /// Makes the devices and links that every container has.
    pub(super) fn make_default_devices(&self) -> Outcome<()> {
        if !self.plan.own_dev {
            return Ok(());
        }
        let dev = self.open_dev().at(Step::DefaultDevice)?;
        for (index, device) in DEFAULT_DEVICES.iter().enumerate() {
            let made = if self.plan.namespaces.has_user() {
                // Making nodes is denied in a user namespace: the host's are bound.
                make_file(dev, device.name).and_then(|()| bind(dev, device.name, device.host))
            } else {
                let number = libc::makedev(device.major, device.minor);
                or_there(file::mknodat(
                    dev,
                    device.name,
                    libc::S_IFCHR | 0o666,
                    number,
                ))
            };
            made.at_index(Step::DefaultDevice, index)?;
        }
        for (index, (name, to)) in DEFAULT_LINKS.iter().enumerate() {
            // Not every kernel has its memory as a file, and without it the link would lead nowhere.
            if *to == KCORE && file::fstatat(HERE, KCORE, 0).is_err() {
                continue;
            }
            or_there(file::symlinkat(to, dev, name)).at_index(Step::DefaultLink, index)?;
        }
        file::close(dev);
        Ok(())
    }

    /// Makes the devices of the specification.
    pub(super) fn make_devices(&self) -> Outcome<()> {
        for (index, device) in self.plan.devices.iter().enumerate() {
            self.make_device(device).at_index(Step::Device, index)?;
        }
        Ok(())
    }

    fn make_device(&self, device: &DevicePlan) -> sys::Result<()> {
        if let Some(host) = &device.host {
            let target = self.make_target(&device.target, false)?;
            let tree = mount::clone_tree(HERE, host, false)?;
            return mount::attach(tree, target);
        }
        let (directory, name) = self.open_parent(&device.target)?;
        match file::mknodat(directory, name, device.mode, device.device) {
            Err(Errno(libc::EEXIST)) => {
                // One of the default devices, listed again: the specification's own wins.
                file::unlinkat(directory, name)?;
                file::mknodat(directory, name, device.mode, device.device)?;
            }
            other => other?,
        }
        file::lchownat(directory, name, device.uid, device.gid)?;
        if directory != self.root {
            file::close(directory);
        }
        Ok(())
    }

    /// Opens the directory of a path below the root, making what is missing of it.
    fn open_parent<'p>(&self, path: &'p Inside) -> sys::Result<(Fd, &'p CStr)> {
        let Some(parent) = path.ancestors.last() else {
            return Ok((self.root, &path.path));
        };
        for ancestor in &path.ancestors {
            self.make_directory(ancestor)?;
        }
        let directory = file::openat2(
            self.root,
            parent,
            libc::O_PATH | libc::O_DIRECTORY,
            0,
            RESOLVE_IN_ROOT,
        )?;
        let name = path
            .path
            .to_bytes_with_nul()
            .get(parent.as_bytes().len() + 1..);
        let name = name
            .and_then(|name| CStr::from_bytes_with_nul(name).ok())
            .ok_or(Errno(libc::EINVAL))?;
        Ok((directory, name))
    }

    /// Opens a terminal of the container's own devpts, sends its master to the launcher and keeps its slave for the
    /// standard streams. The window has its size before anything can ask for it.
    pub(super) fn open_terminal(&mut self, rows: u16, columns: u16) -> Outcome<()> {
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        let master = file::openat2(self.root, c"dev/pts/ptmx", flags, 0, RESOLVE_IN_ROOT)
            .at(Step::Terminal)?;
        // What a running container has there need not be the multiplexer (admin-guide/devices.txt).
        let stat = file::fstat(master).at(Step::Terminal)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(5, 2) {
            return self.fail(Step::Terminal, 0, libc::ENOTTY);
        }
        tty::unlock(master).at(Step::Terminal)?;
        if rows != 0 && columns != 0 {
            tty::set_size(master, rows, columns).at(Step::Terminal)?;
        }
        let slave = tty::slave(master).at(Step::Terminal)?;
        // The user's processes must be able to open it by name (/dev/tty aside); the group stays devpts' own.
        file::fchown(slave, self.plan.process.uid, None).at(Step::Terminal)?;
        if self.plan.own_dev {
            self.mount_console(slave).at(Step::Console)?;
        }
        Message::Terminal
            .send(self.socket, Some(master))
            .at(Step::Terminal)?;
        file::close(master);
        tty::make_controlling(slave).at(Step::Terminal)?;
        self.stdio = ChildStdio::Descriptors([slave; 3]);
        Ok(())
    }

    fn mount_console(&self, slave: Fd) -> sys::Result<()> {
        let dev = self.open_dev()?;
        make_file(dev, c"console")?;
        let target = file::openat(dev, c"console", libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        let tree = mount::clone_tree(slave, c"", false)?;
        mount::attach(tree, target)?;
        file::close(tree);
        file::close(target);
        file::close(dev);
        Ok(())
    }
}

fn bind(directory: Fd, name: &CStr, host: &CStr) -> sys::Result<()> {
    let tree = mount::clone_tree(HERE, host, false)?;
    let target = file::openat(directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    mount::attach(tree, target)?;
    file::close(tree);
    file::close(target);
    Ok(())
}
