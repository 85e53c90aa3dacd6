//! `plimsoll images`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use engine::{Home, ImageSummary};
use serde_json::{Value, json};

use crate::cli::ImagesArguments;
use crate::filter::{Filters, IMAGE_KEYS};
use crate::format::{list, time};
use crate::output;

pub(crate) fn images(root: &Path, arguments: &ImagesArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, IMAGE_KEYS)?;
    if let Some(key) = ["label", "until"]
        .iter()
        .find(|key| !filters.values(key).is_empty())
    {
        bail!("--filter {key}=… is for prunes: use before, dangling, reference or since");
    }
    let home = Home::open(root)?;
    let store = home.images()?;
    engine::base::ensure(&store)?;
    let images = store.list()?;
    let mut rows = Vec::with_capacity(images.len());
    for image in &images {
        if shown(image, &images, &filters, arguments.repository.as_deref())? {
            rows.push(row(image, arguments.no_trunc));
        }
    }
    let kind = if arguments.digests {
        &list::IMAGES_WITH_DIGESTS
    } else {
        &list::IMAGES
    };
    list::print(kind, arguments.format.as_deref(), arguments.quiet, &rows)?;
    Ok(0)
}

fn row(image: &ImageSummary, whole: bool) -> Value {
    let created = unix_seconds(image.created);
    let size = output::size(image.bytes);
    json!({
        "Bytes": image.bytes,
        "Containers": "N/A",
        "CreatedAt": created.map_or_else(|| "N/A".into(), time::created_at),
        "CreatedSince": created.map_or_else(|| "N/A".into(), output::ago),
        "Digest": image.manifest.to_string(),
        "ID": if whole { image.id.to_string() } else { image.id.short() },
        "Repository": or_none(image.repository.as_deref()),
        "SharedSize": "N/A",
        "Size": size,
        "Tag": or_none(image.tag.as_deref()),
        "UniqueSize": "N/A",
        "VirtualSize": size,
    })
}

fn shown(
    image: &ImageSummary,
    all: &[ImageSummary],
    filters: &Filters,
    repository: Option<&str>,
) -> anyhow::Result<bool> {
    let name = image.repository.as_deref().unwrap_or_default();
    let tag = image.tag.as_deref().unwrap_or_default();
    if let Some(wanted) = repository {
        let alone = Filters::parse(&[format!("reference={wanted}")], IMAGE_KEYS)?;
        if !alone.reference_holds(name, tag) {
            return Ok(false);
        }
    }
    if !filters.reference_holds(name, tag)
        || filters
            .flag("dangling")
            .is_some_and(|wanted| wanted != image.repository.is_none())
    {
        return Ok(false);
    }
    for (key, after) in [("since", true), ("before", false)] {
        for wanted in filters.values(key) {
            let Some(other) = all.iter().find(|other| is_called(other, wanted)) else {
                bail!("no such image: {wanted}");
            };
            if image.id == other.id || (image.created > other.created) != after {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether an image goes by this name, or by the beginning of its identifier.
fn is_called(image: &ImageSummary, wanted: &str) -> bool {
    let name = image.repository.as_deref().unwrap_or_default();
    let tag = image.tag.as_deref().unwrap_or_default();
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    format!("{name}:{tag}") == wanted
        || (tag == "latest" && name == wanted)
        || (hex.len() >= 4 && image.id.hex().starts_with(hex))
}

/// docker's word for a name that is not there.
fn or_none(name: Option<&str>) -> String {
    name.unwrap_or("<none>").to_owned()
}

fn unix_seconds(moment: Option<SystemTime>) -> Option<u64> {
    Some(moment?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}
