//! `plimsoll container prune`.

use std::path::Path;

use engine::Home;

use crate::cli::PruneArguments;
use crate::output;

pub(crate) fn containers(root: &Path, arguments: &PruneArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    if !arguments.force && !output::confirm("This will remove all stopped containers.")? {
        return Ok(0);
    }
    let mut reclaimed = 0;
    let mut removed = Vec::new();
    for item in engine::list(&home)? {
        if item.is_running() {
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
