//! Which stages of a Dockerfile are built, in which order, and what their names mean.

use std::collections::{BTreeMap, BTreeSet};

use image_core::dockerfile::{Dockerfile, Kind, Stage};

use super::BuildOptions;
use crate::error::{Error, Result};

/// What is to be done.
pub(super) struct Plan {
    /// The stages that the target needs, it itself among them, in the file's order.
    pub(super) needed: BTreeSet<usize>,
    /// The stage whose image is wanted.
    pub(super) target: usize,
    /// The values of ARGs before the first FROM, and of those that are always there.
    pub(super) global: BTreeMap<String, String>,
    /// Those of them that are build arguments.
    pub(super) consumed: BTreeSet<String>,
    /// How many steps that makes.
    pub(super) steps: usize,
    /// The image or the earlier stage that each stage is made from, variables put in.
    pub(super) bases: Vec<Base>,
    names: BTreeMap<String, usize>,
}

/// What a stage is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    Nothing,
    Stage(usize),
    Image(String),
}

/// What this engine builds for and on.
const PLATFORM: &str = "linux/amd64";

/// ARGs that need no value of the user's.
const AUTOMATIC: [(&str, &str); 6] = [
    ("BUILDPLATFORM", PLATFORM),
    ("BUILDOS", "linux"),
    ("BUILDARCH", "amd64"),
    ("TARGETPLATFORM", PLATFORM),
    ("TARGETOS", "linux"),
    ("TARGETARCH", "amd64"),
];

fn refuse(line: usize, reason: String) -> Error {
    image_core::Error::Dockerfile { line, reason }.into()
}

pub(super) fn plan(file: &Dockerfile, options: &BuildOptions<'_>) -> Result<Plan> {
    let mut global: BTreeMap<String, String> = AUTOMATIC
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let mut consumed = BTreeSet::new();
    for instruction in &file.arguments {
        let Kind::Arg(list) = &instruction.kind else {
            continue;
        };
        for (name, default) in list {
            let given = options.arguments.iter().find(|(known, _)| known == name);
            if given.is_some() {
                consumed.insert(name.clone());
            }
            let value = given.map(|(_, value)| value.clone()).or_else(|| {
                let lookup = |name: &str| global.get(name).cloned();
                default.as_ref().map(|word| word.expand(&lookup))
            });
            if let Some(value) = value {
                global.insert(name.clone(), value);
            }
        }
    }
    let mut names = BTreeMap::new();
    let mut bases = Vec::new();
    for (index, stage) in file.stages.iter().enumerate() {
        bases.push(base(stage, &global, &names)?);
        if let Some(name) = &stage.name {
            names.insert(name.clone(), index);
        }
    }
    let target = match &options.target {
        None => file.stages.len().saturating_sub(1),
        Some(wanted) => names
            .get(&wanted.to_ascii_lowercase())
            .copied()
            .or_else(|| wanted.parse().ok().filter(|n| *n < file.stages.len()))
            .ok_or_else(|| Error::InvalidValue {
                flag: "--target",
                value: wanted.clone(),
                reason: "the Dockerfile has no stage of that name".into(),
            })?,
    };
    let mut plan = Plan {
        needed: BTreeSet::new(),
        target,
        global,
        consumed,
        steps: 0,
        bases,
        names,
    };
    let mut ahead = vec![target];
    while let Some(index) = ahead.pop() {
        if !plan.needed.insert(index) {
            continue;
        }
        if let Base::Stage(other) = plan.bases[index] {
            ahead.push(other);
        }
        for instruction in &file.stages[index].instructions {
            if let Kind::Copy(copy) = &instruction.kind
                && let Some(from) = &copy.from
                && let Some(other) = plan.stage(&from.expand(&|_| None), index)
            {
                ahead.push(other);
            }
        }
    }
    plan.steps = plan
        .needed
        .iter()
        .map(|index| 1 + file.stages[*index].instructions.len())
        .sum();
    Ok(plan)
}

fn base(
    stage: &Stage,
    global: &BTreeMap<String, String>,
    names: &BTreeMap<String, usize>,
) -> Result<Base> {
    let line = stage.from.line;
    let lookup = |name: &str| global.get(name).cloned();
    if let Some(platform) = &stage.platform {
        let wanted = platform.expand(&lookup);
        if wanted != PLATFORM && !wanted.is_empty() {
            return Err(refuse(
                line,
                format!(
                    "FROM --platform={wanted} is not supported: this engine builds for {PLATFORM}"
                ),
            ));
        }
    }
    let image = stage.image.expand(&lookup);
    if image.is_empty() {
        return Err(refuse(
            line,
            "FROM names no image once its variables are put in: declare them by ARG before the first FROM".into(),
        ));
    }
    if image == "scratch" {
        return Ok(Base::Nothing);
    }
    Ok(match names.get(&image.to_ascii_lowercase()) {
        Some(index) => Base::Stage(*index),
        None => Base::Image(image),
    })
}

impl Plan {
    /// The stage before `before` that goes by this name or number.
    pub(super) fn stage(&self, name: &str, before: usize) -> Option<usize> {
        let by_name = self.names.get(&name.to_ascii_lowercase()).copied();
        by_name
            .or_else(|| name.parse().ok())
            .filter(|index| *index < before)
    }
}
