//! `image inspect`.

use serde_json::{Map, Value, json};

use crate::format::time;

/// What is known of an image besides its OCI configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImageFacts {
    /// `sha256:…`, the digest of its configuration.
    pub(crate) id: String,
    /// `busybox:latest`.
    pub(crate) tags: Vec<String>,
    /// `busybox@sha256:…`.
    pub(crate) digests: Vec<String>,
    /// The OCI configuration as it stands in the store.
    pub(crate) config: Value,
    /// Bytes of all layers, unpacked.
    pub(crate) size: u64,
    /// The unpacked layers' directories, the topmost first.
    pub(crate) directories: Vec<String>,
    /// When it got its last name, in nanoseconds since 1970.
    pub(crate) tagged: Option<u64>,
}

/// docker's object for an image.
pub(crate) fn inspect_image(facts: &ImageFacts) -> Value {
    let config = &facts.config;
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let comment = config
        .get("history")
        .and_then(Value::as_array)
        .and_then(|history| history.last())
        .and_then(|last| last.get("comment"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let layers = config
        .pointer("/rootfs/diff_ids")
        .cloned()
        .unwrap_or_else(|| json!([]));
    let mut value = json!({
        "Id": facts.id,
        "RepoTags": facts.tags,
        "RepoDigests": facts.digests,
        "Parent": "",
        "Comment": comment,
        "Created": text("created"),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": image_config(config.get("config")),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": facts.size,
        "GraphDriver": graph_driver(&facts.directories),
        "RootFS": {"Type": "layers", "Layers": layers},
        "Metadata": {
            "LastTagTime": facts.tagged.map_or_else(|| time::NEVER.to_owned(), time::rfc3339),
        },
    });
    if let (Some(members), Some(variant)) = (value.as_object_mut(), config.get("variant")) {
        members.insert("Variant".into(), variant.clone());
    }
    value
}

/// The configuration with docker's members that OCI leaves out when they are empty.
fn image_config(config: Option<&Value>) -> Value {
    let given = config.and_then(Value::as_object);
    let mut members = Map::new();
    for (name, default) in [
        ("Hostname", json!("")),
        ("Domainname", json!("")),
        ("User", json!("")),
        ("AttachStdin", json!(false)),
        ("AttachStdout", json!(false)),
        ("AttachStderr", json!(false)),
        ("Tty", json!(false)),
        ("OpenStdin", json!(false)),
        ("StdinOnce", json!(false)),
        ("Env", Value::Null),
        ("Cmd", Value::Null),
        ("Image", json!("")),
        ("Volumes", Value::Null),
        ("WorkingDir", json!("")),
        ("Entrypoint", Value::Null),
        ("OnBuild", Value::Null),
        ("Labels", Value::Null),
    ] {
        members.insert(name.into(), default);
    }
    for (name, value) in given.into_iter().flatten() {
        members.insert(name.clone(), value.clone());
    }
    Value::Object(members)
}

fn graph_driver(directories: &[String]) -> Value {
    let mut data = Map::new();
    if let Some((upper, lower)) = directories.split_first() {
        if !lower.is_empty() {
            data.insert("LowerDir".into(), lower.join(":").into());
        }
        data.insert("UpperDir".into(), upper.as_str().into());
    }
    json!({"Data": data, "Name": "overlay2"})
}
