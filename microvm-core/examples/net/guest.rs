//! The guest's side: does what it is told over one connection.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;

/// How much one system call moves at most.
pub(crate) const PIECE: usize = 256 << 10;

/// What the host asks for: one of these bytes, and a count in eight.
pub(crate) const SEND: u8 = b's';
pub(crate) const RECEIVE: u8 = b'r';
pub(crate) const ANSWER: u8 = b'a';

/// Bytes of which no part is like another, so that one that is missing or out of place shows.
pub(crate) fn noise() -> Vec<u8> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(PIECE)
    .collect()
}

/// Sends so many bytes: the noise, over and over.
pub(crate) fn send(stream: &mut TcpStream, noise: &[u8], bytes: u64) -> std::io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let count = left.min(noise.len() as u64);
        stream.write_all(&noise[..count as usize])?;
        left -= count;
    }
    Ok(())
}

/// Receives so many bytes; whether they were what [`send`] sends.
pub(crate) fn receive(
    stream: &mut TcpStream,
    noise: &[u8],
    buffer: &mut [u8],
    bytes: u64,
) -> std::io::Result<bool> {
    let (mut at, mut same) = (0, true);
    while at < bytes {
        let offset = (at % noise.len() as u64) as usize;
        let most = (noise.len() - offset).min((bytes - at) as usize);
        let got = stream.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        same &= buffer[..got] == noise[offset..offset + got];
        at += got as u64;
    }
    Ok(same)
}

/// Calls the host, and serves it until it hangs up.
pub(crate) fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (noise, mut buffer) = (noise(), vec![0; PIECE]);
    let mut command = [0; 9];
    loop {
        match stream.read_exact(&mut command) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let [what, count @ ..] = command;
        let count = u64::from_le_bytes(count);
        match what {
            SEND => send(&mut stream, &noise, count)?,
            RECEIVE => {
                let same = receive(&mut stream, &noise, &mut buffer, count)?;
                stream.write_all(&[u8::from(same)])?;
            }
            ANSWER => {
                let mut byte = [0];
                for _ in 0..count {
                    stream.read_exact(&mut byte)?;
                    stream.write_all(&byte)?;
                }
            }
            other => return Err(format!("no command is {other:#x}").into()),
        }
    }
}
