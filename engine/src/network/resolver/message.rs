//! Messages of the domain name system, as far as a resolver that forwards has to understand them (RFC 1035, section 4; RFC 6891
//! for EDNS). Of a query that is the header, one question, and where the other records begin and end; of a reply from upstream
//! the header and the question alone.

use std::net::Ipv4Addr;

/// The header, bytes.
const HEADER: usize = 12;
/// The longest name, with the lengths of its labels (RFC 1035, section 2.3.4), bytes.
const NAME_MAX: usize = 255;
/// The longest label, bytes. A greater length is a compression pointer, or nothing that is in use.
const LABEL_MAX: usize = 63;

/// The longest query that is looked at, bytes: what UDP without EDNS carries. The longest name, an OPT with cookie and client
/// subnet and a padding to 468 bytes (RFC 8467) fit.
pub(super) const QUERY_MAX: usize = 512;
/// The shortest limit that a client may set to replies by UDP (RFC 6891, section 6.2.3), bytes.
pub(super) const DATAGRAM_MIN: u16 = 512;
/// The longest answer of our own by UDP, bytes: it crosses any path in one piece (dnsflagday.net/2020).
pub(super) const DATAGRAM_MAX: u16 = 1232;

/// Seconds for which an answer may be kept. An instance that starts again can have another address, and its old one can be
/// another's at once. That takes about a second, so that nobody is misled for longer than there was nobody to reach. docker's
/// 600 leave programs that keep answers with the wrong address for ten minutes; 0 makes some of them ask for every packet.
const TTL: u32 = 1;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const CHECKING_DISABLED: u16 = 0x0010;
/// The flag of an OPT that says that signatures are wanted; it is copied into replies (RFC 3225, section 3).
const SIGNATURES: u16 = 0x8000;

pub(super) const TYPE_A: u16 = 1;
pub(super) const TYPE_PTR: u16 = 12;
pub(super) const TYPE_ANY: u16 = 255;
const TYPE_OPT: u16 = 41;
/// IXFR, AXFR, MAILB and MAILA: transfers, and what is obsolete.
pub(super) const TYPES_REFUSED: std::ops::RangeInclusive<u16> = 251..=254;
pub(super) const CLASS_IN: u16 = 1;

/// How a reply says what became of the query (RFC 1035, section 4.1.1; the last is EDNS's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rcode(u16);

impl Rcode {
    pub(super) const NO_ERROR: Self = Self(0);
    pub(super) const FORMAT: Self = Self(1);
    pub(super) const FAILURE: Self = Self(2);
    pub(super) const NO_NAME: Self = Self(3);
    pub(super) const NOT_IMPLEMENTED: Self = Self(4);
    pub(super) const REFUSED: Self = Self(5);
    pub(super) const BAD_VERSION: Self = Self(16);
}

/// What EDNS says about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edns {
    /// The longest reply by UDP that it takes, bytes.
    size: u16,
    pub(super) version: u8,
    flags: u16,
}

/// A query that is well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    flags: u16,
    /// Where the question ends, bytes from the message's start.
    end: usize,
    /// How many labels its name has.
    pub(super) labels: usize,
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) edns: Option<Edns>,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing that may be answered: a reply, or too little to have an id.
    Noise,
    /// It gets this, without a look at what it asks.
    Bad(Rcode),
    Query(Query),
}

/// Reads bytes one after another.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    /// Passes over a name and counts its labels. A compression pointer is refused: there is nothing before a query's question
    /// to point to, and in what follows only the owner of an OPT matters, which is the root.
    fn name(&mut self) -> Option<usize> {
        let (start, mut labels) = (self.at, 0);
        loop {
            let length = usize::from(self.u8()?);
            if length == 0 {
                return Some(labels);
            }
            if length > LABEL_MAX {
                return None;
            }
            self.skip(length)?;
            // The byte that ends the name counts too.
            if self.at - start >= NAME_MAX {
                return None;
            }
            labels += 1;
        }
    }
}

/// Reads what a client sent.
pub(super) fn read(message: &[u8]) -> Received {
    let mut cursor = Cursor {
        bytes: message,
        at: 0,
    };
    let mut word = || cursor.u16();
    let (Some(id), Some(flags), Some(questions), Some(answers), Some(authorities), Some(others)) =
        (word(), word(), word(), word(), word(), word())
    else {
        return Received::Noise;
    };
    if flags & RESPONSE != 0 {
        return Received::Noise;
    }
    if flags & OPCODE != 0 {
        return Received::Bad(Rcode::NOT_IMPLEMENTED);
    }
    if questions != 1 || answers != 0 || message.len() > QUERY_MAX {
        return Received::Bad(Rcode::FORMAT);
    }
    match rest(&mut cursor, id, flags, authorities, others) {
        Some(query) => Received::Query(query),
        None => Received::Bad(Rcode::FORMAT),
    }
}

/// The question and the records after it.
fn rest(cursor: &mut Cursor<'_>, id: u16, flags: u16, before: u16, others: u16) -> Option<Query> {
    let labels = cursor.name()?;
    let (kind, class) = (cursor.u16()?, cursor.u16()?);
    let end = cursor.at;
    let mut edns = None;
    // Each record takes eleven bytes of the message at least, so that their number is bounded by its length.
    for index in 0..u32::from(before) + u32::from(others) {
        let owner = cursor.name()?;
        let (record, size) = (cursor.u16()?, cursor.u16()?);
        let (_, version) = (cursor.u8()?, cursor.u8()?);
        let edns_flags = cursor.u16()?;
        let length = cursor.u16()?;
        cursor.skip(length.into())?;
        if record == TYPE_OPT {
            // One, of the root, among the additional records (RFC 6891, section 6.1.1).
            if edns.is_some() || owner != 0 || index < before.into() {
                return None;
            }
            edns = Some(Edns {
                size,
                version,
                flags: edns_flags,
            });
        }
    }
    (cursor.at == cursor.bytes.len()).then_some(Query {
        id,
        flags,
        end,
        labels,
        kind,
        class,
        edns,
    })
}

impl Query {
    /// The longest reply by UDP that the client takes, at most `most` bytes.
    pub(super) fn datagram(&self, most: u16) -> usize {
        let size = self.edns.map_or(DATAGRAM_MIN, |edns| edns.size);
        size.clamp(DATAGRAM_MIN, most).into()
    }

    /// The question of the message that the query was read from: name, type and class, as the client wrote them.
    fn question<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(HEADER..self.end).unwrap_or_default()
    }

    /// The name that is asked for, in lower case and without the final dot; `None` for what no instance is called and what a
    /// directory should not have to think about: the root, and names with other bytes than letters, digits, `-` and `_`.
    pub(super) fn name(&self, message: &[u8]) -> Option<String> {
        let mut name = String::new();
        let mut rest = self.question(message);
        while let Some((&length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
            let (label, after) = after.split_at_checked(length.into())?;
            if !name.is_empty() {
                name.push('.');
            }
            for &byte in label {
                if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                    return None;
                }
                name.push(byte.to_ascii_lowercase().into());
            }
            rest = after;
        }
        Some(name).filter(|name| !name.is_empty())
    }

    /// Whether that reply from upstream is one to this query, asked of it as `id`.
    pub(super) fn is_answered_by(&self, message: &[u8], id: u16, reply: &[u8]) -> Match {
        let mut header = Cursor {
            bytes: reply,
            at: 0,
        };
        let (Some(theirs), Some(flags), Some(questions)) =
            (header.u16(), header.u16(), header.u16())
        else {
            return Match::No;
        };
        if reply.len() < HEADER || theirs != id || flags & (RESPONSE | OPCODE) != RESPONSE {
            return Match::No;
        }
        let code = Rcode(flags & 0xf);
        // Servers that do not understand a query may return its header alone.
        if questions == 0 && reply.len() == HEADER && code != Rcode::NO_ERROR {
            return Match::Failed(code);
        }
        let ours = self.question(message);
        let Some(question) = reply.get(HEADER..self.end).filter(|_| questions == 1) else {
            return Match::No;
        };
        // Some servers change the case of a name; that of type and class is not letters.
        let name = ours.len().saturating_sub(4);
        if question[..name].eq_ignore_ascii_case(&ours[..name]) && question[name..] == ours[name..]
        {
            Match::Yes(code)
        } else {
            Match::No
        }
    }

    /// The reply from upstream as the client gets it: with its own id, and its own way to write the name. One that is longer
    /// than `limit` bytes becomes one that says so.
    pub(super) fn pass_on(&self, message: &[u8], mut reply: Vec<u8>, limit: usize) -> Vec<u8> {
        let Some(start) = reply.get_mut(..self.end).filter(|_| self.end >= HEADER) else {
            return self.answer(message, Rcode::FAILURE, Answer::Nothing, limit);
        };
        start[..2].copy_from_slice(&self.id.to_be_bytes());
        start[HEADER..].copy_from_slice(self.question(message));
        if reply.len() > limit {
            let code = Rcode(u16::from(reply[3] & 0xf));
            return self.answer(message, code, Answer::TooLong, limit);
        }
        reply
    }

    /// A reply of our own of at most `limit` bytes, which are 512 at least.
    pub(super) fn answer(
        &self,
        message: &[u8],
        code: Rcode,
        answer: Answer<'_>,
        limit: usize,
    ) -> Vec<u8> {
        let mut reply = header(self.id, self.flags, code);
        reply[5] = 1;
        reply.extend_from_slice(self.question(message));
        let end = limit.saturating_sub(if self.edns.is_some() { 11 } else { 0 });
        let (mut count, mut flags) = (0_u16, 0);
        let mut record = |kind: u16, data: &[u8]| {
            // The owner is the name of the question, by a compression pointer to it.
            if reply.len() + 12 + data.len() > end {
                flags |= TRUNCATED;
                return;
            }
            for word in [0xc000 | HEADER as u16, kind, CLASS_IN] {
                reply.extend_from_slice(&word.to_be_bytes());
            }
            reply.extend_from_slice(&TTL.to_be_bytes());
            // A name and an address are shorter than 256 bytes.
            reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
            reply.extend_from_slice(data);
            count += 1;
        };
        match answer {
            Answer::Nothing => {}
            Answer::TooLong => flags |= TRUNCATED,
            Answer::Addresses(addresses, first) => {
                let (before, after) = addresses.split_at(first.min(addresses.len()));
                for address in after.iter().chain(before) {
                    record(TYPE_A, &address.octets());
                }
            }
            Answer::Name(name) => record(TYPE_PTR, name),
        }
        if !matches!(answer, Answer::TooLong) && code == Rcode::NO_ERROR {
            flags |= AUTHORITATIVE;
        }
        if let Some(edns) = self.edns {
            // The OPT: the root's, what we take, the code's upper bits, version 0.
            reply.push(0);
            reply.extend_from_slice(&TYPE_OPT.to_be_bytes());
            reply.extend_from_slice(&DATAGRAM_MAX.to_be_bytes());
            reply.extend_from_slice(&[(code.0 >> 4) as u8, 0]);
            reply.extend_from_slice(&(edns.flags & SIGNATURES).to_be_bytes());
            reply.extend_from_slice(&[0, 0]);
            reply[11] = 1;
        }
        reply[2] |= (flags >> 8) as u8;
        reply[6..8].copy_from_slice(&count.to_be_bytes());
        reply
    }
}

/// What a reply of our own says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer<'a> {
    Nothing,
    /// That there is more than UDP carries.
    TooLong,
    /// Addresses, and which of them comes first.
    Addresses(&'a [Ipv4Addr], usize),
    /// A name as [`encode`] made it.
    Name(&'a [u8]),
}

/// What a reply from upstream is to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// Somebody else's, or a lie.
    No,
    /// The server cannot say more than this.
    Failed(Rcode),
    Yes(Rcode),
}

/// A reply to what was too bad to repeat; to less than a header nothing can be said.
pub(super) fn refuse(message: &[u8], code: Rcode) -> Vec<u8> {
    let word = |at: usize| {
        let byte = |at| message.get(at).copied().unwrap_or_default();
        u16::from_be_bytes([byte(at), byte(at + 1)])
    };
    header(word(0), word(2), code)
}

/// A reply's header, without any records yet.
fn header(id: u16, flags: u16, code: Rcode) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    let copied = flags & (OPCODE | RECURSION_DESIRED | CHECKING_DISABLED);
    let flags = RESPONSE | RECURSION_AVAILABLE | copied | (code.0 & 0xf);
    header[..2].copy_from_slice(&id.to_be_bytes());
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header
}

/// A name as messages have it; `None` for one that is too long or has an empty label.
pub(super) fn encode(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        if !(1..=LABEL_MAX).contains(&label.len()) {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= NAME_MAX).then_some(bytes)
}

/// The address whose name is asked for by `4.3.2.1.in-addr.arpa` (RFC 1035, section 3.5).
pub(super) fn reversed(name: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = name.strip_suffix(".in-addr.arpa")?.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}
