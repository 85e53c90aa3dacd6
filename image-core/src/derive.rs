//! The configuration of an image made from another one.

use std::time::SystemTime;

use oci_spec::image::Config;
use serde_json::{Map, Value, json};

use crate::import::to_json;
use crate::{Digest, Result, timestamp};

/// What [`Config`] knows of a configuration. Whatever else an image has (docker's Healthcheck and Shell) goes on to those made from it.
const KNOWN: [&str; 9] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
];

/// One step from an image to the next.
#[derive(Clone, Debug)]
pub struct Step<'s> {
    /// When it was done. Fractions of a second are left out.
    pub created: SystemTime,
    /// The instruction or command.
    pub created_by: &'s str,
    /// What is said of it.
    pub comment: Option<&'s str>,
    /// Who did it; none: whoever made the image before.
    pub author: Option<&'s str>,
    /// The diff ID of its layer, if it has one.
    pub layer: Option<Digest>,
}

/// The configuration of an image for linux/amd64 that has nothing yet: what `FROM scratch` begins with.
#[must_use]
pub fn empty_configuration() -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    })
}

/// The configuration that `step` makes out of `base`, with `config` as what instances get from it.
///
/// # Errors
/// When `config` cannot be written as JSON.
pub fn derive(base: &Value, config: &Config, step: &Step<'_>) -> Result<Value> {
    let created = timestamp::format(whole_seconds(step.created));
    let mut members = match base.get("config") {
        Some(Value::Object(members)) => members.clone(),
        _ => Map::new(),
    };
    for name in KNOWN {
        members.remove(name);
    }
    let config: Value = serde_json::from_slice(&to_json(config)?).unwrap_or_default();
    if let Value::Object(known) = config {
        members.extend(known.into_iter().filter(|(_, value)| !value.is_null()));
    }
    let mut history = json!({"created": created, "created_by": step.created_by});
    if let Some(comment) = step.comment.filter(|text| !text.is_empty()) {
        history["comment"] = comment.into();
    }
    if let Some(author) = step.author.filter(|text| !text.is_empty()) {
        history["author"] = author.into();
    }
    let list = |pointer: &str| match base.pointer(pointer) {
        Some(Value::Array(items)) => items.clone(),
        _ => Vec::new(),
    };
    let (mut steps, mut layers) = (list("/history"), list("/rootfs/diff_ids"));
    match step.layer {
        Some(layer) => layers.push(layer.to_string().into()),
        None => history["empty_layer"] = true.into(),
    }
    steps.push(history);
    let mut derived = json!({
        "architecture": base.get("architecture").cloned().unwrap_or_else(|| "amd64".into()),
        "os": base.get("os").cloned().unwrap_or_else(|| "linux".into()),
        "created": created,
        "config": members,
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": steps,
    });
    if let Some(variant) = base.get("variant") {
        derived["variant"] = variant.clone();
    }
    let author = step
        .author
        .map(Value::from)
        .or_else(|| base.get("author").cloned());
    if let Some(author) = author.filter(|author| author != "") {
        derived["author"] = author;
    }
    Ok(derived)
}

pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs()),
        Err(_) => time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, apply};

    #[test]
    fn what_oci_does_not_know_of_a_configuration_goes_on_and_the_rest_is_replaced() {
        let mut base = empty_configuration();
        base["config"] = json!({"Healthcheck": {"Test": ["NONE"]}, "Cmd": ["old"], "User": "me"});
        base["author"] = "somebody".into();
        let changes: Vec<Change> = vec!["CMD [\"new\"]".parse().unwrap()];
        let config = apply(None, &changes).unwrap();
        let step = Step {
            created: SystemTime::UNIX_EPOCH,
            created_by: "CMD",
            comment: None,
            author: None,
            layer: Some(Digest::of(b"x")),
        };
        let derived = derive(&base, &config, &step).unwrap();
        assert_eq!(
            derived["config"],
            json!({"Healthcheck": {"Test": ["NONE"]}, "Cmd": ["new"]})
        );
        assert_eq!(
            derived["rootfs"]["diff_ids"][0],
            Digest::of(b"x").to_string()
        );
        assert_eq!(derived["author"], "somebody");
        let next = derive(
            &derived,
            &config,
            &Step {
                layer: None,
                ..step
            },
        )
        .unwrap();
        assert_eq!(next["history"][1]["empty_layer"], true);
        assert_eq!(next["rootfs"], derived["rootfs"]);
    }
}
