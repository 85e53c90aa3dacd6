//! `volume inspect`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::format::time;

/// What is known of a volume.
#[derive(Debug, Clone, Default)]
pub(crate) struct VolumeFacts {
    /// Its name; 64 hexadecimal digits for an anonymous one.
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Where its files are on the host.
    pub(crate) mountpoint: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// `--opt` of `volume create`.
    pub(crate) options: BTreeMap<String, String>,
}

/// docker's object for a volume. Labels and options that were never given are null, as docker has them.
pub(crate) fn inspect_volume(facts: &VolumeFacts) -> Value {
    let map = |map: &BTreeMap<String, String>| {
        if map.is_empty() {
            Value::Null
        } else {
            json!(map)
        }
    };
    json!({
        "CreatedAt": time::rfc3339(facts.created.saturating_mul(1_000_000_000)),
        "Driver": "local",
        "Labels": map(&facts.labels),
        "Mountpoint": facts.mountpoint,
        "Name": facts.name,
        "Options": map(&facts.options),
        "Scope": "local",
    })
}
