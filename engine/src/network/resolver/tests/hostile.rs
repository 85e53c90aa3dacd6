//! A resolver that is sent anything goes on resolving.

use std::io::{Read, Write};
use std::net::TcpStream;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

#[test]
fn no_datagram_ends_the_resolver() {
    let (_resolver, address) = start(&[]);
    let client = client(address);
    let mut runner = TestRunner::new(Config::with_cases(2000));
    let last = std::cell::Cell::new(0);
    runner
        .run(&messages::hostile(), |message| {
            client.send(&message).unwrap();
            let id = 60_000 + (last.get() + 1) % 1000;
            last.set(id - 60_000);
            // A good one after it: whatever the bad one brought comes first, and is bounded.
            client.send(&query(id, "web", A, None)).unwrap();
            loop {
                let reply = receive(&client);
                prop_assert!(reply.len() <= 1232);
                if word(&reply, 0) == id && code(&reply) == 0 {
                    return Ok(());
                }
            }
        })
        .unwrap();
}

#[test]
fn no_upstream_reply_ends_the_resolver() {
    let upstream = UdpSocket::bind(own_address()).unwrap();
    upstream.set_read_timeout(Some(LONG)).unwrap();
    let (_resolver, address) = start(&[upstream.local_addr().unwrap()]);
    let client = client(address);
    let mut runner = TestRunner::new(Config::with_cases(500));
    runner
        .run(
            &(messages::hostile(), any::<bool>()),
            |(message, guessed)| {
                let asked = query(1, "example.com", A, Some(4096));
                client.send(&asked).unwrap();
                let mut buffer = [0; 512];
                let (count, from) = upstream.recv_from(&mut buffer).unwrap();
                let mut lie = message;
                if guessed && lie.len() > 4 {
                    lie[..2].copy_from_slice(&buffer[..2]);
                    lie[2] |= 0x80;
                }
                upstream.send_to(&lie, from).unwrap();
                // Refused when the lie was taken for a reply, and its socket is closed.
                let _ = upstream.send_to(&reply_to(&buffer[..count], [1, 2, 3, 4]), from);
                let reply = receive(&client);
                prop_assert!(reply.len() <= 4096 && word(&reply, 0) == 1);
                Ok(())
            },
        )
        .unwrap();
}

#[test]
fn no_stream_ends_the_resolver() {
    let (_resolver, address) = start(&[]);
    let mut runner = TestRunner::new(Config::with_cases(300));
    let pieces = prop::collection::vec((messages::hostile(), any::<bool>()), 1..5);
    runner
        .run(&pieces, |pieces| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            for (message, framed) in pieces {
                if framed {
                    let _ = stream.write_all(&(message.len() as u16).to_be_bytes());
                }
                let _ = stream.write_all(&message);
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.take(1 << 20).read_to_end(&mut Vec::new());
            let reply = exchange(address, &query(1, "web", A, None));
            prop_assert_eq!(addresses(&reply), [WEB]);
            Ok(())
        })
        .unwrap();
}
