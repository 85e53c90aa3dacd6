//! The socket between the launcher and the container's process, and the loopback interface.

use super::{Errno, Fd, Result, check, check_int};

/// A pair of connected sockets that keep the boundaries of messages, close-on-exec.
pub(crate) fn pair() -> Result<[Fd; 2]> {
    let mut pair = [-1; 2];
    // SAFETY: the array holds the two descriptors the call writes.
    check_int(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            pair.as_mut_ptr(),
        )
    })?;
    Ok(pair)
}

/// Room for the header and one descriptor of a control message, aligned as the header wants it.
#[repr(C, align(8))]
struct Control([u8; 32]);

fn control_space() -> usize {
    // SAFETY: arithmetic only.
    let space = unsafe { libc::CMSG_SPACE(size_of::<Fd>() as u32) } as usize;
    debug_assert!(space <= size_of::<Control>());
    space
}

/// Sends one message, with a descriptor when one is given.
pub(crate) fn send(socket: Fd, bytes: &[u8], descriptor: Option<Fd>) -> Result<()> {
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; 32]);
    // SAFETY: the structure is plain integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if let Some(descriptor) = descriptor {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control_space();
        // SAFETY: the control buffer holds a header and one descriptor and is aligned for the header, so the
        // first header exists and its data is ours to write.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<Fd>() as u32) as usize;
            libc::CMSG_DATA(header)
                .cast::<Fd>()
                .write_unaligned(descriptor);
        }
    }
    loop {
        // SAFETY: the message points at buffers that live to the end of this function.
        let sent = unsafe { libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) };
        match check(sent as libc::c_long) {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message: its length (0 when the other side is gone) and the descriptor that came with it.
pub(crate) fn receive(socket: Fd, into: &mut [u8]) -> Result<(usize, Option<Fd>)> {
    let mut part = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let mut control = Control([0; 32]);
    // SAFETY: the structure is plain integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control_space();
    let length = loop {
        // SAFETY: the message points at buffers that live to the end of this function.
        let received = unsafe { libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) };
        match check(received as libc::c_long) {
            Err(Errno(libc::EINTR)) => {}
            other => break other? as usize,
        }
    };
    // SAFETY: the kernel has set the control length; the header, when there is one, lies in our buffer, and a
    // message of SCM_RIGHTS with room for one descriptor holds one.
    let descriptor = unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
        {
            Some(libc::CMSG_DATA(header).cast::<Fd>().read_unaligned())
        } else {
            None
        }
    };
    Ok((length, descriptor))
}

fn address(path: &std::ffi::CStr) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: the structure is plain integers, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.to_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len();
    Ok((address, length as libc::socklen_t))
}

fn socket() -> Result<Fd> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })
}

/// A socket at a path that others connect to; it keeps the boundaries of messages.
pub(crate) fn listen(path: &std::ffi::CStr) -> Result<Fd> {
    let (address, length) = address(path)?;
    let socket = socket()?;
    // SAFETY: the address is as long as we say.
    let bound = check_int(unsafe { libc::bind(socket, (&raw const address).cast(), length) })
        // SAFETY: no memory is passed.
        .and_then(|_| check_int(unsafe { libc::listen(socket, 4) }));
    match bound {
        Ok(_) => Ok(socket),
        Err(errno) => {
            super::file::close(socket);
            Err(errno)
        }
    }
}

/// Connects to a socket of [`listen`].
pub(crate) fn connect(path: &std::ffi::CStr) -> Result<Fd> {
    let (address, length) = address(path)?;
    let socket = socket()?;
    // SAFETY: the address is as long as we say.
    match check_int(unsafe { libc::connect(socket, (&raw const address).cast(), length) }) {
        Ok(_) => Ok(socket),
        Err(errno) => {
            super::file::close(socket);
            Err(errno)
        }
    }
}

/// Takes the next connection.
pub(crate) fn accept(listener: Fd) -> Result<Fd> {
    loop {
        // SAFETY: null pointers ask for no address.
        let accepted = check_int(unsafe {
            libc::accept4(
                listener,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        });
        match accepted {
            Err(Errno(libc::EINTR | libc::ECONNABORTED)) => {}
            other => return other,
        }
    }
}

/// Waits until one of two descriptors can be read: whether the first can, and whether the second can.
pub(crate) fn wait_for_either(first: Fd, second: Fd) -> Result<(bool, bool)> {
    let mut polled = [first, second].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: two structures, ours, and a count of two.
        match check_int(unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) }) {
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
            Ok(_) => {
                let [first, second] = polled.map(|one| one.revents != 0);
                return Ok((first, second));
            }
        }
    }
}

/// Brings the loopback interface of the calling thread's network namespace up (netdevice(7)).
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: no memory is passed.
    let socket = check_int(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: the structure is plain integers in unions, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is the structure this ioctl takes, its name terminated.
    let result = check_int(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &request) });
    super::file::close(socket);
    result.map(drop)
}
