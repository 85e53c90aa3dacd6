//! `plimsoll container prune` and `plimsoll image prune`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::anyhow;
use engine::images::PrunedImages;
use engine::{Home, Image, Removed, Store, logs};

use crate::cli::{ImagePruneArguments, PruneArguments};
use crate::filter::{Filters, IMAGE_PRUNE_KEYS, PRUNE_KEYS};
use crate::output;

pub(crate) fn containers(root: &Path, arguments: &PruneArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, PRUNE_KEYS)?;
    let until = moments(&filters)?;
    let home = Home::open(root)?;
    if !arguments.force && !output::confirm("This will remove all stopped containers.")? {
        println!("Total reclaimed space: 0B");
        return Ok(0);
    }
    let (removed, reclaimed) = stopped(&home, &filters, &until)?;
    tell("Deleted Containers:", &removed);
    println!("Total reclaimed space: {}", output::size(reclaimed));
    Ok(0)
}

/// The moments of `until` filters, nanoseconds since 1970.
pub(crate) fn moments(filters: &Filters) -> anyhow::Result<Vec<u64>> {
    filters
        .values("until")
        .iter()
        .map(|text| {
            logs::parse_time(text, logs::now()).ok_or_else(|| {
                anyhow!("invalid filter 'until={text}': neither a time nor a duration")
            })
        })
        .collect()
}

/// Removes the instances that do not run and fit; their identifiers, and the bytes that they had written.
pub(crate) fn stopped(
    home: &Home,
    filters: &Filters,
    until: &[u64],
) -> anyhow::Result<(Vec<String>, u64)> {
    let mut reclaimed = 0;
    let mut removed = Vec::new();
    for item in engine::list(home)? {
        let labels = Some(&item.record.spec.labels);
        if item.is_running()
            || !filters.labels_hold(labels)
            || until.iter().any(|until| item.record.created > *until)
        {
            continue;
        }
        let size = engine::size(home, &item.record.id);
        match engine::remove(home, &item.record.id, false, false) {
            Ok(()) => {
                reclaimed += size;
                removed.push(item.record.id);
            }
            // Somebody starts or removes it at this moment.
            Err(
                engine::Error::Running(_)
                | engine::Error::RemoveRunning(_)
                | engine::Error::NoSuchInstance(_),
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((removed, reclaimed))
}

/// A title and a line for each item, if there are any.
pub(crate) fn tell(title: &str, items: &[String]) {
    if !items.is_empty() {
        println!("{title}");
        items.iter().for_each(|item| println!("{item}"));
        println!();
    }
}

pub(crate) fn images(root: &Path, arguments: &ImagePruneArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, IMAGE_PRUNE_KEYS)?;
    let until = moments(&filters)?;
    // docker: --filter dangling=false is another word for --all.
    let all = arguments.all || filters.flag("dangling") == Some(false);
    let home = Home::open(root)?;
    let what = if all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !arguments.force && !output::confirm(what)? {
        println!("Total reclaimed space: 0B");
        return Ok(0);
    }
    let pruned = unused(&home, &home.images()?, all, &filters, &until)?;
    tell("Deleted Images:", &lines(&pruned.removed));
    println!("Total reclaimed space: {}", output::size(pruned.bytes));
    Ok(0)
}

/// Removes the images that no instance is made from and that fit: those without a name, or `all`.
pub(crate) fn unused(
    home: &Home,
    store: &Store,
    all: bool,
    filters: &Filters,
    until: &[u64],
) -> anyhow::Result<PrunedImages> {
    Ok(engine::images::prune(home, store, &|summary, image| {
        let created = summary.created.map(|time| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        });
        (all || image.names.is_empty())
            && filters.labels_hold(Some(&labels(image)))
            // One that does not say when it was made is older than nothing.
            && until.iter().all(|until| created.is_some_and(|created| created <= *until))
    })?)
}

/// An image's labels.
pub(crate) fn labels(image: &Image) -> BTreeMap<String, String> {
    let config = image.config.config().as_ref();
    let labels = config.and_then(|config| config.labels().clone());
    labels.unwrap_or_default().into_iter().collect()
}

/// docker's words for what a prune removed.
pub(crate) fn lines(removed: &[Removed]) -> Vec<String> {
    removed
        .iter()
        .map(|item| match item {
            Removed::Untagged(name) => format!("untagged: {name}"),
            Removed::Deleted(id) => format!("deleted: {id}"),
        })
        .collect()
}
