//! `plimsoll volume create`, `ls`, `inspect`, `rm` and `prune`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;

use anyhow::bail;
use engine::Home;
use engine::volume::{self, NewVolume, Use, Volume, VolumeError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{
    VolumeCreateArguments, VolumeInspectArguments, VolumeLsArguments, VolumePruneArguments,
    VolumeRmArguments, VolumeVerb,
};
use crate::output;

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
            Ok(volume) => found.push(described(&volume)),
            Err(error) => errors.push(error),
        }
    }
    match arguments.format.as_deref() {
        None => println!("{}", indented(&found)?),
        Some("json") => output::json_lines(found)?,
        Some(text) => {
            for value in &found {
                println!("{}", template(text, value)?);
            }
        }
    }
    for error in errors {
        eprintln!("plimsoll: {error}");
        code = 1;
    }
    Ok(code)
}

/// docker's JSON of a volume.
fn described(volume: &Volume) -> Value {
    // docker: no labels are null, not an empty object.
    let or_null = |map: &BTreeMap<String, String>| match map.is_empty() {
        true => Value::Null,
        false => json!(map),
    };
    json!({
        "CreatedAt": rfc3339(volume.created),
        "Driver": volume::DRIVER,
        "Labels": or_null(&volume.labels),
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Name": volume.name,
        "Options": or_null(&volume.options),
        "Scope": "local",
    })
}

/// JSON with docker's indentation of four spaces.
fn indented(values: &[Value]) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    values.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, formatter,
    ))?;
    Ok(String::from_utf8(bytes)?)
}

/// One volume by a `--format` of the user's own.
fn template(text: &str, _value: &Value) -> anyhow::Result<String> {
    bail!("--format {text:?} is not known: use table or json");
}

fn ls(home: &Home, arguments: &VolumeLsArguments) -> anyhow::Result<u8> {
    let filter = ListFilter::parse(&arguments.filter)?;
    let uses = match filter.dangling {
        Some(_) => volume::uses(home)?,
        None => Vec::new(),
    };
    let volumes: Vec<Volume> = volume::list(home)?
        .into_iter()
        .filter(|volume| filter.fits(volume, &uses))
        .collect();
    if arguments.quiet {
        volumes
            .iter()
            .for_each(|volume| println!("{}", volume.name));
        return Ok(0);
    }
    match arguments.format.as_str() {
        "table" => {
            let rows: Vec<Vec<String>> = volumes
                .iter()
                .map(|volume| vec![volume::DRIVER.to_owned(), volume.name.clone()])
                .collect();
            // docker's columns have ten characters at the least.
            output::table(&["DRIVER ", "VOLUME NAME"], &rows)?;
        }
        "json" => output::json_lines(volumes.iter().map(listed))?,
        text => {
            for volume in &volumes {
                println!("{}", template(text, &listed(volume))?);
            }
        }
    }
    Ok(0)
}

/// docker's JSON of a line of `volume ls`.
fn listed(volume: &Volume) -> Value {
    let labels: Vec<String> = volume
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "Availability": "N/A",
        "Driver": volume::DRIVER,
        "Group": "N/A",
        "Labels": labels.join(","),
        "Links": "N/A",
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Name": volume.name,
        "Scope": "local",
        "Size": "N/A",
        "Status": "N/A",
    })
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
    let filter = PruneFilter::parse(&arguments.filter)?;
    if arguments.all && filter.all.is_some() {
        bail!("conflicting options: cannot specify both --all and --filter all=1");
    }
    let all = arguments.all || filter.all.unwrap_or(false);
    if !arguments.force && !is_confirmed(all)? {
        return Ok(0);
    }
    let pruned = volume::prune(home, &|volume| {
        (all || volume.is_anonymous()) && filter.fits(volume)
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

/// A label that is asked for: present, or present with that value.
#[derive(Debug)]
struct Label {
    key: String,
    value: Option<String>,
}

impl Label {
    fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self {
                key: key.to_owned(),
                value: Some(value.to_owned()),
            },
            None => Self {
                key: text.to_owned(),
                value: None,
            },
        }
    }

    fn fits(&self, volume: &Volume) -> bool {
        let has = volume.labels.get(&self.key);
        has.is_some_and(|has| self.value.as_ref().is_none_or(|value| value == has))
    }
}

/// A filter's key and value.
fn filter(text: &str) -> anyhow::Result<(&str, &str)> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim(), value.trim())),
        None => bail!(
            "invalid argument {text:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)"
        ),
    }
}

fn truth(key: &str, value: &str) -> anyhow::Result<bool> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => bail!("invalid filter '{key}=[{value}]': use true or false"),
    }
}

/// What `volume ls --filter` asks for: of several names one must fit, of several labels all.
#[derive(Debug, Default)]
struct ListFilter {
    names: Vec<String>,
    labels: Vec<Label>,
    drivers: Vec<String>,
    dangling: Option<bool>,
}

impl ListFilter {
    fn parse(words: &[String]) -> anyhow::Result<Self> {
        let mut parsed = Self::default();
        for word in words {
            match filter(word)? {
                ("name", value) => parsed.names.push(value.to_owned()),
                ("label", value) => parsed.labels.push(Label::parse(value)),
                ("driver", value) => parsed.drivers.push(value.to_owned()),
                ("dangling", value) => parsed.dangling = Some(truth("dangling", value)?),
                (key, _) => bail!("invalid filter '{key}': use name, label, dangling or driver"),
            }
        }
        Ok(parsed)
    }

    fn fits(&self, volume: &Volume, uses: &[Use]) -> bool {
        let name = |part: &String| volume.name.contains(part.as_str());
        (self.names.is_empty() || self.names.iter().any(name))
            && (self.drivers.is_empty() || self.drivers.iter().any(|one| one == volume::DRIVER))
            && self.labels.iter().all(|label| label.fits(volume))
            && self
                .dangling
                .is_none_or(|wanted| volume::users(uses, &volume.name).is_empty() == wanted)
    }
}

/// What `volume prune --filter` asks for.
#[derive(Debug, Default)]
struct PruneFilter {
    labels: Vec<Label>,
    without: Vec<Label>,
    all: Option<bool>,
}

impl PruneFilter {
    fn parse(words: &[String]) -> anyhow::Result<Self> {
        let mut parsed = Self::default();
        for word in words {
            match filter(word)? {
                ("label", value) => parsed.labels.push(Label::parse(value)),
                ("label!", value) => parsed.without.push(Label::parse(value)),
                ("all", value) => parsed.all = Some(truth("all", value)?),
                (key, _) => bail!("invalid filter '{key}': use label, label! or all"),
            }
        }
        Ok(parsed)
    }

    fn fits(&self, volume: &Volume) -> bool {
        self.labels.iter().all(|label| label.fits(volume))
            && !self.without.iter().any(|label| label.fits(volume))
    }
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

/// A moment (nanoseconds since 1970) as docker writes it: UTC, whole seconds.
fn rfc3339(moment: u64) -> String {
    let seconds = moment / 1_000_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days: eras of 400 years, which begin on the first of March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000 + 7), text);
        }
    }

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

    #[test]
    fn filters_that_are_not_known_are_refused_by_name() {
        let words = |text: &str| vec![text.to_owned()];
        for (text, told) in [
            ("odd=1", "'odd'"),
            ("dangling", "expected name=value"),
            ("dangling=x", "dangling=[x]"),
        ] {
            let error = ListFilter::parse(&words(text)).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        assert!(PruneFilter::parse(&words("name=x")).is_err());
    }
}
