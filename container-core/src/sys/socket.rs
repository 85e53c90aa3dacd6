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
