//! How layers move: a bar for each on a terminal, docker's lines elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use engine::registry::{Event, Progress};
use engine::{Digest, Reference};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws a second: more only cost time that unpacking needs.
const HERTZ: u8 = 10;

/// Where it is shown: a pull's answer is its progress; before a `run` the answer is the command's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    Stdout,
    Stderr,
    Nowhere,
}

pub(crate) struct Show {
    to: Where,
    /// Printed once the registry has answered.
    title: Option<String>,
    bars: Option<MultiProgress>,
    layers: Mutex<HashMap<usize, Layer>>,
}

struct Layer {
    bar: Option<ProgressBar>,
    /// The last line or message, so that none is repeated.
    said: String,
}

impl Show {
    /// For a pull of `name`, whose repository's path is `path`.
    pub(crate) fn pull(to: Where, name: &Reference, path: &str) -> Self {
        let wanted = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        Self::new(to, Some(format!("{wanted}: Pulling from {path}")))
    }

    pub(crate) fn push(to: Where) -> Self {
        Self::new(to, None)
    }

    fn new(to: Where, title: Option<String>) -> Self {
        let (is_terminal, target) = match to {
            Where::Stdout => (
                std::io::stdout().is_terminal(),
                ProgressDrawTarget::stdout_with_hz(HERTZ),
            ),
            Where::Stderr => (
                std::io::stderr().is_terminal(),
                ProgressDrawTarget::stderr_with_hz(HERTZ),
            ),
            Where::Nowhere => (false, ProgressDrawTarget::hidden()),
        };
        Self {
            to,
            title,
            bars: is_terminal.then(|| MultiProgress::with_draw_target(target)),
            layers: Mutex::default(),
        }
    }

    /// Prints a line, above the bars if there are any.
    pub(crate) fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text);
            }
            None => write_line(self.to, text),
        }
    }
}

fn write_line(to: Where, text: &str) {
    // Nobody may be listening any more; the work goes on all the same.
    let _ = match to {
        Where::Stdout => writeln!(std::io::stdout(), "{text}"),
        Where::Stderr => writeln!(std::io::stderr(), "{text}"),
        Where::Nowhere => Ok(()),
    };
}

impl Progress for Show {
    fn found(&self, _: Digest) {
        if let Some(title) = &self.title {
            self.line(title);
        }
    }

    fn layer(&self, index: usize, id: &str, event: Event<'_>) {
        if self.to == Where::Nowhere {
            return;
        }
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let layer = layers.entry(index).or_insert_with(|| Layer {
            bar: self.bars.as_ref().map(|bars| bars.add(new_bar(id))),
            said: String::new(),
        });
        let is_pull = self.title.is_some();
        let mut ends = false;
        let says = match &event {
            Event::Queued if is_pull => "Pulling fs layer".to_owned(),
            Event::Queued => "Preparing".to_owned(),
            Event::Exists => {
                ends = true;
                let there = if is_pull {
                    "Already exists"
                } else {
                    "Layer already exists"
                };
                there.to_owned()
            }
            Event::Waiting => "Waiting for another pull of it".to_owned(),
            Event::Receiving { done, total } | Event::Sending { done, total } => {
                if let Some(bar) = &layer.bar {
                    if bar.length() != Some(*total) {
                        bar.set_length(*total);
                        bar.set_style(style(
                            "{prefix}: {msg} [{bar:40}] {decimal_bytes}/{decimal_total_bytes}",
                        ));
                    }
                    bar.set_position(*done);
                }
                match (is_pull, done == total) {
                    (true, true) => "Download complete".to_owned(),
                    (true, false) => "Downloading".to_owned(),
                    (false, _) => "Pushing".to_owned(),
                }
            }
            Event::Pulled => {
                ends = true;
                "Pull complete".to_owned()
            }
            Event::Pushed => {
                ends = true;
                "Pushed".to_owned()
            }
            Event::Mounted(from) => {
                ends = true;
                format!("Mounted from {from}")
            }
            Event::Skipped => {
                ends = true;
                "Skipped foreign layer".to_owned()
            }
            Event::Retrying { wait, reason } => {
                format!("Retrying in {:.1} s: {reason}", wait.as_secs_f64())
            }
            _ => return,
        };
        if layer.said == says && !ends {
            return;
        }
        match &layer.bar {
            Some(bar) if ends => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.finish_with_message(says.clone());
            }
            Some(bar) => bar.set_message(says.clone()),
            // docker's lines without a terminal leave out what only moves.
            None if matches!(says.as_str(), "Downloading" | "Pushing") => {}
            None => write_line(self.to, &format!("{id}: {says}")),
        }
        layer.said = says;
    }
}

fn new_bar(id: &str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_style(style("{prefix}: {msg}"));
    bar.with_prefix(id.to_owned())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
