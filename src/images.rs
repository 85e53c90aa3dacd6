//! `plimsoll images`.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::{Home, ImageSummary, Store};
use serde_json::{Value, json};

use crate::cli::ImagesArguments;
use crate::filter::{Filters, IMAGE_KEYS};
use crate::format::{list, time};
use crate::{output, prune};

pub(crate) fn images(root: &Path, arguments: &ImagesArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, IMAGE_KEYS)?;
    let until = prune::moments(&filters)?;
    let home = Home::open(root)?;
    let store = home.images()?;
    engine::base::ensure(&store)?;
    let images = store.list()?;
    let wanted = Wanted {
        times: times(&store, &images, &filters, until)?,
        repository: arguments
            .repository
            .as_ref()
            .map(|name| Filters::parse(&[format!("reference={name}")], IMAGE_KEYS))
            .transpose()?,
        filters,
    };
    let mut rows = Vec::with_capacity(images.len());
    for image in &images {
        if wanted.takes(&store, image)? {
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

/// What the command line asks for.
struct Wanted {
    filters: Filters,
    repository: Option<Filters>,
    times: Times,
}

/// Between which times an image must have been made; one that does not say when was not.
#[derive(Default)]
struct Times {
    after: Vec<Option<SystemTime>>,
    before: Vec<Option<SystemTime>>,
}

impl Times {
    fn hold(&self, created: Option<SystemTime>) -> bool {
        let known = |limit: &Option<SystemTime>| Some((*limit)?.cmp(&created?));
        self.after
            .iter()
            .all(|limit| known(limit).is_some_and(|order| order.is_lt()))
            && self
                .before
                .iter()
                .all(|limit| known(limit).is_some_and(|order| order.is_gt()))
    }
}

/// What `since`, `before` and `until` say.
fn times(
    store: &Store,
    images: &[ImageSummary],
    filters: &Filters,
    until: Vec<u64>,
) -> anyhow::Result<Times> {
    let made = |name: &String| -> anyhow::Result<Option<SystemTime>> {
        let id = store.resolve(name)?.id;
        let image = images.iter().find(|image| image.id == id);
        Ok(image.and_then(|image| image.created))
    };
    let mut times = Times {
        after: filters
            .values("since")
            .iter()
            .map(made)
            .collect::<Result<_, _>>()?,
        before: filters
            .values("before")
            .iter()
            .map(made)
            .collect::<Result<_, _>>()?,
    };
    let moment = |nanoseconds| UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds));
    times.before.extend(until.into_iter().map(moment));
    Ok(times)
}

impl Wanted {
    fn takes(&self, store: &Store, image: &ImageSummary) -> anyhow::Result<bool> {
        let name = image.repository.as_deref();
        let tag = image.tag.as_deref().unwrap_or_default();
        let named = |filters: &Filters| filters.reference_holds(name, tag);
        let fits = named(&self.filters)
            && self.repository.as_ref().is_none_or(named)
            && self.times.hold(image.created)
            && self
                .filters
                .flag("dangling")
                .is_none_or(|wanted| wanted == name.is_none());
        if !fits || !self.filters.asks_for_labels() {
            return Ok(fits);
        }
        let labels = prune::labels(&store.resolve(&image.id.to_string())?);
        Ok(self.filters.labels_hold(Some(&labels)))
    }
}

/// docker's word for a name that is not there.
fn or_none(name: Option<&str>) -> String {
    name.unwrap_or("<none>").to_owned()
}

fn unix_seconds(moment: Option<SystemTime>) -> Option<u64> {
    Some(moment?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}
