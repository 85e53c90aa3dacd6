//! One blob as a reader: what is here already, then what the registry sends, however often the connection breaks.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use ureq::http::header::CONTENT_RANGE;
use ureq::http::{Method, StatusCode};
use ureq::{Body, BodyReader};

use super::http::unexpected;
use super::progress::{Event, Report};
use super::session::{Ask, Payload, Session, broken};
use super::{RegistryError, Result};
use crate::Digest;

/// Bytes between two failures that make the later one count as the first: less is no progress.
const PROGRESS: u64 = 64 << 10;

/// A blob's bytes from first to last.
pub(super) struct Download<'d> {
    session: &'d Session<'d>,
    path: String,
    what: String,
    size: u64,
    /// The beginning that is here.
    file: File,
    have: u64,
    position: u64,
    body: Option<BodyReader<'static>>,
    failed: u32,
    since_failure: u64,
    report: Report<'d>,
}

impl<'d> Download<'d> {
    pub(super) fn new(
        session: &'d Session<'d>,
        repository: &str,
        (digest, size): (Digest, u64),
        (file, have): (File, u64),
        report: Report<'d>,
    ) -> Self {
        Self {
            session,
            path: format!("/v2/{repository}/blobs/{digest}"),
            what: format!("layer {digest}"),
            size,
            file,
            have,
            position: 0,
            body: None,
            failed: 0,
            since_failure: 0,
            report,
        }
    }

    fn lie(&self, reason: String) -> RegistryError {
        RegistryError::Lie {
            host: self.session.server.host().to_owned(),
            what: self.what.clone(),
            reason,
        }
    }

    fn broken(&self, error: &io::Error) -> RegistryError {
        broken(self.session.server.host(), &self.what, error)
    }

    /// Asks for what is missing.
    fn open(&self) -> Result<BodyReader<'static>> {
        let range = format!("bytes={}-", self.position);
        let range = [("range", range.as_str())];
        let ask = Ask {
            method: Method::GET,
            url: self.session.url(&self.path)?,
            headers: if self.position == 0 { &[] } else { &range },
            what: &self.what,
        };
        let answer = self.session.answer(&ask, Payload::None)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.headers().get(CONTENT_RANGE);
                let start = range
                    .and_then(|range| range.to_str().ok()?.strip_prefix("bytes "))
                    .and_then(|range| range.split('-').next()?.trim().parse::<u64>().ok());
                if start != Some(self.position) {
                    return Err(self.lie(format!(
                        "asked for what follows byte {}, it sends something else",
                        self.position
                    )));
                }
                self.body_of(answer.into_body(), self.size - self.position)
            }
            StatusCode::OK => {
                let mut body = self.body_of(answer.into_body(), self.size)?;
                // It does not know ranges: what is here comes once more.
                match io::copy(&mut body.by_ref().take(self.position), &mut io::sink()) {
                    Ok(skipped) if skipped == self.position => Ok(body),
                    Ok(_) => Err(self.broken(&io::ErrorKind::UnexpectedEof.into())),
                    Err(error) => Err(self.broken(&error)),
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(self.lie(format!(
                "it has no byte {}, but {} were stated",
                self.position, self.size
            ))),
            _ => Err(unexpected(answer, self.session.server.host(), &self.what)),
        }
    }

    fn body_of(&self, body: Body, expected: u64) -> Result<BodyReader<'static>> {
        match body.content_length() {
            Some(told) if told != expected => Err(self.lie(format!(
                "it sends {told} bytes where {expected} were stated"
            ))),
            _ => Ok(body.into_reader()),
        }
    }

    /// The next bytes from the registry: 0 only at the end. What does not pass by itself is an error at once.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.size - self.position;
        if self.body.is_none() {
            if left == 0 {
                return Ok(0);
            }
            self.body = Some(self.open()?);
        }
        let Some(body) = &mut self.body else {
            return Ok(0);
        };
        if left == 0 {
            // Reads the end, so that the connection can be used again; anything else there is too much.
            let more = body.read(&mut [0; 1]);
            self.body = None;
            return match more {
                Ok(1) => Err(self.lie(format!("it goes on after the {} bytes stated", self.size))),
                _ => Ok(0),
            };
        }
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match body.read(&mut buffer[..most]) {
            Ok(0) => Err(self.broken(&io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => Ok(read),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn advance(&mut self, read: usize) {
        self.position += read as u64;
        self.report.say(Event::Receiving {
            done: self.position,
            total: self.size,
        });
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.session.cancelled.load(Ordering::Relaxed) {
                return Err(RegistryError::Cancelled.into());
            }
            if self.position < self.have {
                let left = usize::try_from(self.have - self.position).unwrap_or(usize::MAX);
                let most = buffer.len().min(left);
                let read = self.file.read_at(&mut buffer[..most], self.position)?;
                if read > 0 {
                    self.advance(read);
                    return Ok(read);
                }
                // Somebody has cut it.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match self.receive(buffer) {
                Ok(read) => {
                    self.since_failure += read as u64;
                    self.advance(read);
                    return Ok(read);
                }
                Err(error) if error.is_passing() => {
                    self.body = None;
                    if self.since_failure >= PROGRESS {
                        self.failed = 0;
                    }
                    self.since_failure = 0;
                    self.failed += 1;
                    let patience = self.session.patience();
                    if self.failed >= patience.attempts {
                        return Err(error.into());
                    }
                    let wait = patience.wait(self.failed, &error);
                    self.report.say(Event::Retrying {
                        wait,
                        reason: &error,
                    });
                    self.session.sleep(wait)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
