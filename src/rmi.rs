//! `plimsoll rmi`.

use std::path::Path;

use engine::{Home, Removed};

use crate::cli::RmiArguments;

pub(crate) fn rmi(root: &Path, arguments: &RmiArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let store = home.images()?;
    let mut code = 0;
    // As docker: what can be removed is removed, each failure is told, and the exit code says that there was one.
    for name in &arguments.images {
        match engine::images::remove(&home, &store, name, arguments.force) {
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
