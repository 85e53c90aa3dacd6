//! The block device (section 5.2): a read-only disk made of files one after another, or one file to read and write.

mod disk;
mod request;

pub(crate) use self::disk::Disk;
use self::request::serve;
use super::VirtioDevice;
use super::queue::{Broken, VirtQueue};

/// The unit of addresses and capacities, whatever the block size (section 5.2.4).
pub(crate) const SECTOR: u64 = 512;

const QUEUE_SIZE: u16 = 256;

/// A request's data may lie in this many pieces: a full queue less header and status.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// Features (section 5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// What one request may discard or zero: 2 GiB in sectors, so that a request ends before anybody waits for it long.
const MAX_RANGE_SECTORS: u32 = 1 << 22;
/// How many ranges a discard or a write of zeroes may name.
const MAX_RANGES: u32 = 16;

/// The block device.
pub(crate) struct Blk {
    disk: Disk,
    config: [u8; 60],
    vectors: Vec<libc::iovec>,
}

// SAFETY: the pointers in `vectors` are made anew from guest memory for each request and not used after it; between
// requests they mean nothing, so the device may move between threads.
unsafe impl Send for Blk {}

impl Blk {
    /// A device for this disk.
    pub(crate) fn new(disk: Disk) -> Self {
        // The layout of virtio_blk_config (section 5.2.4).
        let mut config = [0; 60];
        config[0..8].copy_from_slice(&(disk.bytes() / SECTOR).to_le_bytes());
        config[12..16].copy_from_slice(&MAX_SEGMENTS.to_le_bytes());
        config[20..24].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        if disk.is_writable() {
            config[36..40].copy_from_slice(&MAX_RANGE_SECTORS.to_le_bytes());
            config[40..44].copy_from_slice(&MAX_RANGES.to_le_bytes());
            config[44..48].copy_from_slice(&8u32.to_le_bytes()); // holes are made in pages
            config[48..52].copy_from_slice(&MAX_RANGE_SECTORS.to_le_bytes());
            config[52..56].copy_from_slice(&MAX_RANGES.to_le_bytes());
            config[56] = 1; // a write of zeroes may give the space back
        }
        Self {
            disk,
            config,
            vectors: Vec::new(),
        }
    }
}

impl VirtioDevice for Blk {
    fn kind(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        use feature::{BLK_SIZE, DISCARD, FLUSH, RO, SEG_MAX, WRITE_ZEROES};
        let common = SEG_MAX | BLK_SIZE;
        common
            | if self.disk.is_writable() {
                FLUSH | DISCARD | WRITE_ZEROES
            } else {
                RO
            }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn notified(&mut self, queue: usize, queues: &mut [VirtQueue]) -> Result<(), Broken> {
        let (disk, vectors) = (&self.disk, &mut self.vectors);
        queues[queue].drain(|memory, chain| serve(disk, memory, chain, vectors))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;
    use tempfile::NamedTempFile;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::devices::virtio::slot::tests::Machine;
    use crate::devices::virtio::testing::Descriptor;

    const HEADER: u64 = 0x10_0000;
    const DATA: u64 = 0x20_0000;
    const STATUS: u64 = 0x30_0000;

    const IN: u32 = 0;
    const OUT: u32 = 1;
    const FLUSH: u32 = 4;
    const GET_ID: u32 = 8;
    const DISCARD: u32 = 11;
    const WRITE_ZEROES: u32 = 13;

    const OK: u8 = 0;
    const IO_ERROR: u8 = 1;
    const UNSUPPORTED: u8 = 2;

    fn file(contents: &[u8]) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().write_all_at(contents, 0).unwrap();
        file
    }

    fn sectors(count: usize) -> Vec<u8> {
        (0..count * 512)
            .map(|at| (at / 512 + at % 7) as u8)
            .collect()
    }

    fn writable(contents: &[u8]) -> (NamedTempFile, Machine) {
        let file = file(contents);
        let disk = Disk::writable(file.path()).unwrap();
        let mut machine = Machine::new(Box::new(Blk::new(disk)));
        machine.start();
        (file, machine)
    }

    fn read_only(parts: &[&[u8]]) -> (Vec<NamedTempFile>, Machine) {
        let files: Vec<_> = parts.iter().map(|part| file(part)).collect();
        let paths: Vec<_> = files.iter().map(|file| file.path().to_owned()).collect();
        let mut machine = Machine::new(Box::new(Blk::new(Disk::image(&paths).unwrap())));
        machine.start();
        (files, machine)
    }

    /// Puts a request's header and returns its status after the device has served it.
    fn request(machine: &mut Machine, kind: u32, sector: u64, data: &[Descriptor]) -> u8 {
        machine
            .memory
            .write_obj(kind, GuestAddress(HEADER))
            .unwrap();
        machine
            .memory
            .write_obj(sector, GuestAddress(HEADER + 8))
            .unwrap();
        machine
            .memory
            .write_obj(0xeeu8, GuestAddress(STATUS))
            .unwrap();
        let chain: Vec<_> = [
            &[Descriptor::read(HEADER, 16)],
            data,
            &[Descriptor::write(STATUS, 1)],
        ]
        .concat();
        machine.add(0, &chain);
        machine.slot.notified(0);
        machine.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn guest_data(machine: &Machine, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        machine
            .memory
            .read_slice(&mut data, GuestAddress(DATA))
            .unwrap();
        data
    }

    #[test]
    fn what_is_written_is_read_again_and_is_in_the_file() {
        let (file, mut machine) = writable(&sectors(16));
        machine
            .memory
            .write_slice(&[0xab; 1024], GuestAddress(DATA))
            .unwrap();
        assert_eq!(
            request(
                &mut machine,
                OUT,
                3,
                &[
                    Descriptor::read(DATA, 600),
                    Descriptor::read(DATA + 600, 424)
                ]
            ),
            OK
        );
        machine
            .memory
            .write_slice(&[0; 1024], GuestAddress(DATA))
            .unwrap();
        assert_eq!(
            request(&mut machine, IN, 3, &[Descriptor::write(DATA, 1024)]),
            OK
        );
        assert_eq!(guest_data(&machine, 1024), [0xab; 1024]);
        assert_eq!(machine.used(0), [(0, 1), (4, 1025)]);
        let mut contents = vec![0; 16 * 512];
        file.as_file().read_exact_at(&mut contents, 0).unwrap();
        assert_eq!(contents[3 * 512..5 * 512], [0xab; 1024]);
        assert_eq!(contents[..3 * 512], sectors(16)[..3 * 512]);
        assert_eq!(request(&mut machine, FLUSH, 0, &[]), OK);
    }

    #[test]
    fn files_one_after_another_read_as_one_disk() {
        let whole = sectors(30);
        let (_files, mut machine) =
            read_only(&[&whole[..512], &whole[512..10 * 512], &whole[10 * 512..]]);
        assert_eq!(machine.get(0x100), 30, "capacity in sectors");
        let pieces = [
            Descriptor::write(DATA, 700),
            Descriptor::write(DATA + 700, 29 * 512 - 700),
        ];
        assert_eq!(request(&mut machine, IN, 1, &pieces), OK);
        assert_eq!(guest_data(&machine, 29 * 512), whole[512..]);
        assert_eq!(
            request(&mut machine, IN, 9, &[Descriptor::write(DATA, 1024)]),
            OK
        );
        assert_eq!(guest_data(&machine, 1024), whole[9 * 512..11 * 512]);
    }

    #[test]
    fn a_read_only_disk_is_not_written() {
        let (files, mut machine) = read_only(&[&sectors(4)]);
        machine
            .memory
            .write_slice(&[0xab; 512], GuestAddress(DATA))
            .unwrap();
        assert_eq!(
            request(&mut machine, OUT, 0, &[Descriptor::read(DATA, 512)]),
            IO_ERROR
        );
        assert_ne!(
            request(&mut machine, DISCARD, 0, &[Descriptor::read(DATA, 16)]),
            OK
        );
        assert_ne!(
            request(&mut machine, WRITE_ZEROES, 0, &[Descriptor::read(DATA, 16)]),
            OK
        );
        assert_eq!(std::fs::read(files[0].path()).unwrap(), sectors(4));
        machine.put(0x014, 0);
        assert_ne!(machine.get(0x010) & 1 << 5, 0, "the driver is told");
    }

    #[test]
    fn what_reaches_past_the_end_is_an_error_and_touches_nothing() {
        let (file, mut machine) = writable(&sectors(4));
        for (sector, bytes) in [
            (4, 512),
            (3, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 1024),
            (0, 5 * 512),
        ] {
            assert_eq!(
                request(&mut machine, OUT, sector, &[Descriptor::read(DATA, bytes)]),
                IO_ERROR,
                "{sector}"
            );
            assert_eq!(
                request(&mut machine, IN, sector, &[Descriptor::write(DATA, bytes)]),
                IO_ERROR,
                "{sector}"
            );
        }
        assert_eq!(
            request(&mut machine, IN, 0, &[Descriptor::write(DATA, 100)]),
            IO_ERROR,
            "no whole sector"
        );
        assert_eq!(std::fs::read(file.path()).unwrap(), sectors(4));
    }

    #[test]
    fn a_file_cut_short_under_the_guest_is_an_error_of_its_own() {
        let (file, mut machine) = writable(&sectors(8));
        file.as_file().set_len(4 * 512).unwrap();
        assert_eq!(
            request(&mut machine, IN, 3, &[Descriptor::write(DATA, 512)]),
            OK
        );
        assert_eq!(
            request(&mut machine, IN, 3, &[Descriptor::write(DATA, 1024)]),
            IO_ERROR
        );
    }

    #[test]
    fn discarded_and_zeroed_sectors_read_as_zeros_and_the_rest_stays() {
        let (file, mut machine) = writable(&sectors(64));
        for (kind, sector) in [(DISCARD, 8u64), (WRITE_ZEROES, 40)] {
            machine
                .memory
                .write_obj(sector, GuestAddress(DATA))
                .unwrap();
            machine
                .memory
                .write_obj(16u32, GuestAddress(DATA + 8))
                .unwrap();
            machine
                .memory
                .write_obj(0u32, GuestAddress(DATA + 12))
                .unwrap();
            assert_eq!(
                request(&mut machine, kind, 0, &[Descriptor::read(DATA, 16)]),
                OK
            );
        }
        let mut expected = sectors(64);
        expected[8 * 512..24 * 512].fill(0);
        expected[40 * 512..56 * 512].fill(0);
        assert_eq!(std::fs::read(file.path()).unwrap(), expected);
        machine.memory.write_obj(60u64, GuestAddress(DATA)).unwrap();
        assert_eq!(
            request(&mut machine, DISCARD, 0, &[Descriptor::read(DATA, 16)]),
            IO_ERROR,
            "past the end"
        );
        assert_eq!(
            request(&mut machine, DISCARD, 0, &[Descriptor::read(DATA, 15)]),
            IO_ERROR,
            "half a range"
        );
    }

    #[test]
    fn the_disk_has_a_name_and_unknown_requests_are_unsupported() {
        let (_file, mut machine) = writable(&sectors(1));
        assert_eq!(
            request(&mut machine, GET_ID, 0, &[Descriptor::write(DATA, 20)]),
            OK
        );
        assert!(guest_data(&machine, 20).starts_with(b"plimsoll-rw\0"));
        assert_eq!(
            request(&mut machine, GET_ID, 0, &[Descriptor::write(DATA, 5)]),
            OK
        );
        assert_eq!(request(&mut machine, 77, 0, &[]), UNSUPPORTED);
    }

    #[test]
    fn a_request_without_header_or_room_for_a_status_is_returned_with_nothing_done() {
        let (file, mut machine) = writable(&sectors(4));
        machine.memory.write_obj(OUT, GuestAddress(HEADER)).unwrap();
        machine.add(
            0,
            &[Descriptor::read(HEADER, 15), Descriptor::write(STATUS, 1)],
        );
        machine.add(
            0,
            &[Descriptor::read(HEADER, 16), Descriptor::read(DATA, 512)],
        );
        machine.add(0, &[Descriptor::write(STATUS, 1)]);
        machine.slot.notified(0);
        assert_eq!(machine.used(0).len(), 3);
        assert_eq!(std::fs::read(file.path()).unwrap(), sectors(4));
    }

    #[test]
    fn many_requests_in_one_notification_are_all_served() {
        let (_file, mut machine) = writable(&sectors(100));
        for sector in 0..60u64 {
            let header = HEADER + sector * 16;
            machine.memory.write_obj(IN, GuestAddress(header)).unwrap();
            machine
                .memory
                .write_obj(sector, GuestAddress(header + 8))
                .unwrap();
            machine.add(
                0,
                &[
                    Descriptor::read(header, 16),
                    Descriptor::write(DATA + sector * 512, 512),
                    Descriptor::write(STATUS + sector, 1),
                ],
            );
        }
        machine.slot.notified(0);
        assert_eq!(machine.used(0).len(), 60);
        assert_eq!(guest_data(&machine, 60 * 512), sectors(60));
    }

    #[test]
    fn disks_that_cannot_be_disks_are_refused_with_their_name() {
        let odd = file(&[0; 700]);
        let refused = |error: crate::Error, word: &str| {
            let text = error.to_string();
            assert!(text.contains(word), "{text}");
        };
        refused(Disk::writable(odd.path()).err().unwrap(), "512");
        refused(
            Disk::image(&[odd.path().to_owned()]).err().unwrap(),
            &odd.path().display().to_string(),
        );
        refused(
            Disk::writable(std::path::Path::new("/")).err().unwrap(),
            "/",
        );
        refused(
            Disk::image(&["/nowhere/disk".into()]).err().unwrap(),
            "/nowhere/disk",
        );
        refused(Disk::writable(file(&[]).path()).err().unwrap(), "empty");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn whatever_is_asked_no_other_file_is_touched_and_every_chain_comes_back(
            requests in prop::collection::vec(
                (
                    prop_oneof![0u32..16, any::<u32>()],
                    prop_oneof![0u64..40, any::<u64>()],
                    prop::collection::vec(
                        (prop_oneof![0u64..(65 << 20), any::<u64>()], prop_oneof![0u32..9000, any::<u32>()], any::<bool>()),
                        0..6,
                    ),
                ),
                1..12,
            ),
            garbage in any::<u8>(),
        ) {
            let bystander = file(&sectors(4));
            let (image, mut machine) = read_only(&[&sectors(8), &sectors(24)]);
            let (own, mut second) = writable(&sectors(32));
            machine.memory.write_slice(&[garbage; 4096], GuestAddress(DATA)).unwrap();
            for machine in [&mut machine, &mut second] {
                for (at, (kind, sector, buffers)) in requests.iter().enumerate() {
                    let header = HEADER + at as u64 * 16;
                    machine.memory.write_obj(*kind, GuestAddress(header)).unwrap();
                    machine.memory.write_obj(*sector, GuestAddress(header + 8)).unwrap();
                    let mut chain = vec![Descriptor::read(header, 16)];
                    for (at, bytes, write) in buffers {
                        // Never over the rings themselves: a device that writes there does as it was told.
                        let at = (*at).max(0x10_0000);
                        chain.push(if *write { Descriptor::write(at, *bytes) } else { Descriptor::read(at, *bytes) });
                    }
                    chain.push(Descriptor::write(STATUS, 1));
                    machine.add(0, &chain);
                }
                machine.slot.notified(0);
                prop_assert_eq!(machine.used(0).len(), requests.len());
            }
            prop_assert_eq!(std::fs::read(bystander.path()).unwrap(), sectors(4));
            prop_assert_eq!(std::fs::read(image[0].path()).unwrap(), sectors(8));
            prop_assert_eq!(std::fs::read(image[1].path()).unwrap(), sectors(24));
            prop_assert_eq!(std::fs::metadata(own.path()).unwrap().len(), 32 * 512);
        }
    }
}
