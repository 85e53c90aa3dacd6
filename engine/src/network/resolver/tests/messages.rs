//! Reading and writing messages.

use proptest::prelude::*;

use super::super::message::{Answer, Match, Rcode, Received, encode, read, refuse, reversed};
use super::*;

fn parsed(message: &[u8]) -> super::super::message::Query {
    match read(message) {
        Received::Query(query) => query,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_bounded() {
    let label = "a".repeat(63);
    // Three such labels, one of 61 and five lengths: 255 bytes.
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    let message = query(1, &longest, A, None);
    assert_eq!(parsed(&message).name(&message).unwrap(), longest);
    assert_eq!(encode(&format!("{longest}a")), None);
    assert_eq!(encode("a..b"), None);
    // One byte more, put there by hand.
    let mut message = message;
    message[12 + 3 * 64] += 1;
    message.insert(12 + 3 * 64 + 1, b'a');
    assert_eq!(read(&message), Received::Bad(Rcode::FORMAT));
}

#[test]
fn names_with_bytes_that_no_instance_has_are_not_looked_up() {
    for byte in [b'.', b'/', b' ', 0, 0x80] {
        let mut message = query(1, "web", A, None);
        message[14] = byte;
        assert_eq!(parsed(&message).name(&message), None);
    }
    let mut message = query(1, "web", A, None);
    message.drain(12..16);
    assert_eq!(parsed(&message).name(&message), None, "the root");
}

#[test]
fn only_addresses_in_reverse_are_reversed() {
    let address = Some(Ipv4Addr::new(1, 2, 3, 4));
    assert_eq!(reversed("4.3.2.1.in-addr.arpa"), address);
    for name in [
        "3.2.1.in-addr.arpa",
        "256.3.2.1.in-addr.arpa",
        "4.3.2.1",
        "x.4.3.2.1.in-addr.arpa",
    ] {
        assert_eq!(reversed(name), None, "{name}");
    }
}

#[test]
fn a_second_opt_and_rests_are_malformed() {
    let mut message = query(1, "web", A, Some(1232));
    message.push(0);
    assert_eq!(read(&message), Received::Bad(Rcode::FORMAT));
    message.pop();
    let opt = message[message.len() - 11..].to_vec();
    message.extend(opt);
    message[11] = 2;
    assert_eq!(read(&message), Received::Bad(Rcode::FORMAT));
}

#[test]
fn a_reply_counts_with_id_and_question() {
    let asked = query(5, "Example.com", A, None);
    let parsed = parsed(&asked);
    let judge = |reply: &[u8]| parsed.is_answered_by(&asked, 9, reply);
    let mut reply = reply_to(&asked, [1, 2, 3, 4]);
    assert_eq!(judge(&reply), Match::No, "another id");
    reply[1] = 9;
    assert_eq!(judge(&reply), Match::Yes(Rcode::NO_ERROR));
    let mut other = reply.clone();
    other[13] = b'e';
    assert_eq!(judge(&other), Match::Yes(Rcode::NO_ERROR), "another case");
    assert_eq!(
        parsed.pass_on(&asked, other, 512)[..asked.len()][12..],
        asked[12..]
    );
    let mut other = reply.clone();
    other[14] = b'a';
    assert_eq!(judge(&other), Match::No, "another name");
    let mut other = reply.clone();
    other[12 + 13 + 1] = 28;
    assert_eq!(judge(&other), Match::No, "another type");
    let mut other = reply.clone();
    other[2] &= 0x7f;
    assert_eq!(judge(&other), Match::No, "a query");
    let mut header = reply[..12].to_vec();
    header[3..8].copy_from_slice(&[0x81, 0, 0, 0, 0]);
    assert_eq!(judge(&header), Match::Failed(Rcode::FORMAT));
}

/// Bytes that are nearly a query: a good one with some bytes changed, cut or appended.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let name = "[a-zA-Z0-9_-]{1,63}(\\.[a-z]{1,20}){0,3}";
    let size = prop::option::of(any::<u16>());
    let rest = prop::collection::vec(any::<u8>(), 0..20);
    (
        name,
        any::<u16>(),
        size,
        changes,
        rest,
        any::<prop::sample::Index>(),
    )
        .prop_map(|(name, kind, size, changes, rest, cut)| {
            let mut message = query(1, &name, kind, size);
            for (at, value) in changes {
                let length = message.len();
                message[at.index(length)] = value;
            }
            if rest.len() < 10 {
                message.extend(rest);
            } else if rest.len() < 14 {
                message.truncate(cut.index(message.len()));
            }
            message
        })
}

pub(super) fn hostile() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..600), nearly()]
}

proptest! {
    #[test]
    fn whatever_comes_is_read_and_answered_within_bounds(
        message in hostile(),
        reply in hostile(),
        limit in 512..5000_usize,
        count in 0..400_usize,
        first in any::<usize>(),
    ) {
        prop_assert!(refuse(&message, Rcode::FORMAT).len() == 12);
        if let Received::Query(query) = read(&message) {
            let name = query.name(&message).unwrap_or_default();
            prop_assert!(name.len() < 256);
            let addresses = vec![WEB; count];
            let made = query.answer(&message, Rcode::NO_ERROR, Answer::Addresses(&addresses, first), limit);
            prop_assert!(made.len() <= limit);
            prop_assert_eq!(is_truncated(&made), usize::from(word(&made, 6)) < count);
            query.is_answered_by(&message, word(&message, 0), &reply);
            prop_assert!(query.pass_on(&message, reply, limit).len() <= limit);
        }
    }

    #[test]
    fn a_query_s_own_reply_answers_it(message in hostile(), id in any::<u16>()) {
        if let Received::Query(query) = read(&message) {
            let mut made = query.answer(&message, Rcode::REFUSED, Answer::Nothing, 512);
            made[..2].copy_from_slice(&id.to_be_bytes());
            prop_assert_eq!(query.is_answered_by(&message, id, &made), Match::Yes(Rcode::REFUSED));
        }
    }
}
