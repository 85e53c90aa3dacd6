//! Where the corpus has begun: guests that behave. Inputs that were found to matter are put beside these files by hand.

use std::path::Path;

use guest_protocol::{Stream, ToGuest, ToHost};

use super::devices::{NOTIFY, POKE, READ, READY, REGISTER, WIDE};
use crate::devices::virtio::mmio::register;
use crate::devices::virtio::testing::{NEXT, WRITE};
use crate::kernel::tests::image;
use crate::stock::fuzz::{bzimage, module_file as module};

/// Where the parts of a queue are: see `testing::Rings`.
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const EACH: u64 = 0x3000;

/// Where buffers are, past all queues' rings.
const BUFFER: u64 = 0x10_0000;

struct Seed(Vec<u8>);

impl Seed {
    /// A guest that agrees to everything, or to what it must.
    fn new(everything: bool) -> Self {
        Self(vec![everything.into()])
    }

    fn poke(mut self, at: u64, value: u64) -> Self {
        self.0.push(POKE);
        self.0.extend((at as u32).to_le_bytes());
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(self, at: u64, bytes: &[u8]) -> Self {
        (at..)
            .step_by(8)
            .zip(bytes.chunks(8))
            .fold(self, |seed, (at, piece)| {
                let mut word = [0; 8];
                word[..piece.len()].copy_from_slice(piece);
                seed.poke(at, u64::from_le_bytes(word))
            })
    }

    /// A chain of these pieces (where, how long, whether written) from the first descriptor on, as number `count`.
    fn chain(self, queue: u64, count: u16, pieces: &[(u64, u32, bool)]) -> Self {
        let table = TABLE + queue * EACH;
        let available = AVAILABLE + queue * EACH;
        let last = pieces.len() - 1;
        let seed = pieces
            .iter()
            .enumerate()
            .fold(self, |seed, (index, piece)| {
                let (at, bytes, written) = *piece;
                let flags = if index < last { NEXT } else { 0 } | if written { WRITE } else { 0 };
                let next = index as u64 + 1;
                let rest = u64::from(bytes) | u64::from(flags) << 32 | next << 48;
                seed.poke(table + 16 * index as u64, at)
                    .poke(table + 16 * index as u64 + 8, rest)
            });
        let mut seed = seed.poke(available, u64::from(count) << 16);
        seed.0.extend([NOTIFY, queue as u8]);
        seed
    }

    fn register(mut self, at: u64, value: u32) -> Self {
        self.0.push(REGISTER);
        self.0.extend((at as u16).to_le_bytes());
        self.0.extend(value.to_le_bytes());
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(READ);
        self.0
            .extend((register::INTERRUPT_STATUS as u16).to_le_bytes());
        self.0.push(4);
        self.0.push(WIDE);
        self.0
            .extend((register::INTERRUPT_ACK as u16).to_le_bytes());
        self.0.push(4);
        self.0.extend(3u64.to_le_bytes());
        self.0.push(READY);
        self.0
    }
}

fn random(everything: bool) -> Vec<u8> {
    let seed = Seed::new(everything).chain(0, 1, &[(BUFFER, 64, true)]);
    seed.chain(0, 2, &[(BUFFER, 8, true), (BUFFER + 64, 4096, true)])
        .end()
}

fn reset() -> Vec<u8> {
    Seed::new(true)
        .chain(0, 1, &[(BUFFER, 64, true)])
        .register(register::STATUS, 0)
        .register(register::STATUS, 3)
        .register(register::QUEUE_SELECT, 0)
        .register(register::QUEUE_SIZE, 16)
        .register(register::QUEUE_READY, 1)
        .register(register::STATUS, 15)
        .end()
}

fn block(kind: u64) -> Vec<u8> {
    let written = [0, 8].contains(&kind);
    Seed::new(true)
        .poke(BUFFER, kind)
        .poke(BUFFER + 8, 3)
        .poke(BUFFER + 0x1000, 1)
        .poke(BUFFER + 0x1008, 8)
        .chain(
            0,
            1,
            &[
                (BUFFER, 16, false),
                (BUFFER + 0x1000, if kind > 8 { 16 } else { 512 }, written),
                (BUFFER + 0x3000, 1, true),
            ],
        )
        .end()
}

/// The device is ready, so is its port, and is open; a little is sent and received.
fn console() -> Vec<u8> {
    let say = |id: u32, event: u16, value: u16| {
        u64::from(id) | u64::from(event) << 32 | u64::from(value) << 48
    };
    let messages = [say(u32::MAX, 0, 1), say(1, 3, 1), say(1, 6, 1)];
    let seed = (1..)
        .zip(messages)
        .fold(Seed::new(true), |seed, (count, message)| {
            seed.poke(BUFFER, message)
                .chain(2, count, &[(BUFFER + 0x100, 64, true)])
                .chain(3, count, &[(BUFFER, 8, false)])
        });
    seed.bytes(BUFFER + 0x1000, b"from the guest")
        .chain(4, 1, &[(BUFFER + 0x2000, 512, true)])
        .chain(5, 1, &[(BUFFER + 0x1000, 14, false)])
        .end()
}

/// FUSE_INIT, and then this.
fn files(code: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let ask = |seed: Seed, count: u16, code: u32, node: u64, body: &[u8]| {
        let mut request = Vec::new();
        request.extend((40 + body.len() as u32).to_le_bytes());
        request.extend(code.to_le_bytes());
        request.extend(u64::from(count).to_le_bytes());
        request.extend(node.to_le_bytes());
        request.resize(40, 0);
        request.extend(body);
        seed.bytes(BUFFER, &request).chain(
            1,
            count,
            &[
                (BUFFER, request.len() as u32, false),
                (BUFFER + 0x1000, 4096, true),
            ],
        )
    };
    let mut init: Vec<u8> = [7u32, 38, 1 << 17, u32::MAX]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    init.resize(64, 0);
    let seed = ask(Seed::new(true), 1, 26, 0, &init);
    ask(seed, 2, code, node, body).end()
}

fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut to_host = Vec::new();
    ToHost::Output(1, Stream::Stdout, b"output").encode(&mut to_host);
    ToHost::StdinCredit(1, 4096).encode(&mut to_host);
    ToHost::StdinClosed(1).encode(&mut to_host);
    let mut to_guest = Vec::new();
    ToGuest::Signal(1, 15).encode(&mut to_guest);
    ToGuest::OutputCredit(1, Stream::Stderr, 4096).encode(&mut to_guest);
    ToGuest::Shutdown.encode(&mut to_guest);
    vec![
        ("rng", "everything", random(true)),
        ("rng", "little", random(false)),
        ("rng", "reset", reset()),
        ("block", "read", block(0)),
        ("block", "write", block(1)),
        ("block", "flush", block(4)),
        ("block", "name", block(8)),
        ("block", "discard", block(11)),
        ("block", "zeroes", block(13)),
        ("console", "port", console()),
        ("console", "random", random(true)),
        ("fs", "attributes", files(3, 2, &[0; 16])),
        ("fs", "lookup", files(1, 2, b"file\0")),
        ("fs", "open-directory", files(27, 2, &[0; 8])),
        ("fs", "statfs", files(17, 2, &[])),
        ("fs", "forget", files(2, 2, &[1, 0, 0, 0, 0, 0, 0, 0])),
        (
            "fs",
            "attribute",
            files(22, 2, b"\x10\0\0\0\0\0\0\0user.a\0"),
        ),
        ("kernel", "small", image(b"\xf4\xeb\xfd", 0x100_0000)),
        ("bzimage", "plain", bzimage(b"\x7fELF and so on")),
        (
            "module",
            "small",
            module("depends=virtio\0softdep=pre: crc32c\0"),
        ),
        ("protocol", "to-host", to_host),
        ("protocol", "to-guest", to_guest),
    ]
}

#[test]
#[ignore = "writes to the source tree"]
fn write_the_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (target, name, bytes) in seeds() {
        std::fs::create_dir_all(root.join(target)).unwrap();
        std::fs::write(root.join(target).join(name), bytes).unwrap();
    }
}

#[test]
fn the_corpus_holds_the_guests_that_behave() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (target, name, bytes) in seeds() {
        let path = root.join(target).join(name);
        assert!(std::fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
}
