//! Queries by TCP.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::super::server::{CLIENTS_EACH, CLIENTS_MAX};
use super::*;

fn connect(resolver: SocketAddrV4) -> TcpStream {
    let stream = TcpStream::connect(resolver).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    bytes
}

fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).unwrap();
    message
}

/// Whether the other side closes the connection without a word.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        Err(e) => e.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn several_queries_go_by_one_connection_however_they_are_cut() {
    let (_resolver, address) = start(&[]);
    let mut stream = connect(address);
    let mut all: Vec<u8> = Vec::new();
    for id in 0..5 {
        all.extend(framed(&query(id, "web", A, None)));
    }
    let (first, rest) = all.split_at(1);
    stream.write_all(first).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let (second, rest) = rest.split_at(40);
    stream.write_all(second).unwrap();
    stream.write_all(rest).unwrap();
    // It is done asking, and still gets what it asked for.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    for id in 0..5 {
        let reply = receive(&mut stream);
        assert_eq!((word(&reply, 0), addresses(&reply)), (id, vec![WEB]));
    }
    assert!(is_closed(&mut stream));
}

#[test]
fn what_did_not_fit_a_datagram_comes_whole() {
    let (_resolver, address) = start(&[]);
    let mut stream = connect(address);
    stream
        .write_all(&framed(&query(1, "many", A, None)))
        .unwrap();
    let reply = receive(&mut stream);
    assert!(!is_truncated(&reply));
    assert_eq!(addresses(&reply).len(), 200);
}

#[test]
fn queries_by_tcp_are_forwarded_by_tcp_to_the_server_that_answers() {
    let closed = TcpListener::bind(own_address())
        .unwrap()
        .local_addr()
        .unwrap();
    let liar = TcpListener::bind(own_address()).unwrap();
    let honest = TcpListener::bind(own_address()).unwrap();
    let upstreams = [
        closed,
        liar.local_addr().unwrap(),
        honest.local_addr().unwrap(),
    ];
    let (_resolver, address) = start(&upstreams);
    let answer = |listener: TcpListener, id: u8| {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = receive(&mut stream);
            let mut reply = reply_to(&asked, [1, 2, 3, 4]);
            reply[0] ^= id;
            reply.resize(60_000, 0);
            stream.write_all(&framed(&reply)).unwrap();
            asked
        })
    };
    let threads = [answer(liar, 1), answer(honest, 0)];
    let mut stream = connect(address);
    let asked = query(1, "example.com", A, None);
    stream.write_all(&framed(&asked)).unwrap();
    let reply = receive(&mut stream);
    assert_eq!((word(&reply, 0), reply.len()), (1, 60_000));
    for thread in threads {
        assert_eq!(thread.join().unwrap()[2..], asked[2..]);
    }
    // The connection goes on.
    stream
        .write_all(&framed(&query(2, "web", A, None)))
        .unwrap();
    assert_eq!(addresses(&receive(&mut stream)), [WEB]);
}

#[test]
fn a_connection_that_sends_no_query_is_closed() {
    let (_resolver, address) = start(&[]);
    let mut reply = query(1, "web", A, None);
    reply[2] |= 0x80;
    for noise in [
        framed(&[]),
        framed(&[0; 600]),
        framed(b"short"),
        framed(&reply),
    ] {
        let mut stream = connect(address);
        stream.write_all(&noise).unwrap();
        assert!(is_closed(&mut stream));
    }
}

#[test]
fn strangers_connections_are_closed() {
    let address = own_address();
    let names = Names {
        stranger: Some(*address.ip()),
        ..Names::default()
    };
    let _resolver = Resolver::start(address, names).unwrap();
    assert!(is_closed(&mut connect(address)));
}

#[test]
fn silence_and_dribbling_end_a_connection() {
    let (_resolver, address) = start(&[]);
    let (mut silent, mut dribbling) = (connect(address), connect(address));
    let mut bytes = framed(&query(1, "web", A, None)).into_iter();
    dribbling
        .set_read_timeout(Some(Duration::from_millis(250)))
        .unwrap();
    let ended = (0..30).any(|_| {
        let _ = dribbling.write_all(&[bytes.next().unwrap()]);
        match dribbling.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(e) => e.kind() != ErrorKind::WouldBlock,
        }
    });
    assert!(ended);
    assert!(is_closed(&mut silent));
}

#[test]
fn a_reader_that_does_not_read_is_dropped_and_holds_up_nobody() {
    let (_resolver, address) = start(&[]);
    let mut slow = connect(address);
    slow.set_nonblocking(true).unwrap();
    let asked = framed(&query(1, "many", A, None));
    // Until nothing goes in any more: the resolver waits for replies to be read before it reads on.
    let mut idle = 0;
    while idle < 10 {
        match slow.write(&asked) {
            Ok(_) => idle = 0,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => panic!("{e}"),
        }
    }
    let mut other = connect(address);
    other.write_all(&framed(&query(2, "web", A, None))).unwrap();
    assert_eq!(addresses(&receive(&mut other)), [WEB]);
    let start = std::time::Instant::now();
    let dropped = loop {
        match slow.write(&asked) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Ok(_) => {}
            Err(_) => break true,
        }
        if start.elapsed() > LONG {
            break false;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(dropped);
}

#[test]
fn the_oldest_of_too_many_connections_goes_and_each_instance_has_its_share() {
    let (_resolver, address) = start(&[]);
    let works = |stream: &mut TcpStream| {
        stream.write_all(&framed(&query(1, "web", A, None))).is_ok()
            && stream.read_exact(&mut [0; 2]).is_ok()
            && stream.read_exact(&mut [0; 37]).is_ok()
    };
    let connect_from = |from: Ipv4Addr| {
        let family = rustix::net::AddressFamily::INET;
        let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert!(works(&mut stream));
        stream
    };
    let quiet = own_address();
    let mut first = connect_from(*quiet.ip());
    let flooding = *own_address().ip();
    let mut flood: Vec<_> = (0..=CLIENTS_EACH).map(|_| connect_from(flooding)).collect();
    assert!(works(&mut first));
    assert!(is_closed(&mut flood[0]));
    assert!(works(&mut flood[1]));
    // From more instances than have room, the very first goes.
    let others: Vec<_> = (0..CLIENTS_MAX - CLIENTS_EACH)
        .map(|n| {
            let [a, b, c, _] = flooding.octets();
            connect_from(Ipv4Addr::new(a, b, c, 200 + n as u8))
        })
        .collect();
    assert!(is_closed(&mut first));
    drop(others);
}

#[test]
fn a_client_that_is_gone_takes_its_query_with_it() {
    let upstream = TcpListener::bind(own_address()).unwrap();
    let (_resolver, address) = start(&[upstream.local_addr().unwrap()]);
    let mut client = connect(address);
    client
        .write_all(&framed(&query(1, "example.com", A, None)))
        .unwrap();
    let (mut asking, _) = upstream.accept().unwrap();
    asking.set_read_timeout(Some(LONG)).unwrap();
    receive(&mut asking);
    // Unread data at a close makes it a reset, which is how a killed client goes.
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    assert!(is_closed(&mut asking));
}
