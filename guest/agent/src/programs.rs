//! Programs that the host sends along, for images that lack them.

use alloc::format;
use alloc::vec::Vec;

use guest_protocol::MAX_PROGRAMS;

use crate::failure::{Context, Failure};
use crate::sys::{Fd, file};

/// Above any number that a process is given as its own.
const LEAST_FD: i32 = 16;

/// The programs, each a file in memory. The host sends each once, and may have it run many times.
#[derive(Default)]
pub(crate) struct Programs {
    /// By number; how a program's file came to nothing is told to the process that wants it, not to the others.
    held: Vec<Option<Result<Fd, Failure>>>,
}

impl Programs {
    /// Takes more of a program.
    pub(crate) fn add(&mut self, number: u32, bytes: &[u8]) -> Result<(), Failure> {
        if number >= MAX_PROGRAMS {
            return Err(Failure::config(format!(
                "the host sent a program of the number {number}, which is beyond {MAX_PROGRAMS}"
            )));
        }
        let index = number as usize;
        if self.held.len() <= index {
            self.held.resize_with(index + 1, || None);
        }
        if let Some(place) = self.held.get_mut(index)
            && let Ok(file) = place.get_or_insert_with(make)
            && let Err(failure) =
                file::write_all(file, bytes).or_fail(|| "keep a program that the host has sent")
        {
            // Its memory is given back.
            *place = Some(Err(failure));
        }
        Ok(())
    }

    /// The file with the program of this number.
    pub(crate) fn get(&self, number: u32) -> Result<&Fd, Failure> {
        match self.held.get(number as usize) {
            Some(Some(Ok(file))) => Ok(file),
            Some(Some(Err(failure))) => Err(Failure::new(failure.kind, failure.message.clone())),
            _ => Err(Failure::config(format!(
                "the host has sent no program of the number {number}"
            ))),
        }
    }
}

fn make() -> Result<Fd, Failure> {
    file::memory_file(c"plimsoll")
        .and_then(|file| file::raise(&file, LEAST_FD))
        .or_fail(|| "make a file in memory")
}

/// The instance's upper directory under a number that no process is given as its own.
pub(crate) fn raised(upper: Fd) -> Result<Fd, Failure> {
    file::raise(&upper, LEAST_FD).or_fail(|| "pass the upper directory on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_kept_whole_by_its_number_and_others_are_not_there() {
        let mut programs = Programs::default();
        programs.add(2, b"ab").unwrap();
        programs.add(2, b"cd").unwrap();
        let file = programs.get(2).unwrap();
        assert!(file.number() >= LEAST_FD);
        file::rewind(file).unwrap();
        let mut held = [0; 8];
        assert_eq!(file::read(file, &mut held), Ok(4));
        assert_eq!(&held[..4], b"abcd");
        assert!(programs.get(0).is_err());
        assert!(programs.get(3).is_err());
        assert!(programs.add(MAX_PROGRAMS, b"x").is_err());
    }
}
