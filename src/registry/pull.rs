//! `plimsoll pull`, `plimsoll push`, and the pull before a `run` or `create`.

use std::path::Path;

use anyhow::Context;
use engine::registry::{Platform, full_name};
use engine::{Home, ImageError, Reference, base};

use super::show::{Show, Where};
use super::{client, refuse_built_in};
use crate::cli::{PullArguments, PullPolicy, PushArguments};

pub(crate) fn pull(root: &Path, arguments: &PullArguments) -> anyhow::Result<u8> {
    let name: Reference = arguments.name.parse()?;
    refuse_built_in(&name)?;
    let platform = platform(arguments.platform.as_deref())?;
    let home = Home::open(root)?;
    if !arguments.quiet && !says_tag(&arguments.name) {
        println!("Using default tag: latest");
    }
    let to = if arguments.quiet {
        Where::Nowhere
    } else {
        Where::Stdout
    };
    fetch(&home, &name, &platform, to)?;
    println!("{}", full_name(&name).0);
    Ok(0)
}

pub(crate) fn push(root: &Path, arguments: &PushArguments) -> anyhow::Result<u8> {
    let name: Reference = arguments.name.parse()?;
    refuse_built_in(&name)?;
    let home = Home::open(root)?;
    let store = home.images()?;
    let (full, _) = full_name(&name);
    let to = if arguments.quiet {
        Where::Nowhere
    } else {
        Where::Stdout
    };
    let show = Show::push(to);
    if !arguments.quiet {
        if !says_tag(&arguments.name) {
            println!("Using default tag: latest");
        }
        let repository = full
            .rsplit_once(':')
            .map_or(full.as_str(), |(before, _)| before);
        println!("The push refers to repository [{repository}]");
    }
    let pushed = store
        .push(&client()?, &name, &show)
        .map_err(|error| match error {
            ImageError::ImageNotFound(_) => anyhow::anyhow!(
                "an image does not exist locally with the tag: {}",
                name.repository()
            ),
            error => error.into(),
        })?;
    if arguments.quiet {
        println!("{full}");
    } else {
        let tag = name.tag().unwrap_or("latest");
        println!("{tag}: digest: {} size: {}", pushed.digest, pushed.size);
    }
    Ok(0)
}

/// The image that a new instance is to be made of, and when it is to be fetched.
pub(crate) struct Wanted<'w> {
    pub(crate) image: &'w str,
    pub(crate) policy: PullPolicy,
    pub(crate) platform: Option<&'w str>,
    pub(crate) quiet: bool,
}

/// Does `work`, with its image fetched before if that is asked for, or when it turns out that it is not there. So an image that is
/// there costs nothing.
pub(crate) fn with_image<T>(
    home: &Home,
    wanted: &Wanted<'_>,
    mut work: impl FnMut() -> engine::Result<T>,
) -> anyhow::Result<T> {
    let platform = platform(wanted.platform)?;
    let to = if wanted.quiet {
        Where::Nowhere
    } else {
        Where::Stderr
    };
    // What is called by its identifier, or built in, is nowhere else.
    let name = wanted
        .image
        .parse::<Reference>()
        .ok()
        .filter(|name| name.repository() != base::NAME);
    if wanted.policy == PullPolicy::Always
        && let Some(name) = &name
    {
        fetch(home, name, &platform, to)?;
    }
    match work() {
        Err(engine::Error::Image(ImageError::ImageNotFound(text))) => {
            let error = engine::Error::Image(ImageError::ImageNotFound(text));
            let Some(name) = name.filter(|_| wanted.policy == PullPolicy::Missing) else {
                return Err(error.into());
            };
            if to != Where::Nowhere {
                eprintln!("Unable to find image '{name}' locally");
            }
            fetch(home, &name, &platform, to)?;
            Ok(work()?)
        }
        done => Ok(done?),
    }
}

fn fetch(home: &Home, name: &Reference, platform: &Platform, to: Where) -> anyhow::Result<()> {
    let store = home.images()?;
    let (_, path) = full_name(name);
    let show = Show::pull(to, name, &path);
    let pulled = store.pull(&client()?, name, platform, &show)?;
    show.line(&format!("Digest: {}", pulled.digest));
    show.line(&if pulled.newer {
        format!("Status: Downloaded newer image for {name}")
    } else {
        format!("Status: Image is up to date for {name}")
    });
    Ok(())
}

fn platform(text: Option<&str>) -> anyhow::Result<Platform> {
    match text.filter(|text| !text.is_empty()) {
        Some(text) => Platform::wanted(text).context("--platform"),
        None => Ok(Platform::default()),
    }
}

/// Whether a name as typed has a tag or a digest.
fn says_tag(text: &str) -> bool {
    text.contains('@')
        || text
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'))
}
