//! The device on its bus: chains in, replies out.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::Fs;
use super::*;
use crate::devices::virtio::slot::tests::Machine;
use crate::devices::virtio::testing::Descriptor;

const REQUEST: u64 = 0x20_0000;
const REPLY: u64 = 0x30_0000;

struct Driven {
    folder: TempDir,
    machine: Machine,
    /// How much was returned on each queue, and where the next request and its reply lie.
    next: u64,
}

impl Driven {
    fn new() -> Self {
        let client = Client::new(false);
        fs::write(client.host("a"), "contents").unwrap();
        let device = Fs::new(client.server).unwrap();
        let mut machine = Machine::new(Box::new(device));
        machine.start();
        let mut driven = Self {
            folder: client.folder,
            machine,
            next: 0,
        };
        let mut asked = body().u32(7).u32(38).u32(0).u32(u32::MAX).u32(0);
        asked.0.resize(64, 0);
        assert_eq!(driven.ask(1, opcode::INIT, 0, &asked.0).unwrap().len(), 64);
        driven
    }

    /// Puts a request into a queue, its header in one piece and its body in another; where its reply will be comes back.
    fn put(&mut self, queue: usize, code: u32, node: u64, unique: u64, body: &[u8]) -> u64 {
        let (at, reply) = (REQUEST + self.next, REPLY + self.next);
        self.next += 0x2000;
        let mut header = Vec::new();
        header.put_u32((IN_HEADER + body.len()) as u32);
        header.put_u32(code);
        header.put_u64(unique);
        header.put_u64(node);
        header.resize(IN_HEADER, 0);
        let memory = &self.machine.memory;
        memory.write_slice(&header, GuestAddress(at)).unwrap();
        memory.write_slice(body, GuestAddress(at + 0x100)).unwrap();
        let chain = [
            Descriptor::read(at, IN_HEADER as u32),
            Descriptor::read(at + 0x100, body.len() as u32),
            Descriptor::write(reply, 20),
            Descriptor::write(reply + 20, 0x1000),
        ];
        self.machine.add(queue, &chain);
        reply
    }

    /// What was answered: the number of the request, and the reply or the error.
    fn reply(&self, at: u64) -> (u64, Result<Vec<u8>, i32>) {
        let memory = &self.machine.memory;
        let length: u32 = memory.read_obj(GuestAddress(at)).unwrap();
        let error: i32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let unique = memory.read_obj(GuestAddress(at + 8)).unwrap();
        let mut bytes = vec![0; (length as usize).saturating_sub(OUT_HEADER)];
        memory
            .read_slice(&mut bytes, GuestAddress(at + OUT_HEADER as u64))
            .unwrap();
        let result = if error == 0 { Ok(bytes) } else { Err(-error) };
        (unique, result)
    }

    fn ask(&mut self, queue: usize, code: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let unique = self.next + 7;
        let at = self.put(queue, code, node, unique, body);
        self.machine.slot.notified(queue);
        let (answered, result) = self.reply(at);
        assert_eq!(answered, unique);
        result
    }
}

fn lock(owner: u64, mode: i32) -> Vec<u8> {
    let asked = body().u64(0).u64(owner).u64(0).u64(i64::MAX as u64);
    asked.u32(mode as u32).u32(1).u32(0).u32(0).0
}

#[test]
fn it_says_its_tag_and_how_many_queues_it_has() {
    let driven = Driven::new();
    assert_eq!(driven.machine.get(0x008), 26);
    let tag: Vec<u8> = (0..9)
        .flat_map(|word| driven.machine.get(0x100 + 4 * word).to_le_bytes())
        .collect();
    assert_eq!(&tag[..9], b"plimsoll\0");
    assert_eq!(driven.machine.get(0x100 + 36), 1);
}

#[test]
fn a_file_is_read_and_written_straight_in_the_guests_memory() {
    let mut driven = Driven::new();
    let found = driven.ask(1, opcode::LOOKUP, SHARE, b"a\0").unwrap();
    let node = known(&found).node;
    let flags = body().u32(libc::O_RDWR as u32).u32(0);
    let opened = driven.ask(1, opcode::OPEN, node, &flags.0).unwrap();
    let handle = u64::from_ne_bytes(opened[..8].try_into().unwrap());
    let read = body().u64(handle).u64(0).u32(4096).u32(0).u64(0).u64(0);
    assert_eq!(
        driven.ask(1, opcode::READ, node, &read.0).unwrap(),
        b"contents"
    );
    let mut write = body().u64(handle).u64(3).u32(4).u32(0).u64(0).u64(0).0;
    write.extend_from_slice(b"ABCD");
    driven.ask(1, opcode::WRITE, node, &write).unwrap();
    let host = driven.folder.path().join("shared/a");
    assert_eq!(fs::read(host).unwrap(), b"conABCDs");
    let used = driven.machine.used(1);
    assert_eq!(
        used[used.len() - 1].1,
        24,
        "header and struct fuse_write_out"
    );
    let reply = driven.put(0, opcode::FORGET, node, 9, &1u64.to_ne_bytes());
    driven.machine.slot.notified(0);
    assert_eq!(driven.machine.used(0).len(), 1);
    assert_eq!(driven.reply(reply).0, 0, "nobody waits for an answer");
}

#[test]
fn a_lock_that_is_waited_for_is_answered_when_it_is_free_and_holds_nobody_up() {
    let mut driven = Driven::new();
    let found = driven.ask(1, opcode::LOOKUP, SHARE, b"a\0").unwrap();
    let node = known(&found).node;
    driven
        .ask(1, opcode::SETLK, node, &lock(1, libc::F_WRLCK))
        .unwrap();
    let waiting = driven.put(1, opcode::SETLKW, node, 100, &lock(2, libc::F_WRLCK));
    let other = driven.put(1, opcode::SETLKW, node, 101, &lock(3, libc::F_WRLCK));
    driven.machine.slot.notified(1);
    assert_eq!(driven.reply(waiting).0, 0, "no answer yet");
    assert!(driven.machine.slot.interest().is_some());
    driven.ask(1, opcode::GETATTR, node, &[0; 16]).unwrap();
    // One is told that nobody waits for it any more.
    let interrupt = driven.put(0, opcode::INTERRUPT, 0, 102, &101u64.to_ne_bytes());
    driven.machine.slot.notified(0);
    assert_eq!(driven.reply(other), (101, Err(libc::EINTR)));
    assert_eq!(driven.reply(interrupt).0, 0);
    // The other queue may be looked at first.
    driven.put(0, opcode::INTERRUPT, 0, 103, &104u64.to_ne_bytes());
    driven.machine.slot.notified(0);
    let late = driven.put(1, opcode::SETLKW, node, 104, &lock(4, libc::F_WRLCK));
    driven.machine.slot.notified(1);
    assert_eq!(driven.reply(late), (104, Err(libc::EINTR)));
    driven
        .ask(1, opcode::SETLK, node, &lock(1, libc::F_UNLCK))
        .unwrap();
    driven.machine.slot.ready();
    assert_eq!(driven.reply(waiting), (100, Ok(Vec::new())));
    assert!(driven.machine.slot.interest().is_none());
    assert_eq!(driven.machine.used(1).len(), 8);
}

#[test]
fn a_reset_forgets_everything_and_the_device_works_again() {
    let mut driven = Driven::new();
    let found = driven.ask(1, opcode::LOOKUP, SHARE, b"a\0").unwrap();
    let node = known(&found).node;
    driven
        .ask(1, opcode::SETLK, node, &lock(1, libc::F_WRLCK))
        .unwrap();
    driven.put(1, opcode::SETLKW, node, 100, &lock(2, libc::F_WRLCK));
    driven.machine.slot.notified(1);
    driven.machine.put(0x070, 0);
    assert!(driven.machine.slot.interest().is_none());
    let theirs = File::open(driven.folder.path().join("shared/a")).unwrap();
    theirs.try_lock().unwrap();
    driven.machine.rings = (5..7)
        .map(|number| crate::devices::virtio::testing::Rings::new(number, 64))
        .collect();
    driven.machine.start();
    assert_eq!(
        driven.ask(1, opcode::GETATTR, SHARE, &[0; 16]),
        Err(libc::EIO)
    );
}

#[test]
fn what_is_malformed_comes_back_with_nothing_done() {
    let mut driven = Driven::new();
    let before = driven.machine.used(1).len();
    let at = driven.put(1, opcode::LOOKUP, SHARE, 1, b"a\0");
    let memory = std::sync::Arc::clone(&driven.machine.memory);
    // It says that it is longer than it is, and shorter than a header.
    for length in [u32::MAX, 1000, 39, 0] {
        memory
            .write_obj(length, GuestAddress(REQUEST + driven.next - 0x2000))
            .unwrap();
        let chain = [
            Descriptor::read(REQUEST + driven.next - 0x2000, 40),
            Descriptor::write(at, 100),
        ];
        driven.machine.add(1, &chain);
    }
    // No room for an answer, none for all of it, nothing to read, not enough.
    driven.machine.add(1, &[Descriptor::read(REQUEST, 40)]);
    driven.machine.add(
        1,
        &[Descriptor::read(REQUEST, 40), Descriptor::write(REPLY, 15)],
    );
    driven.machine.add(1, &[Descriptor::write(REPLY, 100)]);
    driven.machine.add(
        1,
        &[Descriptor::read(REQUEST, 39), Descriptor::write(REPLY, 100)],
    );
    driven.machine.slot.notified(1);
    let used = driven.machine.used(1);
    assert_eq!(used.len(), before + 9);
    assert_eq!(
        used[before + 5..]
            .iter()
            .map(|(_, bytes)| *bytes)
            .collect::<Vec<_>>(),
        [0; 4]
    );
    driven.ask(1, opcode::GETATTR, SHARE, &[0; 16]).unwrap();
}

#[test]
fn the_machines_end_carries_out_what_was_asked_for() {
    let mut driven = Driven::new();
    let asked = body().u32(0o755).u32(0).text("made");
    driven.put(1, opcode::MKDIR, SHARE, 9, &asked.0);
    driven.machine.slot.finish();
    assert!(driven.folder.path().join("shared/made").is_dir());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_chain_comes_back_whatever_is_in_it(
        requests in prop::collection::vec(
            (0u32..60, prop_oneof![0u64..6, any::<u64>()], prop::collection::vec(any::<u8>(), 0..200),
             0usize..2, prop::collection::vec((0u32..300, any::<bool>()), 0..5)),
            1..20,
        ),
    ) {
        let mut driven = Driven::new();
        let mut expected = [0, driven.machine.used(1).len()];
        for (number, (code, node, bytes, queue, buffers)) in requests.iter().enumerate() {
            // They would wait, or take the rest of it away.
            if [opcode::SETLKW, opcode::DESTROY, opcode::SYNCFS, opcode::FALLOCATE].contains(code) {
                continue;
            }
            let at = REQUEST + 0x1_0000 + number as u64 * 0x1000;
            let mut header = Vec::new();
            header.put_u32((IN_HEADER + bytes.len()) as u32);
            header.put_u32(*code);
            header.put_u64(number as u64);
            header.put_u64(*node);
            header.resize(IN_HEADER, 0);
            header.extend_from_slice(bytes);
            driven.machine.memory.write_slice(&header, GuestAddress(at)).unwrap();
            let mut chain = vec![Descriptor::read(at, header.len() as u32)];
            chain.extend(buffers.iter().map(|(bytes, write)| match write {
                true => Descriptor::write(REPLY, *bytes),
                false => Descriptor::read(at, *bytes),
            }));
            driven.machine.add(*queue, &chain);
            expected[*queue] += 1;
        }
        driven.machine.slot.finish();
        prop_assert_eq!(driven.machine.used(0).len(), expected[0]);
        prop_assert_eq!(driven.machine.used(1).len(), expected[1]);
    }
}
