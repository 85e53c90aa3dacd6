//! Work over TCP, and the other side of it: a server that answers what `rr` and `stream` send, and echoes datagrams.
//!
//! A connection begins with one byte that says what it is for. `rr` sends messages of 64 bytes and waits for each to come
//! back; `stream` sends blocks of 128 KiB and waits, at the end, for the number of bytes that the other side has counted.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::args::Args;
use crate::clock::Stopwatch;

/// What a connection is for.
const ECHO: u8 = b'e';
const COUNT: u8 = b'c';

/// A request and its response, bytes.
const MESSAGE: usize = 64;

/// A block of a stream, bytes; iperf3's default too.
const BLOCK: usize = 128 << 10;

/// How long anything may take before the other side counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(args: &mut Args<'_>, purpose: u8) -> Result<TcpStream, String> {
    let peer = args.text("peer").ok_or("it needs peer=ADDRESS:PORT")?;
    args.finish()?;
    let open = || -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(peer)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[purpose])?;
        Ok(stream)
    };
    open().map_err(|error| format!("{peer}: {error}"))
}

/// A request of 64 bytes and its response, one after another on one connection.
pub(crate) fn rr(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let mut stream = connect(args, ECHO)?;
    let mut sent = [0; MESSAGE];
    let mut back = [0; MESSAGE];
    let mut turn = |number: u64| -> Result<(), String> {
        sent[..8].copy_from_slice(&number.to_le_bytes());
        stream
            .write_all(&sent)
            .and_then(|()| stream.read_exact(&mut back))
            .map_err(|error| format!("a request was not answered: {error}"))?;
        match back == sent {
            true => Ok(()),
            false => Err("an answer is not what was asked".to_owned()),
        }
    };
    // The connection, and the first buffers on either side, are not part of it.
    turn(u64::MAX)?;
    watch.time(|| (0..iterations).try_for_each(&mut turn))?;
    Ok(0)
}

/// Blocks of 128 KiB, one way.
pub(crate) fn stream(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let mut stream = connect(args, COUNT)?;
    let block = vec![0x5a; BLOCK];
    let sent = iterations * BLOCK as u64;
    let mut counted = [0; 8];
    watch.time(|| {
        (0..iterations)
            .try_for_each(|_| stream.write_all(&block))
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write))
            .and_then(|()| stream.read_exact(&mut counted))
            .map_err(|error| format!("the stream broke: {error}"))
    })?;
    match u64::from_le_bytes(counted) {
        counted if counted == sent => Ok(0),
        counted => Err(format!("{sent} bytes were sent and {counted} arrived")),
    }
}

/// Answers on a port, TCP and UDP, for ever, or until the input ends. Says `ready` when it does.
pub(crate) fn serve(port: u16, until_eof: bool) -> Result<(), String> {
    let failed = |error| format!("port {port}: {error}");
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(failed)?;
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(failed)?;
    std::thread::spawn(move || echo_datagrams(&datagrams));
    if until_eof {
        std::thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
    }
    println!("ready");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // Whoever goes away in the middle has no more to ask.
            let _ = answer(stream);
        });
    }
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    loop {
        if let Ok((bytes, from)) = socket.recv_from(&mut datagram)
            && let Some(heard) = datagram.get(..bytes)
        {
            let _ = socket.send_to(heard, from);
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut purpose = [0];
    stream.read_exact(&mut purpose)?;
    match purpose {
        [ECHO] => loop {
            let mut message = [0; MESSAGE];
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        },
        [COUNT] => {
            let mut block = vec![0; BLOCK];
            let mut counted = 0_u64;
            loop {
                match stream.read(&mut block)? {
                    0 => return stream.write_all(&counted.to_le_bytes()),
                    bytes => counted += bytes as u64,
                }
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream);
            }
        });
        address
    }

    #[test]
    fn requests_are_answered_and_streams_counted() {
        let peer = format!("peer={}", server());
        let mut watch = Stopwatch::default();
        let mut args = Args::parse([peer.as_str()].into_iter()).unwrap();
        assert_eq!(rr(100, &mut args, &mut watch), Ok(0));
        let mut args = Args::parse([peer.as_str()].into_iter()).unwrap();
        assert_eq!(stream(50, &mut args, &mut watch), Ok(0));
    }

    #[test]
    fn a_peer_that_is_not_there_is_named() {
        let mut args = Args::parse(["peer=127.0.0.1:1"].into_iter()).unwrap();
        let said = rr(1, &mut args, &mut Stopwatch::default()).unwrap_err();
        assert!(said.contains("127.0.0.1:1"), "{said}");
        let mut args = Args::parse(std::iter::empty()).unwrap();
        assert!(rr(1, &mut args, &mut Stopwatch::default()).is_err());
    }
}
