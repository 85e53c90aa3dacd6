//! The log file that engines read a runtime's failure from.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::arguments::LogFormat;
use super::time::rfc3339;

/// Where messages go besides standard error.
pub(super) struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(super) fn open(path: Option<&Path>, format: LogFormat, debug: bool) -> Result<Self> {
        let file = match path {
            None => None,
            Some(path) => Some(
                File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .with_context(|| format!("cannot open the log {}", path.display()))?,
            ),
        };
        Ok(Self {
            file,
            format,
            debug,
        })
    }

    pub(super) fn error(&self, message: &str) {
        self.write("error", message);
    }

    /// A warning, which a person at the terminal sees too.
    pub(super) fn warn(&self, message: &str) {
        eprintln!("plimsoll: warning: {message}");
        self.write("warning", message);
    }

    pub(super) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let Some(mut file) = self.file.as_ref() else {
            return;
        };
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({ "level": level, "msg": message, "time": rfc3339(now()) })
                    .to_string()
            }
            LogFormat::Text => format!("time=\"{}\" level={level} msg={message:?}", rfc3339(now())),
        };
        // A log that cannot be written to has nobody to tell of it.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
