//! `plimsoll volume create`, `ls`, `inspect`, `rm` and `prune`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;

use anyhow::bail;
use engine::Home;
use engine::volume::{self, NewVolume, Volume, VolumeError};
use serde_json::Value;

use crate::cli::{
    VolumeCreateArguments, VolumeInspectArguments, VolumeLsArguments, VolumePruneArguments,
    VolumeRmArguments, VolumeVerb,
};
use crate::filter::{Filters, VOLUME_KEYS};
use crate::format::inspect::{Kind, VolumeFacts, inspect_volume, render};
use crate::format::{list, rows};

pub(crate) fn volume(root: &Path, verb: &VolumeVerb) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    match verb {
        VolumeVerb::Create(arguments) => create(&home, arguments),
        VolumeVerb::Inspect(arguments) => inspect(&home, arguments),
        VolumeVerb::Ls(arguments) => ls(&home, arguments),
        VolumeVerb::Prune(arguments) => prune(&home, arguments),
        VolumeVerb::Rm(arguments) => rm(&home, arguments),
    }
}

fn create(home: &Home, arguments: &VolumeCreateArguments) -> anyhow::Result<u8> {
    let name = match (&arguments.name_flag, &arguments.name) {
        (Some(_), Some(_)) => bail!(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        ),
        // docker: an empty name is none.
        (flag, positional) => flag.clone().or_else(|| positional.clone()),
    };
    let name = name.filter(|name| !name.is_empty());
    volume::check_driver(name.as_deref().unwrap_or_default(), &arguments.driver)?;
    let new = NewVolume {
        name,
        labels: pairs("--label", &arguments.label)?,
        options: pairs("--opt", &arguments.opt)?,
    };
    println!("{}", volume::create(home, &new)?.name);
    Ok(0)
}

/// `KEY=VALUE` words; the last one of a key counts.
fn pairs(flag: &str, words: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    words
        .iter()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if key.is_empty() {
                bail!(
                    "invalid argument {word:?} for \"{flag}\" flag: a key must stand before the ="
                );
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn inspect(home: &Home, arguments: &VolumeInspectArguments) -> anyhow::Result<u8> {
    let mut found = Vec::new();
    let mut code = 0;
    let mut errors = Vec::new();
    for name in &arguments.volumes {
        match volume::inspect(home, name) {
            Ok(volume) => found.push((Kind::Volume, described(&volume))),
            Err(engine::Error::Volume(VolumeError::NotFound(_))) => {
                errors.push(format!("no such volume: {name}"));
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    print!("{}", render(&found, arguments.format.as_deref())?);
    for error in errors {
        eprintln!("plimsoll: {error}");
        code = 1;
    }
    Ok(code)
}

/// docker's JSON of a volume.
pub(crate) fn described(volume: &Volume) -> Value {
    inspect_volume(&VolumeFacts {
        name: volume.name.clone(),
        created: volume.created / 1_000_000_000,
        mountpoint: volume.mountpoint.display().to_string(),
        labels: volume.labels.clone(),
        options: volume.options.clone(),
    })
}

fn ls(home: &Home, arguments: &VolumeLsArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, VOLUME_KEYS)?;
    let dangling = filters.flag("dangling");
    let uses = match dangling {
        Some(_) => volume::uses(home)?,
        None => Vec::new(),
    };
    let drivers = filters.values("driver");
    let rows: Vec<Value> = volume::list(home)?
        .iter()
        .filter(|volume| {
            filters.name_holds(&volume.name)
                && filters.labels_hold(Some(&volume.labels))
                && (drivers.is_empty() || drivers.iter().any(|driver| driver == volume::DRIVER))
                && dangling
                    .is_none_or(|wanted| volume::users(&uses, &volume.name).is_empty() == wanted)
        })
        .map(|volume| {
            let mountpoint = volume.mountpoint.display().to_string();
            rows::volume(&volume.name, &mountpoint, &volume.labels)
        })
        .collect();
    list::print(
        &list::VOLUMES,
        Some(&arguments.format),
        arguments.quiet,
        &rows,
    )?;
    Ok(0)
}

fn rm(home: &Home, arguments: &VolumeRmArguments) -> anyhow::Result<u8> {
    let mut code = 0;
    for name in &arguments.volumes {
        match volume::remove(home, name) {
            Err(engine::Error::Volume(VolumeError::NotFound(_))) if arguments.force => {
                println!("{name}");
            }
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("plimsoll: {error}");
                code = 1;
            }
        }
    }
    Ok(code)
}

fn prune(home: &Home, arguments: &VolumePruneArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, &["all", "label", "label!"])?;
    if arguments.all && filters.flag("all").is_some() {
        bail!("conflicting options: cannot specify both --all and --filter all=1");
    }
    let all = arguments.all || filters.flag("all").unwrap_or(false);
    if !arguments.force && !is_confirmed(all)? {
        return Ok(0);
    }
    let pruned = volume::prune(home, &|volume| {
        (all || volume.is_anonymous()) && filters.labels_hold(Some(&volume.labels))
    })?;
    if !pruned.names.is_empty() {
        println!("Deleted Volumes:");
        pruned.names.iter().for_each(|name| println!("{name}"));
        println!();
    }
    println!("Total reclaimed space: {}", reclaimed(pruned.bytes));
    Ok(0)
}

/// Asks in docker's words, and takes a y for yes.
fn is_confirmed(all: bool) -> anyhow::Result<bool> {
    let which = if all {
        "all local volumes"
    } else {
        "anonymous local volumes"
    };
    print!(
        "WARNING! This will remove {which} not used by at least one container.\nAre you sure you want to continue? [y/N] "
    );
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// Bytes with four digits, as docker tells what a prune has gained.
fn reclaimed(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        ..10.0 => 3,
        ..100.0 => 2,
        _ => 1,
    };
    let mut digits = format!("{value:.decimals$}");
    let kept = digits.trim_end_matches('0').trim_end_matches('.').len();
    digits.truncate(kept);
    format!("{digits}{}", UNITS.get(unit).unwrap_or(&"B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reclaimed_space_has_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (12, "12B"),
            (1_000, "1kB"),
            (1_234_567, "1.235MB"),
            (123_456_789, "123.5MB"),
        ] {
            assert_eq!(reclaimed(bytes), text);
        }
    }
}
