//! Reading and writing result files. A file is checked whole before anything is worked out from it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ArmKind, KIND, MEMORY_PER_INSTANCE, Results, SCHEMA};

/// The largest result file that is read, bytes. A full plan with every peer stays under 30 MB; this keeps a
/// wrong file from filling the memory.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// Why a result file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read the result file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file or the report cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than [`MAX_FILE_BYTES`].
    #[error("{} is larger than {} MiB, which no result file is", path.display(), MAX_FILE_BYTES >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file ends too early.
    #[error(
        "{} is cut short: it ends in the middle, at line {line} column {column}; copy it again, or measure again with `cargo bench`",
        path.display()
    )]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        line: usize,
        /// Where it ends.
        column: usize,
    },
    /// The file is no result file.
    #[error("{} is not a plimsoll result file: {why}", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        why: String,
    },
    /// The file was written by a later version.
    #[error(
        "{} has schema {found}, and this plimsoll reads schema {SCHEMA}: it was written by a newer one ({made_by}); use that one to make the report",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
        /// What wrote it.
        made_by: String,
    },
    /// The file was written by an earlier version whose schema is no longer read.
    #[error(
        "{} has schema {found}, and this plimsoll reads schema {SCHEMA}: it was written by an older one ({made_by}); use that one to make the report, or measure again",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
        /// What wrote it.
        made_by: String,
    },
    /// The file is of our kind and version, and its contents do not hold together.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The results in memory do not hold together and were not written.
    #[error("these results do not hold together: {why}")]
    Invalid {
        /// What does not fit.
        why: String,
    },
    /// A plot could not be drawn.
    #[error("cannot draw the plot of {what}: {why}")]
    Plot {
        /// What it was to show.
        what: String,
        /// What the plotter said.
        why: String,
    },
}

/// The fields that say whose file this is; everything else is looked at only when these fit.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    kind: serde_json::Value,
    #[serde(default)]
    schema: serde_json::Value,
    #[serde(default)]
    made_by: serde_json::Value,
}

impl Results {
    /// Reads and checks a result file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(read)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::TooLarge {
                path: path.to_owned(),
            });
        }
        Self::from_json(&bytes, path)
    }

    /// Reads and checks results from JSON text; `path` is only named in errors.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let path = || path.to_owned();
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::NotOurs {
                path: path(),
                why: "it is empty".to_owned(),
            });
        }
        let header: Header = serde_json::from_slice(bytes).map_err(|error| {
            // Only a file that begins like one of ours is called a cut one of ours.
            if error.is_eof() && mentions_kind(bytes) {
                Error::CutShort {
                    path: path(),
                    line: error.line(),
                    column: error.column(),
                }
            } else {
                Error::NotOurs {
                    path: path(),
                    why: format!("it is not JSON of the kind that is written ({error})"),
                }
            }
        })?;
        if header.kind != KIND {
            return Err(Error::NotOurs {
                path: path(),
                why: format!("its \"kind\" is not \"{KIND}\""),
            });
        }
        let made_by = header.made_by.as_str().unwrap_or("not named").to_owned();
        match header.schema.as_u64() {
            Some(found) if found == u64::from(SCHEMA) => {}
            Some(found) if found > u64::from(SCHEMA) => {
                return Err(Error::Newer {
                    path: path(),
                    found,
                    made_by,
                });
            }
            Some(found) => {
                return Err(Error::Older {
                    path: path(),
                    found,
                    made_by,
                });
            }
            None => {
                return Err(Error::Damaged {
                    path: path(),
                    why: "its \"schema\" is not a whole number".to_owned(),
                });
            }
        }
        let results: Results = serde_json::from_slice(bytes).map_err(|error| Error::Damaged {
            path: path(),
            why: error.to_string(),
        })?;
        results
            .check()
            .map_err(|why| Error::Damaged { path: path(), why })?;
        Ok(results)
    }

    /// The JSON text that [`Results::write`] writes. The same results give the same bytes.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        self.check().map_err(|why| Error::Invalid { why })?;
        let mut json = serde_json::to_vec(self).map_err(|error| Error::Invalid {
            why: error.to_string(),
        })?;
        json.push(b'\n');
        Ok(json)
    }

    /// Checks the results and writes them to `path`, replacing what was there in one step.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        replace(path, &self.to_json()?)
    }

    /// Says what does not hold together, in words that follow "… is damaged:".
    pub fn check(&self) -> Result<(), String> {
        if self.kind != KIND || self.schema != SCHEMA {
            return Err(format!("it is not of kind {KIND} and schema {SCHEMA}"));
        }
        let mut arms = BTreeSet::new();
        for arm in &self.arms {
            if arm.id.is_empty() || !arms.insert(arm.id.as_str()) {
                return Err(format!("arm {:?} is named twice or not at all", arm.id));
            }
            if matches!(arm.kind, ArmKind::Vm | ArmKind::Toolbox) && arm.substrate.is_none() {
                return Err(format!(
                    "arm {:?} is a virtual machine and does not say its substrate",
                    arm.id
                ));
            }
        }
        let known = |arm: &str, what: &str| {
            if arms.contains(arm) {
                Ok(())
            } else {
                Err(format!("{what} speaks of arm {arm:?}, which is not listed"))
            }
        };
        for arm in &self.arms {
            if let Some(of) = &arm.control_of {
                known(of, &format!("control {:?}", arm.id))?;
            }
            if let Some(twin) = &arm.twin_of {
                known(&twin.arm, &format!("twin {:?}", arm.id))?;
            }
            if arm.control_of.as_deref() == Some(&arm.id)
                || arm.twin_of.as_ref().is_some_and(|twin| twin.arm == arm.id)
            {
                return Err(format!("arm {:?} is its own control or twin", arm.id));
            }
        }
        let mut metrics = BTreeSet::new();
        for metric in &self.metrics {
            if metric.id.is_empty() || !metrics.insert(metric.id.as_str()) {
                return Err(format!(
                    "metric {:?} is named twice or not at all",
                    metric.id
                ));
            }
        }
        let mut with_rounds = BTreeSet::new();
        for series in &self.series {
            let id = &series.metric;
            if !metrics.contains(id.as_str()) {
                return Err(format!(
                    "there are rounds of metric {id:?}, which is not listed"
                ));
            }
            if !with_rounds.insert(id.as_str()) {
                return Err(format!("metric {id:?} has two series of rounds"));
            }
            let mut numbers = BTreeSet::new();
            for round in &series.rounds {
                let number = round.number;
                if !numbers.insert(number) {
                    return Err(format!("metric {id:?} has two rounds numbered {number}"));
                }
                for sample in &round.samples {
                    known(&sample.arm, &format!("round {number} of metric {id:?}"))?;
                    match sample.value {
                        Some(value) if !value.is_finite() || value < 0.0 => {
                            return Err(format!(
                                "round {number} of metric {id:?} has the value {value}"
                            ));
                        }
                        None if sample.void.is_none() => {
                            return Err(format!(
                                "round {number} of metric {id:?} has a sample of arm {:?} that is neither a value nor void",
                                sample.arm
                            ));
                        }
                        _ => {}
                    }
                }
            }
        }
        for cut in &self.cut_offs {
            known(&cut.arm, "a cut-off")?;
            if cut.metric != MEMORY_PER_INSTANCE && !metrics.contains(cut.metric.as_str()) {
                return Err(format!(
                    "a cut-off speaks of metric {:?}, which is not listed",
                    cut.metric
                ));
            }
        }
        for timeline in &self.timelines {
            known(&timeline.arm, "a timeline")?;
            if !timeline.stages.is_sorted_by_key(|stage| stage.end_ns) {
                return Err(format!(
                    "a timeline of arm {:?} runs backwards",
                    timeline.arm
                ));
            }
        }
        for memory in &self.memory {
            known(&memory.arm, "a memory series")?;
        }
        Ok(())
    }
}

/// Whether the text names our kind near its beginning, where we write it.
fn mentions_kind(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(4096)];
    head.windows(KIND.len()).any(|w| w == KIND.as_bytes())
}

/// Writes `bytes` to `path` by way of a temporary file beside it, so that a reader sees the old file or the
/// new one and never a part.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(write)?;
    let mut file = tempfile::Builder::new()
        .prefix(".plimsoll-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent)
        .map_err(write)?;
    file.write_all(bytes).map_err(write)?;
    file.as_file().sync_all().map_err(write)?;
    file.persist(path).map_err(|error| write(error.error))?;
    Ok(())
}
