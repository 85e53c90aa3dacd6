//! The control channel: a virtio-console port, found by its name, and the frames on it.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;

use guest_protocol::{
    Decoder, HEADER, MAX_DATA, MAX_TO_GUEST, PORT_NAME, Stream, ToGuest, ToHost, header,
};

use crate::failure::{Context, Failure};
use crate::rootfs;
use crate::sys::file::{self, Poll};
use crate::sys::{Errno, Fd, mount, time};

/// How long the host has to offer the port: many times what the slowest host needs (kvm_pvm, seconds).
const PATIENCE_NS: u64 = 60_000_000_000;

/// How long to sleep before looking for the port again.
const LOOK_AGAIN_NS: u64 = 1_000_000;

pub(crate) struct Channel {
    port: Fd,
    decoder: Decoder,
    /// What could not be written at once. While there is any, nothing new is made (see [`Channel::clear`]).
    unsent: Vec<u8>,
    sent: usize,
    /// Something was sent, so the host has been there.
    met: bool,
    /// The host was there and is no more.
    gone: bool,
    /// A frame with a stream's bytes is read into place here and written from here.
    frame: Vec<u8>,
}

/// What [`Channel::take`] found.
pub(crate) enum Taken<'a> {
    Message(ToGuest<'a>),
    /// No whole message has come yet.
    Nothing,
    /// Nobody is at the other end any more.
    HostGone,
}

impl Channel {
    /// Mounts devtmpfs and finds the port, which the kernel may still be about to add.
    pub(crate) fn open() -> Result<Self, Failure> {
        mount::mount(c"dev", c"/dev", c"devtmpfs", 0, c"").or_fail(|| "mount devtmpfs on /dev")?;
        let devices =
            file::open(c"/dev", libc::O_RDONLY | libc::O_DIRECTORY).or_fail(|| "open /dev")?;
        let give_up = time::now() + PATIENCE_NS;
        loop {
            if let Some(port) = find_port(&devices)? {
                return Ok(Self::new(port));
            }
            if time::now() > give_up {
                return Err(Failure::config(format!(
                    "there is no virtio-console port named {PORT_NAME}: the guest's kernel may lack CONFIG_VIRTIO_CONSOLE or \
                     CONFIG_VIRTIO_MMIO"
                )));
            }
            time::sleep(LOOK_AGAIN_NS);
        }
    }

    /// A channel over a descriptor that does not block.
    #[cfg(test)]
    pub(crate) fn over(port: Fd) -> Self {
        Self::new(port)
    }

    fn new(port: Fd) -> Self {
        Self {
            port,
            decoder: Decoder::new(MAX_TO_GUEST),
            unsent: Vec::new(),
            sent: 0,
            met: false,
            gone: false,
            frame: alloc::vec![0; HEADER + MAX_DATA],
        }
    }

    /// Whether everything that was sent is with the host, so that more may be made.
    pub(crate) fn clear(&self) -> bool {
        self.unsent.is_empty()
    }

    /// The entry to poll with.
    pub(crate) fn watch(&self) -> Poll {
        let writing = if self.clear() { 0 } else { libc::POLLOUT };
        file::watch(&self.port, libc::POLLIN | writing)
    }

    /// Waits until there may be something to take.
    pub(crate) fn wait(&mut self) -> Result<(), Failure> {
        file::poll(&mut [self.watch()]).or_fail(|| "wait for the host")?;
        self.flush()
    }

    /// The next message, read from the port when none is held.
    pub(crate) fn take(&mut self) -> Result<Taken<'_>, Failure> {
        // Asked twice because a frame borrows the decoder: first whether one is whole.
        if !self.decoder.ready().map_err(not_ours)? {
            match file::read(&self.port, self.decoder.space()) {
                // Also what a port reads as that the host has not opened yet.
                Ok(0) if !self.met => {
                    time::sleep(LOOK_AGAIN_NS);
                    return Ok(Taken::Nothing);
                }
                Ok(0) => {
                    self.gone = true;
                    return Ok(Taken::HostGone);
                }
                Ok(count) => self.decoder.received(count),
                Err(Errno(libc::EAGAIN | libc::EINTR)) => return Ok(Taken::Nothing),
                Err(errno) => return Err(Failure::system("read from the host", errno)),
            }
        }
        match self.decoder.next().map_err(not_ours)? {
            Some(frame) => Ok(Taken::Message(ToGuest::parse(&frame).map_err(not_ours)?)),
            None => Ok(Taken::Nothing),
        }
    }

    /// Whether a whole message is held, for which [`Channel::take`] need not read.
    pub(crate) fn holds_message(&self) -> bool {
        matches!(self.decoder.ready(), Ok(true))
    }

    /// Sends a message, now or as soon as the host takes it.
    pub(crate) fn send(&mut self, message: &ToHost<'_>) -> Result<(), Failure> {
        message.encode(&mut self.unsent);
        self.flush()
    }

    /// Reads at most `most` bytes of a process's stream and sends them: `Ok(None)` when there is nothing now, `Ok(Some(0))` at the
    /// stream's end. To be called only when the channel is [clear](Channel::clear).
    pub(crate) fn forward(
        &mut self,
        channel: u32,
        stream: Stream,
        from: &Fd,
        most: usize,
    ) -> Result<Option<usize>, Failure> {
        let room = self.frame.len().min(HEADER + most);
        let Some(space) = self.frame.get_mut(HEADER..room) else {
            return Ok(None);
        };
        let count = match file::read(from, space) {
            Ok(0) => return Ok(Some(0)),
            Ok(count) => count,
            Err(Errno(libc::EAGAIN | libc::EINTR)) => return Ok(None),
            // A terminal's master reads so when the last process has closed the other side.
            Err(Errno(libc::EIO)) => return Ok(Some(0)),
            Err(errno) => return Err(Failure::system("read the process's output", errno)),
        };
        self.frame[..HEADER].copy_from_slice(&header(stream.kind(), channel, count));
        let whole = HEADER + count;
        let sent = match file::write(&self.port, &self.frame[..whole]) {
            Ok(sent) => sent,
            Err(Errno(libc::EAGAIN | libc::EINTR)) => 0,
            Err(errno) => return Err(Failure::system("write to the host", errno)),
        };
        self.unsent
            .extend_from_slice(&self.frame[sent.min(whole)..whole]);
        Ok(Some(count))
    }

    /// Writes what is unsent, as far as the host takes it now.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        while self.sent < self.unsent.len() {
            match file::write(&self.port, &self.unsent[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.met = true;
                }
                Err(Errno(libc::EINTR)) => {}
                Err(Errno(libc::EAGAIN)) => return Ok(()),
                Err(errno) => return Err(Failure::system("write to the host", errno)),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// Sends the last message and waits until the host has taken it: on a blocking port Linux's driver returns only when the
    /// device has consumed the buffer.
    pub(crate) fn last(&mut self, message: &ToHost<'_>) {
        if self.gone {
            return;
        }
        message.encode(&mut self.unsent);
        // There is nobody left to tell when this fails, and the machine's end says the same.
        let _ = file::set_nonblocking(&self.port, false);
        let _ = self.flush();
    }
}

fn not_ours(error: impl core::fmt::Display) -> Failure {
    Failure::config(format!("the host sent {error}"))
}

/// Looks through /dev for the port. A single one is taken without asking for its name, which spares a mount of sysfs.
fn find_port(devices: &Fd) -> Result<Option<Fd>, Failure> {
    let mut ports: Vec<CString> = Vec::new();
    file::rewind(devices).or_fail(|| "list /dev")?;
    file::names(devices, |name| {
        if name.starts_with(b"vport") {
            ports.extend(CString::new(name).ok());
        }
    })
    .or_fail(|| "list /dev")?;
    let name = match ports.len() {
        0 => return Ok(None),
        1 => ports.pop(),
        _ => named_port(ports)?,
    };
    let Some(name) = name else {
        return Ok(None);
    };
    let mut path = b"/dev/".to_vec();
    path.extend_from_slice(name.as_bytes_with_nul());
    let path = CString::from_vec_with_nul(path).unwrap_or_default();
    file::open(&path, libc::O_RDWR | libc::O_NONBLOCK)
        .map(Some)
        .or_fail(|| format!("open {}", path.to_string_lossy()))
}

/// The port among several whose name in sysfs is [`PORT_NAME`].
fn named_port(ports: Vec<CString>) -> Result<Option<CString>, Failure> {
    match rootfs::mount_making(c"sysfs", c"/sys", c"sysfs", 0, c"") {
        // Busy: it is mounted since the last time.
        Ok(()) | Err(Errno(libc::EBUSY)) => {}
        Err(errno) => return Err(Failure::system("mount sysfs on /sys", errno)),
    }
    for port in ports {
        let path = format!("/sys/class/virtio-ports/{}/name", port.to_string_lossy());
        let Ok(path) = CString::new(path) else {
            continue;
        };
        let mut name = [0u8; 64];
        let length =
            file::open(&path, libc::O_RDONLY).and_then(|file| file::read(&file, &mut name));
        if length.is_ok_and(|length| name[..length].trim_ascii_end() == PORT_NAME.as_bytes()) {
            return Ok(Some(port));
        }
    }
    Ok(None)
}
