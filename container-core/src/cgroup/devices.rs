//! Which devices a container may use, the same for both versions.

use oci_spec::runtime::{LinuxDeviceType, LinuxResources};

use super::{Error, Result};

/// The kind of device a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Both kinds.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// What may be done with a device, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// Making a node (`BPF_DEVCG_ACC_MKNOD`, uapi/linux/bpf.h; the others follow it).
    pub const MKNOD: Self = Self(1);
    /// Reading.
    pub const READ: Self = Self(2);
    /// Writing.
    pub const WRITE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// The bits, as version 2's programs see them.
    pub fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        text.chars().try_fold(Self(0), |access, letter| {
            Some(Self(
                access.0
                    | match letter {
                        'm' => Self::MKNOD.0,
                        'r' => Self::READ.0,
                        'w' => Self::WRITE.0,
                        _ => return None,
                    },
            ))
        })
    }

    fn letters(self) -> String {
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')]
            .into_iter()
            .filter(|(bit, _)| self.0 & bit.0 != 0)
            .map(|(_, letter)| letter)
            .collect()
    }
}

/// A rule. Of several that match an access, the last decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Grant or deny.
    pub allow: bool,
    /// Which kind of device.
    pub kind: Kind,
    /// Which major number; `None` for all.
    pub major: Option<u32>,
    /// Which minor number; `None` for all.
    pub minor: Option<u32>,
    /// Which accesses.
    pub access: Access,
}

const fn allow(major: u32, minor: Option<u32>) -> Rule {
    Rule {
        allow: true,
        kind: Kind::Character,
        major: Some(major),
        minor,
        access: Access::ALL,
    }
}

/// What every container may use: nodes of any number may be made (not used), and the default devices, the terminals and
/// their multiplexer be used. Numbers of the kernel's admin-guide/devices.txt.
const ALWAYS: [Rule; 11] = [
    Rule {
        allow: true,
        kind: Kind::Character,
        major: None,
        minor: None,
        access: Access::MKNOD,
    },
    Rule {
        allow: true,
        kind: Kind::Block,
        major: None,
        minor: None,
        access: Access::MKNOD,
    },
    allow(1, Some(3)),
    allow(1, Some(5)),
    allow(1, Some(7)),
    allow(1, Some(8)),
    allow(1, Some(9)),
    allow(5, Some(0)),
    allow(5, Some(1)),
    allow(5, Some(2)),
    allow(136, None),
];

/// The rules of a specification, followed by what every container may use. Empty when everything is allowed.
pub fn rules(resources: &LinuxResources) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for (index, device) in resources.devices().iter().flatten().enumerate() {
        let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
        let kind = match device.typ().unwrap_or_default() {
            LinuxDeviceType::A => Kind::All,
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => Kind::Character,
            LinuxDeviceType::P => {
                return Err(Error::Invalid {
                    field: field("type"),
                    reason: "must be one of a, b and c".to_owned(),
                });
            }
        };
        let number = |name: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value).map(Some).map_err(|_| Error::Invalid {
                field: field(name),
                reason: format!("{value} is no device number"),
            }),
        };
        let access = device
            .access()
            .as_deref()
            .filter(|access| !access.is_empty())
            .unwrap_or("rwm");
        rules.push(Rule {
            allow: device.allow(),
            kind,
            major: number("major", device.major())?,
            minor: number("minor", device.minor())?,
            access: Access::parse(access).ok_or_else(|| Error::Invalid {
                field: field("access"),
                reason: format!("{access:?} must be made of r, w and m"),
            })?,
        });
    }
    if rules.iter().all(|rule| rule.allow) {
        return Ok(Vec::new());
    }
    rules.extend(ALWAYS);
    Ok(rules)
}

impl Rule {
    /// Whether the rule is about everything.
    pub(super) fn is_total(&self) -> bool {
        self.kind == Kind::All
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == Access::ALL
    }

    /// The rule as version 1's files take it.
    pub(super) fn text(&self) -> String {
        let number = |number: Option<u32>| {
            number.map_or_else(|| "*".to_owned(), |number| number.to_string())
        };
        let kind = match self.kind {
            Kind::All => 'a',
            Kind::Block => 'b',
            Kind::Character => 'c',
        };
        format!(
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access.letters()
        )
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxResourcesBuilder};

    use super::*;

    fn deny_all() -> LinuxDeviceCgroup {
        LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()
            .unwrap()
    }

    #[test]
    fn no_rules_allow_everything() {
        assert_eq!(rules(&LinuxResources::default()).unwrap(), []);
        let all = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .access("rwm")
            .build()
            .unwrap();
        let resources = LinuxResourcesBuilder::default()
            .devices(vec![all])
            .build()
            .unwrap();
        assert_eq!(rules(&resources).unwrap(), [], "a privileged container");
    }

    #[test]
    fn the_default_devices_stay_allowed_when_everything_is_denied() {
        let resources = LinuxResourcesBuilder::default()
            .devices(vec![deny_all()])
            .build()
            .unwrap();
        let rules = rules(&resources).unwrap();
        assert!(rules[0].is_total() && !rules[0].allow);
        let text: Vec<_> = rules.iter().map(Rule::text).collect();
        assert_eq!(text[0], "a *:* rwm");
        assert!(text.contains(&"c 1:3 rwm".to_owned()) && text.contains(&"c 136:* rwm".to_owned()));
        assert!(text.contains(&"b *:* m".to_owned()));
    }

    #[test]
    fn an_access_that_does_not_exist_is_refused() {
        let mut rule = deny_all();
        rule.set_access(Some("rx".to_owned()));
        let resources = LinuxResourcesBuilder::default()
            .devices(vec![rule])
            .build()
            .unwrap();
        assert!(
            rules(&resources)
                .unwrap_err()
                .to_string()
                .contains("devices[0].access")
        );
    }
}
