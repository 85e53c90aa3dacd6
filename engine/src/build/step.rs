//! Steps of a stage.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use image_core::dockerfile::{Command, Healthcheck, Instruction, Kind, Stage};
use image_core::{CachedStep, Change, Digest, Image, Step, StoredLayer, Times, Word, apply};
use oci_spec::image::Config;
use serde_json::{Map, Value, json};

use super::draft::{Draft, PREDEFINED};
use super::run::Run;
use super::stages::{Base, Plan};
use super::transfer::Over;
use super::{BuildOptions, Builder, Progress};
use crate::error::{Error, Result};

/// Counts the steps for `Step 1/5 : …`.
pub(super) struct Counter {
    next: usize,
    all: usize,
}

impl Counter {
    pub(super) fn new(plan: &Plan, options: &BuildOptions<'_>) -> Self {
        Self {
            next: 1,
            all: plan.steps + usize::from(!options.labels.is_empty()),
        }
    }

    fn tell(&mut self, text: &str, progress: &mut dyn Progress) {
        progress.step(&format!("Step {}/{} : {text}", self.next, self.all));
        self.next += 1;
    }
}

/// What a step is, before it is done.
pub(super) struct Doing<'s> {
    /// All that goes into it.
    pub(super) key: Digest,
    /// The configuration after it.
    pub(super) config: Config,
    /// The instruction as an image's history has it.
    pub(super) created_by: String,
    pub(super) author: Option<&'s str>,
    /// The instruction for people.
    pub(super) text: &'s str,
}

/// What makes a step's layer.
pub(super) type Make<'m> =
    dyn FnOnce(&Builder<'_>, &mut dyn Progress) -> Result<Option<StoredLayer>> + 'm;

impl Builder<'_> {
    /// Builds the stage at `index`.
    pub(super) fn stage(
        &mut self,
        index: usize,
        stage: &Stage,
        plan: &Plan,
        counter: &mut Counter,
        progress: &mut dyn Progress,
    ) -> Result<Draft> {
        self.consumed.extend(plan.consumed.iter().cloned());
        counter.tell(&stage.from.text, progress);
        let mut draft = self
            .base(&plan.bases[index])
            .map_err(|error| failed(&stage.from, error))?;
        // docker shows nothing for `scratch`.
        let shown = match plan.bases[index] {
            Base::Nothing => String::new(),
            _ => draft.shown(),
        };
        progress.step(&format!(" ---> {shown}"));
        for instruction in &stage.instructions {
            counter.tell(&instruction.text, progress);
            self.step(&mut draft, index, instruction, plan, progress)
                .map_err(|error| failed(instruction, error))?;
            progress.step(&format!(" ---> {}", draft.shown()));
        }
        Ok(draft)
    }

    fn base(&self, base: &Base) -> Result<Draft> {
        let name = match base {
            Base::Nothing => return Draft::on(None, self.source_date),
            Base::Stage(index) => {
                let done = self.done.get(*index).and_then(Option::as_ref);
                return done.map(Draft::on_stage).ok_or_else(|| {
                    Error::Unsupported("the stage that it names was not built".into())
                });
            }
            Base::Image(name) => name,
        };
        let image = self.image(name)?;
        let config = self.store.raw_config(&image)?;
        let triggers = config.pointer("/config/OnBuild").and_then(Value::as_array);
        if triggers.is_some_and(|triggers| !triggers.is_empty()) {
            return Err(Error::Unsupported(format!(
                "the image {name} has ONBUILD triggers, which are not supported"
            )));
        }
        let layers = self.store.image_layers(&image)?;
        Draft::on(Some((image, config, layers)), self.source_date)
    }

    /// An image that stays until the build is done.
    pub(super) fn image(&self, name: &str) -> Result<Image> {
        let image = (self.options.find)(self.store, name)?;
        self.lease.hold(&image)?;
        Ok(image)
    }

    /// The labels of the command line, as one more step.
    pub(super) fn labels(
        &mut self,
        draft: &mut Draft,
        counter: &mut Counter,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        if self.options.labels.is_empty() {
            return Ok(());
        }
        let pairs: Vec<(Word, Word)> = self
            .options
            .labels
            .iter()
            .map(|(key, value)| (Word::from(key.as_str()), Word::from(value.as_str())))
            .collect();
        let shown: Vec<String> = self
            .options
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let text = format!("LABEL {}", shown.join(" "));
        counter.tell(&text, progress);
        let change = Change::Label(pairs);
        let config = apply(Some(&draft.own()), std::slice::from_ref(&change))?;
        self.settle(draft, config, &text, progress)?;
        progress.step(&format!(" ---> {}", draft.shown()));
        Ok(())
    }

    fn step(
        &mut self,
        draft: &mut Draft,
        index: usize,
        instruction: &Instruction,
        plan: &Plan,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let text = instruction.text.as_str();
        match &instruction.kind {
            Kind::From => Ok(()),
            Kind::Arg(list) => {
                for (name, default) in list {
                    self.argument(draft, name, default.as_ref(), plan);
                }
                let config = draft.own();
                self.settle(draft, config, text, progress)
            }
            Kind::Run(command) => self.run(draft, command, text, progress),
            Kind::Copy(asked) => self.transfer(draft, index, "COPY", asked, text, plan, progress),
            Kind::Add(asked) => self.transfer(draft, index, "ADD", asked, text, plan, progress),
            Kind::Cmd(command) => {
                let change = Change::Cmd(draft.words(command));
                draft.has_cmd = true;
                self.change(draft, &change, text, progress)
            }
            Kind::Entrypoint(command) => {
                let change = Change::Entrypoint(draft.words(command));
                let mut config = apply(Some(&draft.own()), &[change])?;
                if !draft.has_cmd {
                    // The base image's was meant for its own entry point.
                    config.set_cmd(None);
                }
                self.settle(draft, config, text, progress)
            }
            Kind::Change(change @ Change::Workdir(_)) => {
                self.workdir(draft, change, text, progress)
            }
            Kind::Change(change) => self.change(draft, change, text, progress),
            Kind::Shell(words) => {
                draft.set_extra("Shell", json!(words));
                let config = draft.own();
                self.settle(draft, config, text, progress)
            }
            Kind::Healthcheck(check) => {
                draft.set_extra("Healthcheck", described(check));
                let config = draft.own();
                self.settle(draft, config, text, progress)
            }
            Kind::Maintainer(word) => {
                let author = word.expand(&|name| draft.variable(name));
                let doing = Doing {
                    key: draft.key_of(&[text, &author]),
                    config: draft.own(),
                    created_by: no_command(text),
                    author: Some(&author),
                    text,
                };
                self.take(draft, doing, progress, Box::new(|_, _| Ok(None)))
            }
        }
    }

    /// Gives an ARG its value: the user's, its own default, or what an ARG before the first FROM has.
    fn argument(&mut self, draft: &mut Draft, name: &str, default: Option<&Word>, plan: &Plan) {
        let given = self
            .options
            .arguments
            .iter()
            .rev()
            .find(|(known, _)| known == name);
        if given.is_some() {
            self.consumed.insert(name.to_owned());
        }
        let value = given
            .map(|(_, value)| value.clone())
            .or_else(|| default.map(|word| word.expand(&|name| draft.variable(name))))
            .or_else(|| plan.global.get(name).cloned());
        if let Some(value) = value {
            draft.arguments.insert(name.to_owned(), value);
        }
    }

    /// An instruction that only changes the configuration.
    fn change(
        &mut self,
        draft: &mut Draft,
        change: &Change,
        text: &str,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let change = change.expanded(&|name| draft.variable(name));
        let config = apply(Some(&draft.own()), &[change])?;
        self.settle(draft, config, text, progress)
    }

    /// A step without a layer, after which the configuration is this one.
    fn settle(
        &mut self,
        draft: &mut Draft,
        config: Config,
        text: &str,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let after = serde_json::to_value(&config).unwrap_or_default();
        let doing = Doing {
            key: draft.key_of(&[text, &sorted(&after)]),
            config,
            created_by: no_command(text),
            author: None,
            text,
        };
        self.take(draft, doing, progress, Box::new(|_, _| Ok(None)))
    }

    fn run(
        &mut self,
        draft: &mut Draft,
        command: &Command,
        text: &str,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let words = draft.words(command);
        let arguments = draft.environment();
        let mut parts: Vec<&str> = vec!["RUN"];
        parts.extend(words.iter().map(String::as_str));
        parts.push("with");
        parts.extend(arguments.iter().map(String::as_str));
        let mut created_by = words.join(" ");
        if !arguments.is_empty() {
            created_by = format!("|{} {} {created_by}", arguments.len(), arguments.join(" "));
        }
        let mut env = arguments.clone();
        env.extend(
            self.options
                .arguments
                .iter()
                .filter(|(name, _)| PREDEFINED.contains(&name.as_str()))
                .map(|(name, value)| format!("{name}={value}")),
        );
        let doing = Doing {
            key: draft.key_of(&parts),
            config: draft.own(),
            created_by,
            author: None,
            text,
        };
        let image = draft.image().clone();
        let times = match self.source_date {
            Some(limit) => Times::NotAfter(limit),
            None => Times::Kept,
        };
        let make = move |builder: &Builder<'_>, progress: &mut dyn Progress| {
            let run = Run {
                home: builder.home,
                store: builder.store,
                lease: &builder.lease,
                image: &image,
                env,
                network: builder.options.network.clone(),
                times,
                words: words.clone(),
            };
            match run.execute(progress)? {
                Ok(layer) => Ok(Some(layer)),
                Err(code) => Err(Error::Told {
                    message: format!(
                        "The command '{}' returned a non-zero code: {code}",
                        words.join(" ")
                    ),
                    code,
                }),
            }
        };
        self.take(draft, doing, progress, Box::new(make))
    }

    /// `WORKDIR` makes its directory, if it is not there.
    fn workdir(
        &mut self,
        draft: &mut Draft,
        change: &Change,
        text: &str,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let change = change.expanded(&|name| draft.variable(name));
        let config = apply(Some(&draft.own()), &[change])?;
        let path = config.working_dir().clone().unwrap_or_default();
        let doing = Doing {
            key: draft.key_of(&["WORKDIR", &path]),
            config,
            created_by: no_command(text),
            author: None,
            text,
        };
        let layers = self.layers(draft)?;
        let times = self.times();
        let make = move |builder: &Builder<'_>, _: &mut dyn Progress| {
            let over = Over::new(&builder.lease, &layers)?;
            if over.is_directory(&path) {
                return Ok(None);
            }
            over.make_directory(&path, None)?;
            over.store(builder.store, &builder.lease, times).map(Some)
        };
        self.take(draft, doing, progress, Box::new(make))
    }

    pub(super) fn layers(&self, draft: &Draft) -> Result<Vec<PathBuf>> {
        Ok(self.store.layer_dirs(draft.image())?)
    }

    /// The times of what COPY, ADD and WORKDIR make: no part of what a key says, so none of the result where that is to be the same.
    pub(super) fn times(&self) -> Times {
        match self.source_date {
            Some(time) => Times::All(time),
            None => Times::Kept,
        }
    }

    /// Takes a step: from the cache, or by doing it.
    pub(super) fn take(
        &mut self,
        draft: &mut Draft,
        doing: Doing<'_>,
        progress: &mut dyn Progress,
        make: Box<Make<'_>>,
    ) -> Result<()> {
        let known = if self.options.no_cache {
            None
        } else {
            self.store.cached(&self.lease, doing.key)?
        };
        let step = match known {
            Some(step) => {
                progress.step(" ---> Using cache");
                step
            }
            None => {
                let layer = make(self, progress)?;
                let step = CachedStep {
                    layer,
                    instruction: doing.text.to_owned(),
                    created: self.now(),
                };
                self.store.remember(&self.lease, doing.key, &step)?;
                step
            }
        };
        let layer = step.layer.as_ref().map(|layer| layer.diff_id);
        let taken = Step {
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(step.created),
            created_by: &doing.created_by,
            comment: None,
            author: doing.author,
            layer,
        };
        draft.advance(doing.key, &doing.config, step.layer, &taken)
    }
}

/// docker's words for an instruction that runs nothing.
pub(super) fn no_command(text: &str) -> String {
    format!("/bin/sh -c #(nop) {text}")
}

/// JSON that does not depend on the order of maps.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut members: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key:?}:{}", sorted(value)))
                .collect();
            members.sort_unstable();
            format!("{{{}}}", members.join(","))
        }
        other => other.to_string(),
    }
}

/// A health check as docker keeps it.
fn described(check: &Healthcheck) -> Value {
    let mut members = Map::new();
    members.insert("Test".into(), json!(check.test));
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries),
    ] {
        if value > 0 {
            members.insert(name.into(), value.into());
        }
    }
    Value::Object(members)
}

/// The error of a step, with where it stands.
fn failed(instruction: &Instruction, error: Error) -> Error {
    match error {
        Error::Told { .. } | Error::Image(image_core::Error::Dockerfile { .. }) => error,
        other => {
            const SHOWN: usize = 60;
            let mut shown: String = instruction
                .text
                .chars()
                .take(SHOWN)
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            if instruction.text.chars().nth(SHOWN).is_some() {
                shown.push('…');
            }
            Error::Step {
                line: instruction.line,
                instruction: shown,
                source: Box::new(other),
            }
        }
    }
}
