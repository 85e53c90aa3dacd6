//! `plimsoll tag`.

use std::path::Path;

use engine::{Home, Reference};

use crate::cli::TagArguments;

pub(crate) fn tag(root: &Path, arguments: &TagArguments) -> anyhow::Result<u8> {
    let target: Reference = arguments.target.parse()?;
    let store = Home::open(root)?.images()?;
    engine::base::ensure(&store)?;
    store.tag(&arguments.source, &target)?;
    Ok(0)
}
