//! `inspect`: what is known of a container, an image or a volume, in the shape that docker gives it.

mod container;
mod image;
mod volume;

pub(crate) use container::{ContainerFacts, HostFacts, MountFacts, StateFacts, inspect_container};
pub(crate) use image::{ImageFacts, inspect_image};
pub(crate) use volume::{VolumeFacts, inspect_volume};

use serde_json::Value;

use super::json;
use super::schema;
use crate::template::{Missing, Options, Shape, Template};

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An instance, of either backend.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
}

impl Kind {
    fn shape(self) -> Shape {
        match self {
            Self::Container => Shape::Struct(&schema::CONTAINER),
            Self::Image => Shape::Struct(&schema::IMAGE),
            Self::Volume => Shape::Struct(&schema::VOLUME),
            Self::Network => Shape::Struct(&schema::NETWORK),
        }
    }
}

/// What `inspect [--format FORMAT]` prints of these: without a format a JSON list, with `json` the same on one line, with
/// a template a line each. A template that cannot be read or evaluated is an error in docker's words.
pub(crate) fn render(items: &[(Kind, Value)], format: Option<&str>) -> anyhow::Result<String> {
    match format {
        None | Some("") => Ok(list(items, true)),
        Some("json") => Ok(list(items, false)),
        Some(format) => {
            let template = Template::parse(format)?;
            let mut text = String::new();
            for (kind, value) in items {
                text.push_str(&template.render(
                    value,
                    Options {
                        missing: Missing::Entry,
                        shape: kind.shape(),
                        titles: false,
                    },
                )?);
                text.push('\n');
            }
            Ok(text)
        }
    }
}

fn list(items: &[(Kind, Value)], pretty: bool) -> String {
    if items.is_empty() {
        return "[]\n".into();
    }
    // Each item has a shape of its own, so the list around them is written here.
    let written: Vec<String> = items
        .iter()
        .map(|(kind, value)| {
            let text = json::write(value, kind.shape(), pretty);
            if pretty {
                text.lines()
                    .map(|line| format!("    {line}"))
                    .collect::<Vec<_>>()
                    .join("\n")
            } else {
                text
            }
        })
        .collect();
    if pretty {
        format!("[\n{}\n]\n", written.join(",\n"))
    } else {
        format!("[{}]\n", written.join(","))
    }
}

#[cfg(test)]
mod tests;
