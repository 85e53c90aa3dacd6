//! A single start: its times, and the timeline that its stages leave.

use std::path::Path;
use std::time::Duration;

use reports::results::Stage;

use crate::clock;
use crate::launch::{Launch, Trouble};

/// One start's times, nanoseconds from just before the spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) t0: u64,
    pub(crate) first_byte: u64,
    pub(crate) exit: u64,
}

/// Starts the workload once and sees that it says what it should and ends as it should.
pub(crate) fn once(launch: &Launch, limit: Duration) -> Result<Started, Trouble> {
    let mut running = launch.spawn(false)?;
    let t0 = running.spawned;
    let mut output = [0; 64];
    let mut length = running.read(&mut output, "the first byte", t0, limit)?;
    let first_byte = clock::now() - t0;
    if length == 0 {
        return Err(running.explain_end());
    }
    while length < output.len() {
        match running.read(&mut output[length..], "the end of the output", t0, limit)? {
            0 => break,
            more => length += more,
        }
    }
    let (status, exit) = running.wait_exit(t0, limit)?;
    if !status.success() {
        return Err(running.explain_end());
    }
    if &output[..length] != b"hi\n" {
        let said = String::from_utf8_lossy(&output[..length]).into_owned();
        return Err(Trouble::Answer(format!(
            "it printed {said:?} instead of \"hi\""
        )));
    }
    Ok(Started {
        t0,
        first_byte,
        exit: exit - t0,
    })
}

/// What `PLIMSOLL_TIMELINE` left: `{"stages": [{"name", "at_ns"}…]}` on CLOCK_MONOTONIC, made relative to `t0`.
pub(crate) fn read_timeline(path: &Path, t0: u64) -> Option<Vec<Stage>> {
    #[derive(serde::Deserialize)]
    struct File {
        stages: Vec<Named>,
    }
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
        at_ns: u64,
    }
    let file: File = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let mut stages: Vec<Stage> = file
        .stages
        .into_iter()
        .map(|stage| Stage {
            name: stage.name,
            end_ns: stage.at_ns.saturating_sub(t0),
        })
        .collect();
    stages.sort_by_key(|stage| stage.end_ns);
    Some(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Result<Started, Trouble> {
        once(&Launch::new("/bin/sh", ["-c", script]), SOON)
    }

    #[test]
    fn the_first_byte_comes_before_the_exit() {
        let started = shell("echo hi").unwrap();
        assert!(started.first_byte > 0 && started.first_byte <= started.exit);
    }

    #[test]
    fn a_start_that_fails_or_says_something_else_is_no_sample() {
        assert!(
            shell("exit 0")
                .unwrap_err()
                .to_string()
                .contains("exit code 0")
        );
        assert!(
            shell("echo hi; exit 3")
                .unwrap_err()
                .to_string()
                .contains("exit code 3")
        );
        assert!(
            shell("echo ho")
                .unwrap_err()
                .to_string()
                .contains("instead of \"hi\"")
        );
        assert!(
            shell("echo hi; echo hi")
                .unwrap_err()
                .to_string()
                .contains("instead of \"hi\"")
        );
    }

    #[test]
    fn timelines_are_made_relative_and_garbage_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("timeline.json");
        std::fs::write(
            &path,
            r#"{"stages":[{"name":"exec","at_ns":1500},{"name":"image","at_ns":1200}]}"#,
        )
        .unwrap();
        let stages = read_timeline(&path, 1000).unwrap();
        assert_eq!(
            stages
                .iter()
                .map(|s| (s.name.as_str(), s.end_ns))
                .collect::<Vec<_>>(),
            [("image", 200), ("exec", 500)]
        );
        std::fs::write(&path, "{").unwrap();
        assert!(read_timeline(&path, 1000).is_none());
        assert!(read_timeline(&directory.path().join("none"), 1000).is_none());
    }
}
