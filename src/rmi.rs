//! `plimsoll rmi`.

use std::path::Path;

use engine::{Error, Home, Removed};

use crate::cli::RmiArguments;

pub(crate) fn rmi(root: &Path, arguments: &RmiArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let store = home.images()?;
    let mut code = 0;
    // As docker: what can be removed is removed, each failure is told, and the exit code says that there was one.
    for name in &arguments.images {
        match remove(&home, &store, name, arguments.force) {
            Ok(removed) => {
                for item in removed {
                    match item {
                        Removed::Untagged(name) => println!("Untagged: {name}"),
                        Removed::Deleted(id) => println!("Deleted: {id}"),
                    }
                }
            }
            Err(error) => {
                eprintln!("plimsoll: {error}");
                code = 1;
            }
        }
    }
    Ok(code)
}

fn remove(
    home: &Home,
    store: &engine::Store,
    name: &str,
    force: bool,
) -> engine::Result<Vec<Removed>> {
    let image = store.resolve(name)?;
    let last_name = image.names.len() <= 1;
    if last_name && let Some(used) = engine::user_of_image(home, &image.id.to_string())? {
        let running = used.is_running();
        if running || !force {
            return Err(Error::ImageInUse {
                image: name.to_owned(),
                instance: used.record.short_id().to_owned(),
                running,
            });
        }
    }
    Ok(store.remove(name, force)?)
}
