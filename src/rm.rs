//! `plimsoll rm`.

use std::path::Path;

use engine::Home;

use crate::cli::RmArguments;

pub(crate) fn rm(root: &Path, arguments: &RmArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let mut code = 0;
    for wanted in &arguments.instances {
        match engine::remove(&home, wanted, arguments.force, arguments.volumes) {
            Ok(()) => println!("{wanted}"),
            // docker: what `rm -f` was to remove and is not there is no failure, but is told.
            Err(error @ engine::Error::NoSuchInstance(_)) if arguments.force => {
                eprintln!("plimsoll: {error}")
            }
            Err(error) => {
                eprintln!("plimsoll: {error}");
                code = 1;
            }
        }
    }
    Ok(code)
}
