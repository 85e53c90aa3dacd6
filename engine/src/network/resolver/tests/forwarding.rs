//! What the network does not know is asked of upstream servers, which may lie, be late or say nothing.

use std::thread::JoinHandle;

use super::*;

/// An upstream server's socket at an address of its own.
fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(own_address()).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Takes one query, hands it to `answer` with the way back, and returns it with where it came from.
fn once(
    socket: UdpSocket,
    answer: impl FnOnce(&[u8], &dyn Fn(&[u8])) + Send + 'static,
) -> JoinHandle<(Vec<u8>, SocketAddr)> {
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        answer(&buffer[..count], &|reply| {
            socket.send_to(reply, from).unwrap();
        });
        (buffer[..count].to_vec(), from)
    })
}

#[test]
fn a_query_goes_upstream_as_it_came_but_for_its_id() {
    let (socket, upstream) = server();
    let (_resolver, address) = start(&[upstream]);
    let asked = query(77, "eXample.com", A, Some(1400));
    let served = once(socket, |query, send| send(&reply_to(query, [1, 2, 3, 4])));
    let reply = exchange(address, &asked);
    assert_eq!(word(&reply, 0), 77);
    assert_eq!(reply[2..], reply_to(&asked, [1, 2, 3, 4])[2..]);
    let (seen, from) = served.join().unwrap();
    assert_eq!(seen[2..], asked[2..]);
    assert_ne!(from.port(), address.port());
}

#[test]
fn every_query_has_a_port_and_an_id_of_its_own() {
    let (socket, upstream) = server();
    let (_resolver, address) = start(&[upstream]);
    let client = client(address);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        client.send(&query(5, "example.com", A, None)).unwrap();
        let mut buffer = [0; 512];
        let (_, from) = socket.recv_from(&mut buffer).unwrap();
        seen.insert((from.port(), word(&buffer, 0)));
    }
    let ports: std::collections::HashSet<_> = seen.iter().map(|(port, _)| port).collect();
    let ids: std::collections::HashSet<_> = seen.iter().map(|(_, id)| id).collect();
    // Twenty that are outstanding together cannot share a port; by chance they may share an id.
    assert_eq!(ports.len(), 20);
    assert!(ids.len() > 15);
}

#[test]
fn single_labels_go_upstream_too() {
    let (socket, upstream) = server();
    let (_resolver, address) = start(&[upstream]);
    once(socket, |query, send| send(&reply_to(query, [1, 2, 3, 4])));
    let reply = exchange(address, &query(1, "intranet", A, None));
    assert_eq!(addresses(&reply), [Ipv4Addr::new(1, 2, 3, 4)]);
}

#[test]
fn lies_are_passed_over() {
    let (socket, upstream) = server();
    let (liar, _) = server();
    let (_resolver, address) = start(&[upstream]);
    let served = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        let good = reply_to(&buffer[..count], [1, 2, 3, 4]);
        let lie = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut lie = reply_to(&buffer[..count], [6, 6, 6, 6]);
            change(&mut lie);
            socket.send_to(&lie, from).unwrap();
        };
        // Another id, another name, another type, a query, half a header, and the right words from the wrong address.
        lie(&|lie| lie[0] ^= 1);
        lie(&|lie| lie[13] = b'z');
        lie(&|lie| lie[26] = 28);
        lie(&|lie| lie[2] &= 0x7f);
        lie(&|lie| lie.truncate(6));
        liar.send_to(&reply_to(&buffer[..count], [6, 6, 6, 6]), from)
            .unwrap();
        socket.send_to(&good, from).unwrap();
    });
    let reply = exchange(address, &query(1, "example.com", A, None));
    assert_eq!(addresses(&reply), [Ipv4Addr::new(1, 2, 3, 4)]);
    served.join().unwrap();
}

#[test]
fn a_server_that_is_not_there_or_refuses_makes_way_for_the_next() {
    let (gone, nobody) = server();
    drop(gone);
    let (refusing, second) = server();
    let (working, third) = server();
    let (_resolver, address) = start(&[nobody, second, third]);
    once(refusing, |query, send| {
        let mut reply = reply_to(query, [6, 6, 6, 6]);
        reply[3] = 0x85;
        send(&reply);
    });
    once(working, |query, send| send(&reply_to(query, [1, 2, 3, 4])));
    let reply = exchange(address, &query(1, "example.com", A, None));
    assert_eq!(
        (code(&reply), addresses(&reply)),
        (0, vec![Ipv4Addr::new(1, 2, 3, 4)])
    );
}

#[test]
fn a_silent_server_makes_way_and_its_late_reply_does_not_count() {
    let (silent, first) = server();
    let (working, second) = server();
    let (_resolver, address) = start(&[first, second]);
    let client = client(address);
    client.send(&query(3, "example.com", A, None)).unwrap();
    let mut early = [0; 512];
    let (count, from) = silent.recv_from(&mut early).unwrap();
    let late = reply_to(&early[..count], [6, 6, 6, 6]);
    let mut again = [0; 512];
    let (count, back) = working.recv_from(&mut again).unwrap();
    silent.send_to(&late, from).unwrap();
    working
        .send_to(&reply_to(&again[..count], [1, 2, 3, 4]), back)
        .unwrap();
    assert_eq!(addresses(&receive(&client)), [Ipv4Addr::new(1, 2, 3, 4)]);
    client.send(&query(4, "web", A, None)).unwrap();
    assert_eq!(word(&receive(&client), 0), 4, "one reply to one query");
}

#[test]
fn when_all_fail_the_client_is_told() {
    let (gone, nobody) = server();
    drop(gone);
    let (_silent, somebody) = server();
    let asked = query(1, "example.com", A, None);
    for upstreams in [&[nobody][..], &[nobody, somebody]] {
        let (_resolver, address) = start(upstreams);
        let reply = exchange(address, &asked);
        assert_eq!((code(&reply), word(&reply, 6)), (2, 0));
        assert_eq!(reply[12..], asked[12..]);
    }
}

#[test]
fn a_server_s_own_failure_is_passed_on_when_there_is_no_other() {
    let (socket, upstream) = server();
    let (_resolver, address) = start(&[upstream]);
    // Some say no more than a header.
    once(socket, |query, send| {
        send(&[query[0], query[1], 0x81, 0x84, 0, 0, 0, 0, 0, 0, 0, 0]);
    });
    let asked = query(1, "example.com", A, None);
    let reply = exchange(address, &asked);
    assert_eq!((code(&reply), reply.len()), (4, asked.len()));
}

#[test]
fn the_resolver_never_asks_itself() {
    let address = own_address();
    let names = Names {
        upstreams: vec![address.into()],
        stranger: None,
    };
    let _resolver = Resolver::start(address, names).unwrap();
    let reply = exchange(address, &query(1, "example.com", A, None));
    assert_eq!(code(&reply), 2);
}

#[test]
fn a_reply_longer_than_the_client_takes_is_marked() {
    for (padding, size) in [(600, None), (600, Some(512)), (5000, Some(8192))] {
        let (socket, upstream) = server();
        let (_resolver, address) = start(&[upstream]);
        once(socket, move |query, send| {
            let mut reply = reply_to(query, [1, 2, 3, 4]);
            reply.resize(reply.len() + padding, 0);
            send(&reply);
        });
        let asked = query(1, "example.com", A, size);
        let reply = exchange(address, &asked);
        assert!(is_truncated(&reply), "{padding} {size:?}");
        assert_eq!(reply.len(), asked.len());
    }
}

#[test]
fn one_instance_s_flood_leaves_another_s_query_outstanding() {
    let (socket, upstream) = server();
    let (_resolver, address) = start(&[upstream]);
    let take = || {
        let mut buffer = [0; 512];
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        (buffer[..count].to_vec(), from)
    };
    let quiet = client(address);
    quiet.send(&query(1, "example.com", A, None)).unwrap();
    let (asked, back) = take();
    let flood = client_at(*own_address().ip(), address);
    let each = super::super::server::FORWARDS_EACH as u16;
    for id in 0..each + 10 {
        flood
            .send(&query(id, "flood.example.com", A, None))
            .unwrap();
        take();
    }
    // Its own oldest have failed, in turn.
    for id in 0..10 {
        let reply = receive(&flood);
        assert_eq!((word(&reply, 0), code(&reply)), (id, 2));
    }
    socket
        .send_to(&reply_to(&asked, [1, 2, 3, 4]), back)
        .unwrap();
    assert_eq!(addresses(&receive(&quiet)), [Ipv4Addr::new(1, 2, 3, 4)]);
}

#[test]
fn an_outstanding_query_does_not_hold_up_the_end() {
    let (socket, upstream) = server();
    let (resolver, address) = start(&[upstream]);
    let client = client(address);
    client.send(&query(1, "example.com", A, None)).unwrap();
    let (_, from) = socket.recv_from(&mut [0; 512]).unwrap();
    drop(resolver);
    // The socket that asked is closed: its port can be had, once no fork of another test's has a copy.
    let start = std::time::Instant::now();
    while UdpSocket::bind(from).is_err() {
        assert!(start.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(10));
    }
}
