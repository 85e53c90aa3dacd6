//! `plimsoll build`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use engine::build::{self, BuildOptions, Progress, Said};
use engine::{Home, Reference};

use crate::cli::BuildArguments;
use crate::output;

/// The largest Dockerfile that is read, bytes: one more than a build takes, so that it can say so.
const FILE_MAX: u64 = (1 << 20) + 1;

pub(crate) fn build(root: &Path, arguments: &BuildArguments) -> anyhow::Result<u8> {
    if arguments.context.as_os_str() == "-" {
        bail!(
            "build - is refused: a context on standard input is not supported; name a directory, and the Dockerfile with -f -"
        );
    }
    let context = &arguments.context;
    if !context.is_dir() {
        bail!(
            "unable to prepare context: path {:?} is not a directory",
            context.display().to_string()
        );
    }
    let names = arguments
        .tag
        .iter()
        .map(|text| text.parse::<Reference>())
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
        bail!("--tag {name}: a digest follows from the content; it cannot be given to an image");
    }
    let (dockerfile, path) = dockerfile(arguments)?;
    let home = Home::open(root)?;
    let options = BuildOptions {
        context: fs::canonicalize(context)
            .with_context(|| format!("cannot use {}", context.display()))?,
        dockerfile,
        path,
        names,
        arguments: arguments
            .build_arg
            .iter()
            .filter_map(|word| build_argument(word))
            .collect(),
        labels: arguments.label.iter().map(|word| pair(word)).collect(),
        target: arguments.target.clone(),
        no_cache: arguments.no_cache,
        network: arguments.network.into(),
        find: &build::find_local,
    };
    let mut teller = Teller {
        kept: arguments.quiet.then(Vec::new),
    };
    let built = build::build(&home, &options, &mut teller);
    let image = match built {
        Ok(image) => image,
        Err(error) => {
            // What a quiet build did not show is wanted now.
            if let Some(kept) = &teller.kept {
                let _ = io::stderr().lock().write_all(kept);
            }
            return Err(error.into());
        }
    };
    if let Some(file) = &arguments.iidfile {
        fs::write(file, image.id.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.quiet {
        println!("{}", image.id);
    }
    Ok(0)
}

/// The Dockerfile's text, and its path if it is a file.
fn dockerfile(arguments: &BuildArguments) -> anyhow::Result<(Vec<u8>, Option<PathBuf>)> {
    let mut text = Vec::new();
    if let Some(file) = &arguments.file
        && file.as_os_str() == "-"
    {
        io::stdin()
            .lock()
            .take(FILE_MAX)
            .read_to_end(&mut text)
            .context("cannot read the Dockerfile from standard input")?;
        return Ok((text, None));
    }
    let path = match &arguments.file {
        Some(path) => path.clone(),
        None => arguments.context.join("Dockerfile"),
    };
    let file = File::open(&path).with_context(|| {
        format!(
            "unable to evaluate the Dockerfile's path: cannot open {}",
            path.display()
        )
    })?;
    file.take(FILE_MAX)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok((text, Some(path)))
}

/// `NAME=VALUE`, or `NAME` for the environment's value; none if that has none.
fn build_argument(word: &str) -> Option<(String, String)> {
    match word.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((word.to_owned(), std::env::var(word).ok()?)),
    }
}

fn pair(word: &str) -> (String, String) {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    (key.to_owned(), value.to_owned())
}

/// Shows a build as docker's classic builder does, or keeps it until something goes wrong.
struct Teller {
    kept: Option<Vec<u8>>,
}

impl Progress for Teller {
    fn step(&mut self, line: &str) {
        let line = output::printable(line) + "\n";
        self.output(Said::Output, line.as_bytes());
    }

    // docker shows both streams of a RUN on standard output.
    fn output(&mut self, _: Said, bytes: &[u8]) {
        match &mut self.kept {
            Some(kept) => kept.extend_from_slice(bytes),
            // Nobody listens any more: the image counts.
            None => {
                let mut stdout = io::stdout().lock();
                let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
            }
        }
    }

    fn warning(&mut self, line: &str) {
        eprintln!("{}", output::printable(line));
    }
}
