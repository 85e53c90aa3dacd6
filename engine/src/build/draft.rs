//! A stage in the making: its configuration, layers and arguments, and the key that says what all of it came of.

use std::collections::BTreeMap;

use image_core::dockerfile::Command;
use image_core::{Digest, Image, Step, StoredLayer, derive, empty_configuration};
use oci_spec::image::Config;
use serde_json::Value;

use crate::error::Result;

/// docker's shell for commands that are a line of text.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Build arguments that need no ARG and are part of no key: what they say is of this machine's network, not of the image.
pub(super) const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// A stage so far.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// The whole configuration of an image.
    pub(super) config: Value,
    /// Its layers, lowest first.
    pub(super) layers: Vec<StoredLayer>,
    /// What all of it came of.
    pub(super) key: Digest,
    /// The values of the stage's ARGs.
    pub(super) arguments: BTreeMap<String, String>,
    /// Whether a CMD of this Dockerfile has been there: one of the base image goes with an ENTRYPOINT.
    pub(super) has_cmd: bool,
    /// The image so far, as it would be.
    image: Image,
    /// Whether nothing has been done yet: then it is the base image itself.
    is_base: bool,
}

impl Draft {
    /// A stage on an image, or on nothing.
    pub(super) fn on(
        base: Option<(Image, Value, Vec<StoredLayer>)>,
        source_date: Option<i64>,
    ) -> Result<Self> {
        let is_base = base.is_some();
        let (image, config, layers) = match base {
            Some(base) => base,
            None => {
                let config = empty_configuration();
                (Image::provisional(&config)?, config, Vec::new())
            }
        };
        let mut draft = Self {
            key: image.id,
            config,
            layers,
            arguments: BTreeMap::new(),
            has_cmd: false,
            image,
            is_base,
        };
        // Times in layers depend on it.
        draft.key = draft.key_of(&["source date", &format!("{source_date:?}")]);
        Ok(draft)
    }

    /// A stage on an earlier one.
    pub(super) fn on_stage(&self) -> Self {
        Self {
            arguments: BTreeMap::new(),
            has_cmd: false,
            ..self.clone()
        }
    }

    /// The image so far, as it would be.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Its short ID, as the steps of a build show it.
    pub(super) fn shown(&self) -> String {
        self.image.id.short()
    }

    /// Whether it is the base image itself, to which nothing has been done.
    pub(super) fn is_base(&self) -> bool {
        self.is_base
    }

    /// What instances get from the image.
    pub(super) fn own(&self) -> Config {
        self.image.config.config().clone().unwrap_or_default()
    }

    /// The key of a step after all before it.
    pub(super) fn key_of(&self, parts: &[&str]) -> Digest {
        let mut text = self.key.to_string();
        for part in parts {
            // With their lengths, no two lists give the same text.
            text.push_str(&format!("\n{}:", part.len()));
            text.push_str(part);
        }
        Digest::of(text.as_bytes())
    }

    /// A value for a variable of the Dockerfile: of the image's environment, or of an ARG.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let config = self.image.config.config().as_ref();
        let env = config.and_then(|config| config.env().as_ref());
        let own = env.into_iter().flatten().find_map(|entry| {
            let (known, value) = entry.split_once('=')?;
            (known == name).then(|| value.to_owned())
        });
        own.or_else(|| self.arguments.get(name).cloned())
    }

    /// The ARGs as variables of a RUN, without those that the image's environment has.
    pub(super) fn environment(&self) -> Vec<String> {
        let config = self.image.config.config().as_ref();
        let env = config.and_then(|config| config.env().as_ref());
        let is_set = |name: &str| {
            env.into_iter()
                .flatten()
                .any(|entry| entry.split('=').next() == Some(name))
        };
        self.arguments
            .iter()
            .filter(|(name, _)| !is_set(name))
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    /// The words of a command, a line of text with the stage's shell.
    pub(super) fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => {
                let mut words = self.shell();
                words.push(line.clone());
                words
            }
        }
    }

    fn shell(&self) -> Vec<String> {
        let set = self
            .config
            .pointer("/config/Shell")
            .and_then(Value::as_array);
        match set {
            Some(words) if !words.is_empty() => words
                .iter()
                .filter_map(|word| word.as_str().map(str::to_owned))
                .collect(),
            _ => SHELL.map(str::to_owned).to_vec(),
        }
    }

    /// Sets a member of the configuration that OCI does not know.
    pub(super) fn set_extra(&mut self, name: &str, value: Value) {
        if !self.config["config"].is_object() {
            self.config["config"] = Value::Object(serde_json::Map::new());
        }
        self.config["config"][name] = value;
    }

    /// Takes a step.
    pub(super) fn advance(
        &mut self,
        key: Digest,
        config: &Config,
        layer: Option<StoredLayer>,
        step: &Step<'_>,
    ) -> Result<()> {
        self.config = derive(&self.config, config, step)?;
        self.image = Image::provisional(&self.config)?;
        self.is_base = false;
        self.key = key;
        if let Some(layer) = layer {
            // What a step came to counts, not that it was done: equal content keeps what comes after it in the cache.
            self.key = self.key_of(&["layer", &layer.diff_id.to_string()]);
            self.layers.push(layer);
        }
        Ok(())
    }
}
