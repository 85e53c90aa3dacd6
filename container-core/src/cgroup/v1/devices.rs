//! Devices (admin-guide/cgroup-v1/devices.rst).

use crate::cgroup::Result;
use crate::cgroup::devices::Rule;
use crate::cgroup::directory::Directory;

/// Writes the rules in their order. A rule about everything replaces all before it, so that those need no writing.
pub(in crate::cgroup) fn apply(directory: &Directory, rules: &[Rule]) -> Result<()> {
    let start = rules.iter().rposition(Rule::is_total).unwrap_or(0);
    let mut rest = rules.get(start..).unwrap_or_default();
    while let Some(first) = rest.first() {
        let run = rest
            .iter()
            .take_while(|rule| rule.allow == first.allow)
            .count();
        let (now, later) = rest.split_at(run);
        let file = if first.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        let text: Vec<_> = now
            .iter()
            .map(|rule| {
                if rule.is_total() {
                    "a".to_owned()
                } else {
                    rule.text()
                }
            })
            .collect();
        directory.write_each(file, &text)?;
        rest = later;
    }
    Ok(())
}
