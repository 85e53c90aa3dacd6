//! `plimsoll save`, and the file or stream that it and `export` write to.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, bail};
use engine::{Home, SaveFormat};

use crate::cli::{ArchiveFormat, SaveArguments};

pub(crate) fn save(root: &Path, arguments: &SaveArguments) -> anyhow::Result<u8> {
    let store = Home::open(root)?.images()?;
    engine::base::ensure(&store)?;
    // What is not there is told before a file is begun.
    for image in &arguments.images {
        if !image.contains([':', '@']) && has_repository(&store, image)? {
            continue;
        }
        store.resolve(image)?;
    }
    let format = match arguments.format {
        ArchiveFormat::Both => SaveFormat::Both,
        ArchiveFormat::OciArchive => SaveFormat::Oci,
        ArchiveFormat::DockerArchive => SaveFormat::Docker,
    };
    write(arguments.output.as_deref(), &mut |output| {
        Ok(store.save(&arguments.images, format, output)?)
    })
}

fn has_repository(store: &engine::Store, name: &str) -> anyhow::Result<bool> {
    let Ok(reference) = name.parse::<engine::Reference>() else {
        return Ok(false);
    };
    let images = store.list()?;
    Ok(images
        .iter()
        .any(|image| image.repository.as_deref() == Some(reference.repository())))
}

/// Writes an archive to a file, which appears whole or not at all, or to standard output.
pub(crate) fn write(
    path: Option<&Path>,
    work: &mut dyn FnMut(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<u8> {
    let Some(path) = path else {
        if io::stdout().is_terminal() {
            bail!("cowardly refusing to save to a terminal: use the -o flag or redirect");
        }
        let mut output = BufWriter::with_capacity(256 << 10, io::stdout().lock());
        work(&mut output)?;
        output.flush()?;
        return Ok(0);
    };
    // A device or a pipe is written to as it is.
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        let file = File::options()
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut output = BufWriter::with_capacity(256 << 10, file);
        work(&mut output)?;
        output.flush()?;
        return Ok(0);
    }
    let name = path
        .file_name()
        .with_context(|| format!("{} does not name a file", path.display()))?;
    let partial = path.with_file_name(format!(
        ".{}.{}.part",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = (|| {
        let file = File::create_new(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        let mut output = BufWriter::with_capacity(256 << 10, file);
        work(&mut output)?;
        output
            .flush()
            .with_context(|| format!("cannot write {}", path.display()))?;
        fs::rename(&partial, path).with_context(|| format!("cannot create {}", path.display()))
    })();
    if written.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    written.map(|()| 0)
}
