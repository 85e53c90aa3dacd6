//! The host's side of a guest's network device, in a network namespace where nobody else is.

use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

/// Requests of linux/if_tun.h.
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;

/// Runs a test in a thread that has a network namespace of its own; false, said aloud, where it may have none.
pub(crate) fn in_a_network(test: impl FnOnce() + Send + 'static) {
    let outcome = thread::spawn(|| {
        // SAFETY: unshare takes a number, and changes the calling thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let why = io::Error::last_os_error();
            return eprintln!("skipped: no right to make network namespaces: {why}");
        }
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl<T>(fd: i32, number: u64, mut argument: T) {
    // SAFETY: the callers here pass the structure that the request takes.
    let outcome = unsafe { libc::ioctl(fd, number, &raw mut argument) };
    assert_eq!(outcome, 0, "{number:#x}: {}", io::Error::last_os_error());
}

/// A tap that is up, with an address in a network of 256.
pub(crate) fn tap(name: &str, host: [u8; 4], mtu: u16) -> OwnedFd {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    let mut wanted = request(name);
    wanted.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    ioctl(tap.as_raw_fd(), TUNSETIFF, wanted);
    ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ, 12i32);

    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = |bytes: [u8; 4]| {
        // SAFETY: sockaddr is plain data.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::AF_INET as u16;
        for (to, from) in address.sa_data[2..].iter_mut().zip(bytes) {
            *to = from as libc::c_char;
        }
        address
    };
    let mut wanted = request(name);
    wanted.ifr_ifru.ifru_addr = address(host);
    ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, wanted);
    wanted.ifr_ifru.ifru_netmask = address([255, 255, 255, 0]);
    ioctl(socket.as_raw_fd(), libc::SIOCSIFNETMASK, wanted);
    wanted.ifr_ifru.ifru_mtu = mtu.into();
    ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, wanted);
    wanted.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, wanted);
    tap.into()
}

/// Connects as soon as the guest listens.
pub(crate) fn call(address: [u8; 4], port: u16) -> TcpStream {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        match TcpStream::connect((Ipv4Addr::from(address), port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}
