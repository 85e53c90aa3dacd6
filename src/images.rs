//! `plimsoll images`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::Home;
use serde_json::json;

use crate::cli::{Format, ImagesArguments};
use crate::output;

pub(crate) fn images(root: &Path, arguments: &ImagesArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let store = home.images()?;
    engine::base::ensure(&store)?;
    let images = store.list()?;
    let id = |image: &engine::ImageSummary| {
        if arguments.no_trunc {
            image.id.to_string()
        } else {
            image.id.short()
        }
    };
    if arguments.quiet {
        images.iter().for_each(|image| println!("{}", id(image)));
        return Ok(0);
    }
    match arguments.format {
        Format::Json => output::json_lines(images.iter().map(|image| {
            json!({
                "Repository": or_none(image.repository.as_deref()),
                "Tag": or_none(image.tag.as_deref()),
                "ID": id(image),
                "CreatedAt": unix_seconds(image.created),
                "Size": output::size(image.bytes),
                "Bytes": image.bytes,
            })
        }))?,
        Format::Table => {
            let rows: Vec<Vec<String>> = images
                .iter()
                .map(|image| {
                    vec![
                        or_none(image.repository.as_deref()),
                        or_none(image.tag.as_deref()),
                        id(image),
                        unix_seconds(image.created).map_or_else(|| "N/A".into(), output::ago),
                        output::size(image.bytes),
                    ]
                })
                .collect();
            output::table(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows)?;
        }
    }
    Ok(0)
}

/// docker's word for a name that is not there.
fn or_none(name: Option<&str>) -> String {
    name.unwrap_or("<none>").to_owned()
}

fn unix_seconds(moment: Option<SystemTime>) -> Option<u64> {
    Some(moment?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}
