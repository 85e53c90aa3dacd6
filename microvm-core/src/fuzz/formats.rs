//! What is read from files and from the agent.

use std::fmt::Write as _;
use std::os::unix::fs::FileExt;

use guest_protocol::{Decoder, MAX_TO_HOST, ToGuest, ToHost};

use super::fuzz;
use crate::kernel::Kernel;
use crate::kvm::saved::Saved;
use crate::kvm::saved::tests::restore;
use crate::memory::allocate;
use crate::stock;

#[test]
fn kernel_images() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fuzz("kernel", |input| {
        file.as_file().set_len(0).unwrap();
        file.as_file().write_all_at(input, 0).unwrap();
        match Kernel::open(file.path()) {
            Err(error) => words(&error.to_string()),
            Ok(kernel) => {
                let memory = allocate(64).unwrap();
                match kernel.load(&memory, 64 << 20) {
                    Ok(()) => format!("loaded below {:#x}", kernel.end().next_power_of_two()),
                    Err(error) => words(&error.to_string()),
                }
            }
        }
    });
}

#[test]
fn compressed_kernels() {
    fuzz("bzimage", |input| match stock::fuzz::kernel(input) {
        Ok(bytes) => format!("{bytes} bytes"),
        Err(why) => words(&why),
    });
}

#[test]
fn kernel_modules() {
    fuzz("module", |input| match stock::fuzz::module(input) {
        Some(entries) => entries.join(" "),
        None => "none".to_owned(),
    });
}

/// A message without its numbers and its file's name, which are different each time.
fn words(message: &str) -> String {
    let said = message
        .rsplit_once("/tmp/")
        .map_or(message, |(_, said)| said);
    said.split(' ')
        .filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_agents_messages() {
    fuzz("protocol", |input| {
        let mut decoder = Decoder::new(MAX_TO_HOST);
        let mut outcome = String::new();
        // Pieces of every length, as they may come.
        for piece in input.chunks(1 + input.len() % 37) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        let host = ToHost::parse(&frame);
                        let guest = ToGuest::parse(&frame);
                        let _ = write!(
                            outcome,
                            "{}{} ",
                            host.map_or("-", |message| message.name()),
                            if guest.is_ok() { "+" } else { "" }
                        );
                    }
                    Ok(None) => break,
                    Err(error) => return outcome + &words(&error.to_string()),
                }
            }
            assert!(decoder.capacity() <= 2 * (MAX_TO_HOST + 64));
        }
        outcome
    });
}

/// A template's state file, its digest always right: what it says is read, and its devices are made what it says.
#[test]
fn templates() {
    fuzz("template", |input| {
        if let Err(why) = Saved::decode(input) {
            let _ = words(&why);
        }
        let Some(body) = input.splitn(2, |byte| *byte == b'\n').nth(1) else {
            return "no second line".to_owned();
        };
        match Saved::decode(&crate::kvm::saved::tests::file(body)) {
            Err(why) => words(&why),
            Ok(saved) => {
                let devices: Vec<bool> = (saved.slots.iter().take(4))
                    .map(|slot| restore(slot).is_ok())
                    .collect();
                format!("{} parts, devices {devices:?}", saved.memory.len())
            }
        }
    });
}
