//! What stays of a run: the result file, kept up to date as it goes, and the report.

use std::path::{Path, PathBuf};

use reports::results::{Completeness, Results};

use crate::clock;
use crate::error::{Error, Result};
use crate::harness::{Harness, take_status};
use crate::processes;

/// Where results and reports go.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    base: PathBuf,
}

impl Places {
    /// Below cargo's target directory: `CARGO_TARGET_DIR`, else the workspace's.
    pub(crate) fn find() -> Self {
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) if !directory.is_empty() => PathBuf::from(directory),
            _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        };
        // What does not exist yet stays as it is.
        let target = std::fs::canonicalize(&target).unwrap_or(target);
        Self {
            base: target.join("plimsoll"),
        }
    }

    /// Everything of the harness.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    fn result_file(&self, results: &Results) -> PathBuf {
        self.base
            .join("results")
            .join(format!("{}.json", stamp(results.started_unix_ms)))
    }

    fn latest(&self) -> PathBuf {
        self.base.join("results/latest.json")
    }

    fn report(&self) -> PathBuf {
        self.base.join("report")
    }
}

/// `20261124T030512Z`: sorts by time.
fn stamp(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1000 % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970-01-01.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Writes what there is so far, marked as partial: a run that is killed has lost at most the benchmark it was in.
pub(crate) fn keep(harness: &Harness) {
    if !harness.keeps {
        return;
    }
    let mut results = harness.results.clone();
    take_status(&harness.seats, &mut results);
    if let Err(error) = write(&harness.places, &results) {
        eprintln!("  {error}");
    }
}

fn write(places: &Places, results: &Results) -> Result<PathBuf> {
    let path = places.result_file(results);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::io("create", directory, error))?;
    }
    results
        .write(&path)
        .map_err(|error| Error::Report(error.to_string()))?;
    // A link to the newest, replaced in one step.
    let link = places.latest();
    let fresh = link.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    if let Some(name) = path.file_name() {
        std::os::unix::fs::symlink(name, &fresh)
            .and_then(|()| std::fs::rename(&fresh, &link))
            .map_err(|error| Error::io("replace", &link, error))?;
    }
    Ok(path)
}

/// Ends the run: instances, files, the result file and the report, whose path is the last thing said.
pub(crate) fn finish(harness: &mut Harness, completeness: Completeness) -> Result<()> {
    harness.end();
    let _ = std::fs::remove_dir_all(&harness.scratch);
    if !harness.keeps {
        return Ok(());
    }
    let results = &mut harness.results;
    results.completeness = completeness;
    results.ended_unix_ms = Some(clock::unix_ms());
    results.fingerprint.load_at_end = fingerprint::load();
    let path = write(&harness.places, results)?;
    println!("\nresults: {}", path.display());
    let report = reports::write_report(results, &harness.places.report())
        .map_err(|error| Error::Report(error.to_string()))?;
    println!("report: {}", report.display());
    Ok(())
}

/// The user has asked the harness to end: everything is stopped, what was measured is kept.
pub(crate) fn broken_off(harness: &mut Harness) -> ! {
    let signal = processes::interrupted().unwrap_or(libc::SIGINT);
    eprintln!("\ninterrupted: ending all instances and keeping what was measured");
    let reason = match signal {
        libc::SIGINT => "interrupted by ctrl-c".to_owned(),
        other => format!("ended by signal {other}"),
    };
    if let Err(error) = finish(harness, Completeness::Partial { reason }) {
        eprintln!("{error}");
    }
    std::process::exit(128 + signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_utc_and_sort_by_time() {
        assert_eq!(stamp(0), "19700101T000000Z");
        assert_eq!(stamp(951_782_399_000), "20000228T235959Z");
        assert_eq!(stamp(951_868_800_000), "20000301T000000Z");
        assert_eq!(stamp(1_795_489_871_000), "20261124T031111Z");
    }
}
