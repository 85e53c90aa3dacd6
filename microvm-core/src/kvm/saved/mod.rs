//! A machine at rest, as a template keeps it: what its virtual CPUs, interrupt controllers, timer, clock and devices hold,
//! and which parts of its memory hold anything.
//!
//! The file is one line of JSON that says what it is, with the digest of the rest, and the rest, which is JSON too. Nothing
//! in it is taken on trust: numbers are bounded here, queues where they are put into devices, and registers by KVM.

mod cpu;
pub(crate) mod fit;
mod memory;
mod system;
#[cfg(test)]
pub(crate) mod tests;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vm_superio::SerialState;

pub(crate) use self::cpu::CpuState;
pub(crate) use self::fit::Fit;
pub(crate) use self::memory::{map, write};
pub(crate) use self::system::SystemState;
use crate::devices::virtio::state::SlotState;
use crate::memory::ranges;

/// Raised whenever what is kept, or its meaning, changes; devices' registers are part of it.
pub(crate) const VERSION: u32 = 1;

/// The longest state file, bytes: 64 virtual CPUs take half of it.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// How many parts of memory are mapped from the file at most (each is a mapping of the monitor's, of which Linux allows
/// 65,530 by default).
pub(crate) const MAX_EXTENTS: usize = 2048;

/// The first line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Heading {
    /// Always the same word.
    plimsoll: String,
    version: u32,
    /// SHA-256 of everything behind this line.
    sha256: String,
}

const TITLE: &str = "template";

/// A part of memory that is mapped from the template's memory file, which it lies in at the same place as in memory without the
/// hole below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extent {
    /// Where it begins, bytes from the file's beginning: whole pages.
    pub(crate) offset: u64,
    /// Its length in bytes: whole pages.
    pub(crate) bytes: u64,
}

/// A machine at rest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    /// Which machines it fits.
    pub(crate) fit: Fit,
    /// When it was saved, seconds since 1970.
    pub(crate) saved_at: u64,
    pub(crate) cpus: Vec<CpuState>,
    pub(crate) system: SystemState,
    pub(crate) serial: SerialLine,
    /// The devices that every machine has, in the places from the first on.
    pub(crate) slots: Vec<SlotState>,
    /// Parts of memory, in their order.
    pub(crate) memory: Vec<Extent>,
}

/// The registers of the serial console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SerialLine {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
}

impl From<SerialState> for SerialLine {
    fn from(state: SerialState) -> Self {
        Self {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
        }
    }
}

impl From<&SerialLine> for SerialState {
    fn from(line: &SerialLine) -> Self {
        Self {
            baud_divisor_low: line.divisor[0],
            baud_divisor_high: line.divisor[1],
            interrupt_enable: line.interrupt_enable,
            interrupt_identification: line.interrupt_identification,
            line_control: line.line_control,
            line_status: line.line_status,
            modem_control: line.modem_control,
            modem_status: line.modem_status,
            scratch: line.scratch,
            // Nothing ever comes in by this line.
            in_buffer: Vec::new(),
        }
    }
}

impl Saved {
    /// The file's contents.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let body = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        let heading = Heading {
            plimsoll: TITLE.to_owned(),
            version: VERSION,
            sha256: digest(&body),
        };
        let mut file = serde_json::to_vec(&heading).map_err(|error| error.to_string())?;
        file.push(b'\n');
        file.extend_from_slice(&body);
        Ok(file)
    }

    /// Reads what [`Self::encode`] made; else a reason, as the end of a sentence about the template.
    pub(crate) fn decode(file: &[u8]) -> Result<Self, String> {
        let end = file
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("its state file is no template's")?;
        let (heading, body) = (&file[..end], &file[end + 1..]);
        let heading: Heading =
            serde_json::from_slice(heading).map_err(|_| "its state file is no template's")?;
        if heading.plimsoll != TITLE {
            return Err("its state file is no template's".to_owned());
        }
        if heading.version != VERSION {
            return Err(format!(
                "it is of version {}, and this program's are of version {VERSION}",
                heading.version
            ));
        }
        if heading.sha256 != digest(body) {
            return Err("its state file is damaged".to_owned());
        }
        let saved: Self = serde_json::from_slice(body)
            .map_err(|error| format!("its state file makes no sense: {error}"))?;
        saved.check()?;
        Ok(saved)
    }

    /// Whether the parts go together.
    fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("its state file makes no sense: {what}"));
        if self.cpus.len() != usize::from(self.fit.vcpus) {
            return wrong("its number of virtual CPUs");
        }
        if !self.fit.is_possible() {
            return wrong("the size of its machine");
        }
        if self.memory.len() > MAX_EXTENTS {
            return wrong("the number of parts of its memory");
        }
        let (mut behind, all) = (0, self.memory_bytes());
        let seams: Vec<u64> = ranges(all).iter().map(|(_, bytes)| *bytes as u64).collect();
        let seam = seams.first().copied().unwrap_or(all);
        for extent in &self.memory {
            let Some(end) = extent.offset.checked_add(extent.bytes) else {
                return wrong("a part of its memory");
            };
            let whole = extent.offset % 4096 == 0 && extent.bytes % 4096 == 0 && extent.bytes > 0;
            let across = extent.offset < seam && end > seam;
            if !whole || across || extent.offset < behind || end > all {
                return wrong("a part of its memory");
            }
            behind = end;
        }
        Ok(())
    }

    /// How large the memory file is.
    pub(crate) fn memory_bytes(&self) -> u64 {
        u64::from(self.fit.memory_mib) << 20
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
