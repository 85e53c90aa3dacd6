//! What is answered without asking anybody.

use super::*;

#[test]
fn a_name_of_an_instance_gives_its_address_under_the_client_s_spelling() {
    let (_resolver, address) = start(&[]);
    for name in ["web", "wEb", "WEB.net"] {
        let asked = query(7, name, A, None);
        let reply = exchange(address, &asked);
        assert_eq!(word(&reply, 0), 7);
        // A response, authoritative, recursion desired and available, no error.
        assert_eq!(word(&reply, 2), 0x8580);
        assert_eq!(reply[12..asked.len()], asked[12..]);
        assert_eq!(addresses(&reply), [WEB]);
        assert_eq!(
            reply[asked.len() + 6..][..4],
            [0, 0, 0, 1],
            "seconds to keep it"
        );
    }
}

#[test]
fn other_types_of_a_known_name_are_no_error_and_nothing() {
    let (_resolver, address) = start(&[]);
    for kind in [AAAA, TXT, PTR] {
        let reply = exchange(address, &query(1, "web", kind, None));
        assert_eq!((code(&reply), word(&reply, 6)), (0, 0), "{kind}");
    }
}

#[test]
fn a_shared_name_gives_all_addresses_in_turns() {
    let (_resolver, address) = start(&[]);
    let mut first = Vec::new();
    for _ in 0..3 {
        // Another shared name in between does not disturb the order.
        exchange(address, &query(1, "many", A, None));
        let mut found = addresses(&exchange(address, &query(1, "shared", A, None)));
        first.push(found[0]);
        found.sort();
        assert_eq!(found, [2, 3, 4].map(|n| Ipv4Addr::new(10, 1, 0, n)));
    }
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 3);
}

#[test]
fn an_address_of_the_network_has_a_name() {
    let (_resolver, address) = start(&[]);
    let asked = query(1, "2.0.1.10.IN-addr.arpa", PTR, None);
    let reply = exchange(address, &asked);
    assert_eq!((code(&reply), word(&reply, 6)), (0, 1));
    assert_eq!(reply[asked.len()..][..4], [0xc0, 12, 0, 12]);
    assert_eq!(reply[asked.len() + 10..], *b"\0\x09\x03web\x03net\0");
    // That of another is nobody's.
    let reply = exchange(address, &query(1, "3.0.1.10.in-addr.arpa", PTR, None));
    assert_eq!(code(&reply), 2);
}

#[test]
fn edns_is_answered_with_edns() {
    let (_resolver, address) = start(&[]);
    let mut asked = query(1, "web", A, Some(4096));
    let at = asked.len() - 4;
    asked[at] = 0x80;
    let reply = exchange(address, &asked);
    assert_eq!(addresses(&reply), [WEB]);
    let opt = &reply[reply.len() - 11..];
    assert_eq!(opt, [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    // Another version is one that nobody has (RFC 6891, section 6.1.3).
    asked[at - 1] = 1;
    let reply = exchange(address, &asked);
    let opt = &reply[reply.len() - 11..];
    assert_eq!((code(&reply), word(&reply, 6), opt[5]), (0, 0, 1));
}

#[test]
fn what_does_not_fit_a_datagram_is_marked() {
    let (_resolver, address) = start(&[]);
    for (size, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(700), 700),
        (Some(9000), 1232),
    ] {
        let reply = exchange(address, &query(1, "many", A, size));
        assert!(is_truncated(&reply));
        assert!(
            reply.len() <= limit && reply.len() > limit - 28,
            "{}",
            reply.len()
        );
        assert!(!addresses(&reply).is_empty());
    }
    assert!(!is_truncated(&exchange(
        address,
        &query(1, "shared", A, None)
    )));
}

#[test]
fn without_upstream_servers_a_single_label_is_no_name_and_others_fail() {
    let (_resolver, address) = start(&[]);
    assert_eq!(code(&exchange(address, &query(1, "nobody", A, None))), 3);
    let reply = exchange(address, &query(1, "example.com", A, None));
    assert_eq!(code(&reply), 2);
}

#[test]
fn what_is_no_plain_query_is_refused_by_its_kind() {
    let (_resolver, address) = start(&[]);
    let with = |at: usize, value: u8| {
        let mut message = query(9, "web", A, None);
        message[at] = value;
        exchange(address, &message)
    };
    // An UPDATE, two questions, an answer in a query, a pointer for a name.
    assert_eq!(code(&with(2, 0x28)), 4);
    assert_eq!(code(&with(5, 2)), 1);
    assert_eq!(code(&with(7, 1)), 1);
    assert_eq!(code(&with(12, 0xc0)), 1);
    // A transfer, another class.
    assert_eq!(code(&exchange(address, &query(1, "web", 252, None))), 5);
    assert_eq!(code(&with(20, 3)), 5);
    // Too long.
    let mut long = query(1, "web", A, None);
    long.resize(600, 0);
    assert_eq!(exchange(address, &long)[..4], [0, 1, 0x81, 0x81]);
}

#[test]
fn replies_are_never_answered() {
    let (_resolver, address) = start(&[]);
    let client = client(address);
    let mut reply = query(1, "web", A, None);
    reply[2] |= 0x80;
    client.send(&reply).unwrap();
    client.send(b"short").unwrap();
    client.send(&query(2, "web", A, None)).unwrap();
    assert_eq!(word(&receive(&client), 0), 2);
}

#[test]
fn strangers_are_refused() {
    let address = own_address();
    let stranger = *own_address().ip();
    let names = Names {
        stranger: Some(stranger),
        ..Names::default()
    };
    let _resolver = Resolver::start(address, names).unwrap();
    let client = client_at(stranger, address);
    client.send(&query(1, "web", A, None)).unwrap();
    let reply = receive(&client);
    assert_eq!((code(&reply), reply.len()), (5, 12));
}

#[test]
fn one_of_two_resolvers_goes_and_names_are_still_resolved() {
    let (first, address) = start(&[]);
    let second = Resolver::start(address, Names::default()).unwrap();
    // Each of these has a port of its own, by which the kernel chooses.
    let all_answered = || {
        for id in 0..40 {
            let reply = exchange(address, &query(id, "web", A, None));
            assert_eq!((word(&reply, 0), addresses(&reply)), (id, vec![WEB]));
        }
    };
    all_answered();
    drop(first);
    all_answered();
    let first = Resolver::start(address, Names::default()).unwrap();
    drop(second);
    all_answered();
    drop(first);
    let client = client(address);
    // Nobody is there any more: the kernel says so.
    let refused = client
        .send(&query(1, "web", A, None))
        .and_then(|_| client.recv(&mut [0; 512]));
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn an_address_that_another_server_has_is_named() {
    let address = own_address();
    let _other = UdpSocket::bind(address).unwrap();
    let error = Resolver::start(address, Names::default()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_fork_that_drops_its_copy_stops_nothing() {
    let (resolver, address) = start(&[]);
    // SAFETY: the child only drops a value, which closes a descriptor and frees memory, and ends without destructors.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            drop(resolver);
            libc::_exit(0);
        }
        child
    };
    let mut status = 1;
    // SAFETY: the kernel writes one number.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    let reply = exchange(address, &query(1, "web", A, None));
    assert_eq!(addresses(&reply), [WEB]);
}

#[test]
fn a_fork_that_lives_on_keeps_no_queries_from_the_other_resolvers() {
    let (resolver, address) = start(&[]);
    let _other = Resolver::start(address, Names::default()).unwrap();
    // SAFETY: the child only waits to be killed, if need be with the thread of this test.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
        child
    };
    drop(resolver);
    let replies: Vec<_> = (0..40)
        .map(|id| exchange(address, &query(id, "web", A, None)))
        .collect();
    let connections: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(address))
        .collect();
    // SAFETY: the child is this process's own, and not waited for yet.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    for reply in replies {
        assert_eq!(addresses(&reply), [WEB]);
    }
    assert!(connections.iter().all(Result::is_ok));
}
