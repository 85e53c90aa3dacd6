//! The colours, as data: the page's style sheet and its plots are made from them, and a test holds their
//! contrast.

use crate::results::{Arm, ArmKind, arm_id};

/// What a colour is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ink {
    /// The page.
    Paper,
    /// A panel on the page.
    Panel,
    /// Text.
    Text,
    /// Lesser text.
    Muted,
    /// Rules and grid lines; decoration only.
    Rule,
    /// The sea below the waterline; decoration only.
    Sea,
    /// The band of the margin; decoration only.
    Band,
    /// The load line and warnings.
    Load,
    /// The arms.
    Native,
    /// The A/A control.
    Control,
    /// Plimsoll's container.
    Container,
    /// Its twin.
    Twin,
    /// A virtual machine on KVM.
    Vm,
    /// A virtual machine under software emulation.
    Emulator,
    /// The toolbox.
    Toolbox,
    /// Another program.
    Peer,
}

/// Every colour: its name in the style sheet, light, dark.
pub(crate) const PALETTE: [(Ink, &str, u32, u32); 16] = [
    (Ink::Paper, "paper", 0xf6f4ee, 0x0e171e),
    (Ink::Panel, "panel", 0xfdfcf9, 0x15212a),
    (Ink::Text, "text", 0x14222c, 0xe7ecea),
    (Ink::Muted, "muted", 0x51616b, 0xa3b3bb),
    (Ink::Rule, "rule", 0xd8d4c8, 0x2c3d49),
    (Ink::Sea, "sea", 0xdbe7e6, 0x14303a),
    (Ink::Band, "band", 0xdfe8dc, 0x213a35),
    (Ink::Load, "load", 0xa8352a, 0xf2907c),
    (Ink::Native, "native", 0x14222c, 0xe7ecea),
    (Ink::Control, "control", 0x6a7880, 0x8fa1ab),
    (Ink::Container, "container", 0x0d6a72, 0x55c4cd),
    (Ink::Twin, "twin", 0x3f8c94, 0x9adbe0),
    (Ink::Vm, "vm", 0x96411f, 0xf0a07e),
    (Ink::Emulator, "emulator", 0x9a6a0c, 0xe5bb62),
    (Ink::Toolbox, "toolbox", 0x4a5ba6, 0xa3b2f2),
    (Ink::Peer, "peer", 0x77628d, 0xbcaad4),
];

impl Ink {
    /// Its name in the style sheet.
    pub(crate) fn name(self) -> &'static str {
        PALETTE
            .iter()
            .find(|(ink, ..)| *ink == self)
            .map_or("text", |(_, name, ..)| name)
    }

    /// The colour of an arm.
    pub(crate) fn of(arm: &Arm) -> Self {
        match arm.kind {
            _ if arm.control_of.is_some() => Self::Control,
            _ if arm.twin_of.is_some() => Self::Twin,
            ArmKind::Native => Self::Native,
            ArmKind::Container => Self::Container,
            ArmKind::Vm if arm.id == arm_id::VM_TCG => Self::Emulator,
            ArmKind::Vm
                if arm
                    .substrate
                    .as_ref()
                    .is_some_and(|substrate| substrate.name == "tcg") =>
            {
                Self::Emulator
            }
            ArmKind::Vm => Self::Vm,
            ArmKind::Toolbox => Self::Toolbox,
            ArmKind::Peer => Self::Peer,
        }
    }
}

/// The custom properties of one side, `--name:#rrggbb;` each.
pub(crate) fn properties(dark: bool) -> String {
    PALETTE
        .iter()
        .map(|(_, name, light, night)| {
            format!("--{name}:#{:06x};", if dark { night } else { light })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Ink, PALETTE};

    /// Relative luminance (WCAG 2.1).
    fn luminance(colour: u32) -> f64 {
        let channel = |shift: u32| {
            let c = f64::from((colour >> shift) & 0xff) / 255.0;
            if c <= 0.03928 {
                c / 12.92
            } else {
                ((c + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * channel(16) + 0.7152 * channel(8) + 0.0722 * channel(0)
    }

    fn contrast(a: u32, b: u32) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    fn colour(ink: Ink, dark: bool) -> u32 {
        let (.., light, night) = PALETTE.iter().find(|(i, ..)| *i == ink).unwrap();
        if dark { *night } else { *light }
    }

    #[test]
    fn contrast_of_black_and_white_is_twenty_one() {
        assert!((contrast(0x000000, 0xffffff) - 21.0).abs() < 1e-9);
    }

    #[test]
    fn text_reaches_aa_on_every_ground_it_stands_on() {
        for dark in [false, true] {
            for text in [Ink::Text, Ink::Muted, Ink::Load] {
                for ground in [Ink::Paper, Ink::Panel, Ink::Sea, Ink::Band] {
                    let found = contrast(colour(text, dark), colour(ground, dark));
                    assert!(
                        found >= 4.5,
                        "{text:?} on {ground:?}, dark {dark}: {found:.2}"
                    );
                }
            }
        }
    }

    #[test]
    fn marks_reach_three_to_one_on_every_ground_they_stand_on() {
        for dark in [false, true] {
            for (mark, ..) in PALETTE.iter().filter(|(ink, ..)| *ink >= Ink::Load) {
                for ground in [Ink::Paper, Ink::Panel, Ink::Sea, Ink::Band] {
                    let found = contrast(colour(*mark, dark), colour(ground, dark));
                    assert!(
                        found >= 3.0,
                        "{mark:?} on {ground:?}, dark {dark}: {found:.2}"
                    );
                }
            }
        }
    }
}
