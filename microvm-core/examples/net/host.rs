//! The host's side: its network, and what is measured.

use std::error::Error;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use microvm_core::Substrate;

use crate::guest;

/// Leaves the host's network for one that has nothing in it.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: unshare takes a number, and this process has one thread so far.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl<T>(fd: &impl AsRawFd, number: libc::Ioctl, mut argument: T) -> io::Result<()> {
    // SAFETY: the callers here pass the structure that the request takes.
    match unsafe { libc::ioctl(fd.as_raw_fd(), number, &raw mut argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A tap with an address in a network of 24 bits, which is up.
pub(crate) fn tap(name: &str, address: [u8; 4]) -> io::Result<OwnedFd> {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut wanted = request(name);
    wanted.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    ioctl(&tap, libc::TUNSETIFF, wanted)?;
    ioctl(&tap, libc::TUNSETVNETHDRSZ, 12i32)?;

    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let internet = |bytes: [u8; 4]| {
        // SAFETY: sockaddr is plain data.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::AF_INET as u16;
        for (to, from) in address.sa_data[2..].iter_mut().zip(bytes) {
            *to = from as libc::c_char;
        }
        address
    };
    wanted.ifr_ifru.ifru_addr = internet(address);
    ioctl(&socket, libc::SIOCSIFADDR, wanted)?;
    wanted.ifr_ifru.ifru_netmask = internet([255, 255, 255, 0]);
    ioctl(&socket, libc::SIOCSIFNETMASK, wanted)?;
    wanted.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    ioctl(&socket, libc::SIOCSIFFLAGS, wanted)?;
    Ok(tap.into())
}

/// How much a round moves.
pub(crate) struct Amount {
    bytes: u64,
    requests: u64,
}

impl Amount {
    /// Some seconds' worth.
    pub(crate) fn on(substrate: &Substrate) -> Self {
        let number = |name: &str, otherwise| {
            std::env::var(name)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(otherwise)
        };
        let (mib, requests) = match substrate.is_hardware() {
            true => (1024, 20_000),
            false => (4, 100),
        };
        Self {
            bytes: number("MIB", mib) << 20,
            requests: number("REQUESTS", requests),
        }
    }
}

/// What one round has come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// MiB a second from the guest to the host, and the other way.
    up: f64,
    down: f64,
    /// Requests answered a second.
    requests: f64,
    /// Microseconds of the device's thread for each MiB up and down, and for each request.
    cost: [f64; 3],
}

impl Figures {
    pub(crate) fn median(all: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let costs: [fn(&Self) -> f64; 3] =
            [|one| one.cost[0], |one| one.cost[1], |one| one.cost[2]];
        Self {
            cost: costs.map(middle),
            up: middle(|one| one.up),
            down: middle(|one| one.down),
            requests: middle(|one| one.requests),
        }
    }

    /// How many times the others these are.
    pub(crate) fn ratio(&self, other: &Self) -> String {
        let cost: [f64; 3] = std::array::from_fn(|what| self.cost[what] / other.cost[what]);
        format!(
            "guest to host {:.2}, host to guest {:.2}, requests {:.2}; cost {:.2}, {:.2}, {:.2}",
            self.up / other.up,
            self.down / other.down,
            self.requests / other.requests,
            cost[0],
            cost[1],
            cost[2]
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            up,
            down,
            requests,
            cost: [up_cost, down_cost, request_cost],
        } = self;
        write!(
            f,
            "guest to host {up:8.2} MiB/s ({up_cost:.0} us each), host to guest {down:8.2} MiB/s ({down_cost:.0} us each), \
             {requests:8.1} requests/s ({request_cost:.0} us each)"
        )
    }
}

fn ask(stream: &mut TcpStream, what: u8, count: u64) -> io::Result<()> {
    let [a, b, c, d, e, f, g, h] = count.to_le_bytes();
    stream.write_all(&[what, a, b, c, d, e, f, g, h])
}

/// What the thread that serves the device has taken of a processor so far, in microseconds: our monitor's by its name,
/// and QEMU's first thread.
fn spent(monitor: i32) -> io::Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir(format!("/proc/{monitor}/task"))? {
        let task = task?;
        let name = std::fs::read_to_string(task.path().join("comm"))?;
        let is_first = task.file_name().to_str() == Some(&monitor.to_string());
        if name.trim() == "network" || is_first && name.starts_with("qemu") {
            // Its first number is the time on a processor in nanoseconds (Documentation/scheduler/sched-stats.rst).
            let text = std::fs::read_to_string(task.path().join("schedstat"))?;
            let first = text.split(' ').next().and_then(|word| word.parse().ok());
            nanoseconds += first.unwrap_or(f64::NAN);
        }
    }
    Ok(nanoseconds / 1000.0)
}

/// Measures once, with the machine whose monitor this process is.
pub(crate) fn round(
    stream: &mut TcpStream,
    monitor: i32,
    amount: &Amount,
) -> Result<Figures, Box<dyn Error>> {
    let start = spent(monitor)?;
    let (noise, mut buffer) = (guest::noise(), vec![0; guest::PIECE]);
    let mib = amount.bytes as f64 / f64::from(1 << 20);

    let begun = Instant::now();
    ask(stream, guest::SEND, amount.bytes)?;
    let same = guest::receive(stream, &noise, &mut buffer, amount.bytes)?;
    let up = mib / begun.elapsed().as_secs_f64();
    let after_up = spent(monitor)?;

    let begun = Instant::now();
    ask(stream, guest::RECEIVE, amount.bytes)?;
    guest::send(stream, &noise, amount.bytes)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let down = mib / begun.elapsed().as_secs_f64();
    let after_down = spent(monitor)?;
    if !same || byte != [1] {
        return Err("bytes did not arrive as they were sent".into());
    }

    let begun = Instant::now();
    ask(stream, guest::ANSWER, amount.requests)?;
    for number in 0..amount.requests {
        stream.write_all(&[number as u8])?;
        stream.read_exact(&mut byte)?;
        if byte != [number as u8] {
            return Err("another answer than the one to this request came".into());
        }
    }
    let requests = amount.requests as f64;
    let per_second = requests / begun.elapsed().as_secs_f64();
    Ok(Figures {
        up,
        down,
        requests: per_second,
        cost: [
            (after_up - start) / mib,
            (after_down - after_up) / mib,
            (spent(monitor)? - after_down) / requests,
        ],
    })
}
