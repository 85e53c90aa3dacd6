//! `plimsoll container prune`.

use std::path::Path;

use anyhow::anyhow;
use engine::{Home, logs};

use crate::cli::PruneArguments;
use crate::filter::{Filters, PRUNE_KEYS};
use crate::output;

pub(crate) fn containers(root: &Path, arguments: &PruneArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, PRUNE_KEYS)?;
    let until = filters
        .values("until")
        .iter()
        .map(|text| {
            logs::parse_time(text, logs::now()).ok_or_else(|| {
                anyhow!("invalid filter 'until={text}': neither a time nor a duration")
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let home = Home::open(root)?;
    if !arguments.force && !output::confirm("This will remove all stopped containers.")? {
        println!("Total reclaimed space: 0B");
        return Ok(0);
    }
    let mut reclaimed = 0;
    let mut removed = Vec::new();
    for item in engine::list(&home)? {
        let labels = Some(&item.record.spec.labels);
        if item.is_running()
            || !filters.labels_hold(labels)
            || until.iter().any(|until| item.record.created > *until)
        {
            continue;
        }
        let size = engine::size(&home, &item.record.id);
        match engine::remove(&home, &item.record.id, false, false) {
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
    if !removed.is_empty() {
        println!("Deleted Containers:");
        removed.iter().for_each(|id| println!("{id}"));
        println!();
    }
    println!("Total reclaimed space: {}", output::size(reclaimed));
    Ok(0)
}
