//! `push`: layers that the registry does not have, then the configuration, then the manifest that makes them an image.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;

use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use ureq::Body;
use ureq::http::header::{LOCATION, RANGE};
use ureq::http::{Method, Response, StatusCode, Uri};

use super::endpoint::Repository;
use super::http::{detail, escape, host_of, may_lead, resolve, unexpected};
use super::progress::{Event, Progress, Report};
use super::session::{Ask, Payload, Session};
use super::{AT_ONCE, Client, RegistryError};
use crate::load::digest_of;
use crate::store::{Store, parse};
use crate::{Digest, Error, Reference, Result};

/// What a push has done.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's bytes.
    pub size: u64,
}

struct Push<'p> {
    store: &'p Store,
    session: Session<'p>,
    repository: Repository,
    /// Other repositories on the same registry whose images have a blob, by what is known here.
    sources: Vec<(Digest, String)>,
    progress: &'p dyn Progress,
}

/// Where an upload goes on.
struct Upload {
    location: Uri,
    offset: u64,
}

impl Store {
    /// Sends the image that is called `name`, as it is stored here, byte for byte: its digest stays the same.
    ///
    /// # Errors
    /// A name that no image has; a registry that cannot be reached, refuses, or takes something else than was sent.
    pub fn push(
        &self,
        client: &Client,
        name: &Reference,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        if name.digest().is_some() {
            return Err(RegistryError::PushDigest(name.to_string()).into());
        }
        let index = self.index()?;
        let entry = index
            .entries
            .iter()
            .find(|entry| entry.name.as_ref() == Some(name))
            .ok_or_else(|| Error::ImageNotFound(name.to_string()))?;
        let bytes = self.document(entry.manifest, entry.manifest_bytes)?;
        let manifest: ImageManifest = parse(&bytes, &format!("the manifest {}", entry.manifest))?;
        let image = self.image(&index, entry)?;

        let repository = Repository::of(name);
        let mut sources = Vec::new();
        for other in &index.entries {
            let Some(other_name) = &other.name else {
                continue;
            };
            let theirs = Repository::of(other_name);
            if theirs.server != repository.server || theirs.path == repository.path {
                continue;
            }
            let Ok(manifest) = self.manifest(other) else {
                continue;
            };
            for layer in manifest.layers() {
                if let Ok(digest) = digest_of(layer) {
                    sources.push((digest, theirs.path.clone()));
                }
            }
        }
        let wanted: HashSet<Digest> = manifest
            .layers()
            .iter()
            .filter_map(|l| digest_of(l).ok())
            .collect();
        sources.retain(|(digest, _)| wanted.contains(digest));
        let mut scopes = vec![format!("repository:{}:pull,push", repository.path)];
        for (_, from) in &sources {
            let scope = format!("repository:{from}:pull");
            // As many as an address has room for.
            if scopes.len() < 16 && !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let scope = Some(scopes.join(" "));
        let session = Session::open(
            &client.http,
            &repository.server,
            scope,
            &client.config,
            None,
        )?;
        let push = Push {
            store: self,
            session,
            repository,
            sources,
            progress,
        };
        push.layers(&manifest, &image.layers)?;
        push.config(manifest.config())?;
        let media_type = match manifest.media_type() {
            Some(own) => own.to_string(),
            None => entry.media_type.clone(),
        };
        let tag = name.tag().unwrap_or("latest");
        push.manifest(tag, entry.manifest, &media_type, &bytes)?;
        Ok(Pushed {
            digest: entry.manifest,
            size: bytes.len() as u64,
        })
    }
}

impl Push<'_> {
    /// Sends the layers, several at once. They are shown by their diff IDs, as docker does.
    fn layers(&self, manifest: &ImageManifest, diff_ids: &[Digest]) -> Result<()> {
        let mut queue = Vec::new();
        let mut seen = HashSet::new();
        for (index, (descriptor, diff_id)) in manifest.layers().iter().zip(diff_ids).enumerate() {
            let short = diff_id.short();
            let report = Report {
                to: self.progress,
                index,
                id: &short,
            };
            if is_foreign(descriptor.media_type()) {
                report.say(Event::Skipped);
            } else if seen.insert(digest_of(descriptor)?) {
                report.say(Event::Queued);
                queue.push((index, digest_of(descriptor)?, descriptor.size(), short));
            }
        }
        let workers = AT_ONCE.min(queue.len());
        let queue = Mutex::new(queue.into_iter());
        let failed: Mutex<Option<Error>> = Mutex::default();
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        if self.session.cancelled.load(Ordering::Relaxed) {
                            return;
                        }
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((index, digest, size, short)) = next else {
                            return;
                        };
                        let report = Report {
                            to: self.progress,
                            index,
                            id: &short,
                        };
                        if let Err(error) = self.layer(digest, size, report) {
                            self.session.cancelled.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            let is_echo =
                                matches!(error, Error::Registry(RegistryError::Cancelled));
                            if !is_echo {
                                failed.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn layer(&self, digest: Digest, size: u64, report: Report<'_>) -> Result<()> {
        let what = format!("layer {digest}");
        if self.has(digest, &what)? {
            report.say(Event::Exists);
            return Ok(());
        }
        let path = self.store.blob(digest);
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let there = file.metadata().map_err(Error::io("examine", &path))?.len();
        if there != size {
            return Err(Error::InvalidDocument {
                what: path.display().to_string(),
                reason: format!("it has {there} bytes where its manifest states {size}"),
            });
        }
        let mut begun = match self.mount(digest, &what)? {
            Mount::Done(from) => {
                report.say(Event::Mounted(&from));
                return Ok(());
            }
            Mount::Upload(upload) => Some(upload),
        };
        let mut failed = 0;
        let mut furthest = 0;
        loop {
            let sent = match begun.take() {
                Some(upload) => self.send(upload, digest, &mut file, size, &what, report),
                None => self
                    .begin(&what)
                    .map_err(Stopped::for_good)
                    .and_then(|upload| self.send(upload, digest, &mut file, size, &what, report)),
            };
            let (error, goes_on) = match sent {
                Ok(()) => {
                    report.say(Event::Pushed);
                    return Ok(());
                }
                Err(stopped) => (stopped.error, stopped.upload),
            };
            if !error.is_passing() {
                return Err(error.into());
            }
            failed += 1;
            let patience = self.session.patience();
            if failed >= patience.attempts {
                return Err(error.into());
            }
            let wait = patience.wait(failed, &error);
            report.say(Event::Retrying {
                wait,
                reason: &error,
            });
            self.session.sleep(wait)?;
            // Where the registry says that it goes on; from the beginning if it says nothing.
            begun = goes_on.and_then(|location| {
                let upload = self.state(&location, &what)?;
                if upload.offset > size {
                    return None;
                }
                if upload.offset > furthest {
                    furthest = upload.offset;
                    failed = 0;
                }
                Some(upload)
            });
        }
    }

    /// Whether the registry has a blob.
    fn has(&self, digest: Digest, what: &str) -> Result<bool> {
        let ask = Ask {
            method: Method::HEAD,
            url: self
                .session
                .url(&format!("/v2/{}/blobs/{digest}", self.repository.path))?,
            headers: &[],
            what,
        };
        Ok(self.session.persist(|| {
            let answer = self.session.answer(&ask, Payload::None)?;
            match answer.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(self.refused(answer, what)),
            }
        })?)
    }

    /// Asks the registry to take the blob over from another repository; if it does not, an upload has begun.
    fn mount(&self, digest: Digest, what: &str) -> Result<Mount> {
        let source = self.sources.iter().find(|(blob, _)| *blob == digest);
        let Some((_, from)) = source else {
            let begun = self.session.persist(|| self.begin(what));
            return Ok(Mount::Upload(begun?));
        };
        let path = format!(
            "/v2/{}/blobs/uploads/?mount={}&from={}",
            self.repository.path,
            escape(&digest.to_string()),
            escape(from)
        );
        let ask = Ask {
            method: Method::POST,
            url: self.session.url(&path)?,
            headers: &[("content-length", "0")],
            what,
        };
        Ok(self.session.persist(|| {
            let answer = self.session.answer(&ask, Payload::Bytes(b""))?;
            match answer.status() {
                StatusCode::CREATED => Ok(Mount::Done(from.clone())),
                StatusCode::ACCEPTED => Ok(Mount::Upload(self.upload(&ask.url, &answer, 0, what)?)),
                // It does not give from there: then it is sent.
                _ => self.begin(what).map(Mount::Upload),
            }
        })?)
    }

    fn begin(&self, what: &str) -> Result<Upload, RegistryError> {
        let ask = Ask {
            method: Method::POST,
            url: self
                .session
                .url(&format!("/v2/{}/blobs/uploads/", self.repository.path))?,
            headers: &[("content-length", "0")],
            what,
        };
        let answer = self.session.answer(&ask, Payload::Bytes(b""))?;
        match answer.status() {
            StatusCode::ACCEPTED => self.upload(&ask.url, &answer, 0, what),
            _ => Err(self.refused(answer, what)),
        }
    }

    /// Where an answer says that the upload goes on.
    fn upload(
        &self,
        asked: &Uri,
        answer: &Response<Body>,
        offset: u64,
        what: &str,
    ) -> Result<Upload, RegistryError> {
        let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        let location = location.and_then(|location| resolve(asked, location));
        let redirect = |reason| RegistryError::Redirect {
            host: host_of(asked),
            what: what.to_owned(),
            reason,
        };
        let location = location.ok_or_else(|| redirect("to nowhere"))?;
        if !may_lead(asked, &location) {
            return Err(redirect("to where there is no TLS"));
        }
        Ok(Upload { location, offset })
    }

    /// How much of an upload the registry has. None if it knows nothing of it.
    fn state(&self, location: &Uri, what: &str) -> Option<Upload> {
        let ask = Ask {
            method: Method::GET,
            url: location.clone(),
            headers: &[],
            what,
        };
        let answer = self.session.answer(&ask, Payload::None).ok()?;
        if answer.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let offset = received(&answer)?;
        match self.upload(location, &answer, offset, what) {
            Ok(upload) => Some(upload),
            // It may leave the address out.
            Err(_) => Some(Upload {
                location: location.clone(),
                offset,
            }),
        }
    }

    /// Sends what is missing of a blob, and closes the upload.
    fn send(
        &self,
        mut upload: Upload,
        digest: Digest,
        file: &mut File,
        size: u64,
        what: &str,
        report: Report<'_>,
    ) -> Result<(), Box<Stopped>> {
        let host = self.session.server.host();
        if upload.offset < size {
            file.seek(SeekFrom::Start(upload.offset)).map_err(|error| {
                Stopped::for_good(super::session::broken("the store", what, &error))
            })?;
            let length = (size - upload.offset).to_string();
            let range = format!("{}-{}", upload.offset, size - 1);
            let headers = [
                ("content-type", "application/octet-stream"),
                ("content-length", length.as_str()),
                ("content-range", range.as_str()),
            ];
            // A whole blob needs no range, and not every registry knows them.
            let headers = if upload.offset == 0 {
                &headers[..2]
            } else {
                &headers[..]
            };
            let ask = Ask {
                method: Method::PATCH,
                url: upload.location.clone(),
                headers,
                what,
            };
            let mut counted = Counted {
                file: file.take(size - upload.offset),
                done: upload.offset,
                total: size,
                report,
            };
            let stopped = |error| {
                Box::new(Stopped {
                    error,
                    upload: Some(upload.location.clone()),
                })
            };
            let answer = self
                .session
                .answer(&ask, Payload::Stream(&mut counted))
                .map_err(stopped)?;
            if !matches!(answer.status().as_u16(), 201 | 202 | 204) {
                return Err(Stopped::for_good(self.refused(answer, what)));
            }
            let offset = received(&answer).unwrap_or(size);
            let next = self
                .upload(&ask.url, &answer, offset, what)
                .map_err(Stopped::for_good)?;
            if offset != size {
                return Err(Box::new(Stopped {
                    error: RegistryError::Broken {
                        host: host.to_owned(),
                        what: what.to_owned(),
                        reason: format!("it has taken {offset} bytes of {size}"),
                    },
                    upload: Some(next.location),
                }));
            }
            upload = next;
        }
        self.close(&upload.location, digest, b"", what)
            .map_err(Stopped::for_good)
    }

    /// Closes an upload by the digest that it must have; `rest` is what has not been sent yet.
    fn close(
        &self,
        location: &Uri,
        digest: Digest,
        rest: &[u8],
        what: &str,
    ) -> Result<(), RegistryError> {
        let text = location.to_string();
        let separator = if text.contains('?') { '&' } else { '?' };
        let url = format!("{text}{separator}digest={}", escape(&digest.to_string()));
        let url = url.parse().map_err(|_| RegistryError::Redirect {
            host: host_of(location),
            what: what.to_owned(),
            reason: "to nowhere",
        })?;
        let length = rest.len().to_string();
        let headers = [
            ("content-type", "application/octet-stream"),
            ("content-length", length.as_str()),
        ];
        let ask = Ask {
            method: Method::PUT,
            url,
            headers: &headers,
            what,
        };
        let answer = self.session.answer(&ask, Payload::Bytes(rest))?;
        match answer.status().as_u16() {
            201 | 204 => Ok(()),
            _ => Err(self.refused(answer, what)),
        }
    }

    fn config(&self, descriptor: &Descriptor) -> Result<()> {
        let digest = digest_of(descriptor)?;
        let what = format!("configuration {digest}");
        if self.has(digest, &what)? {
            return Ok(());
        }
        let bytes = self.store.document(digest, descriptor.size())?;
        self.session.persist(|| {
            let upload = self.begin(&what)?;
            self.close(&upload.location, digest, &bytes, &what)
        })?;
        Ok(())
    }

    fn manifest(&self, tag: &str, digest: Digest, media_type: &str, bytes: &[u8]) -> Result<()> {
        let what = format!("manifest {tag}");
        let length = bytes.len().to_string();
        let headers = [
            ("content-type", media_type),
            ("content-length", length.as_str()),
        ];
        let ask = Ask {
            method: Method::PUT,
            url: self
                .session
                .url(&format!("/v2/{}/manifests/{tag}", self.repository.path))?,
            headers: &headers,
            what: &what,
        };
        let told = self.session.persist(|| {
            let answer = self.session.answer(&ask, Payload::Bytes(bytes))?;
            if !matches!(answer.status().as_u16(), 201 | 202) {
                return Err(self.refused(answer, &what));
            }
            let told = answer.headers().get("docker-content-digest");
            Ok(told.and_then(|told| told.to_str().ok()?.parse::<Digest>().ok()))
        })?;
        match told {
            Some(told) if told != digest => {
                let host = self.session.server.host();
                Err(RegistryError::wrong_digest(host, &what, digest, told).into())
            }
            _ => Ok(()),
        }
    }

    fn refused(&self, answer: Response<Body>, what: &str) -> RegistryError {
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
                action: "push",
                repository: self.repository.familiar.clone(),
                detail: detail(answer),
            },
            _ => unexpected(answer, self.session.server.host(), what),
        }
    }
}

enum Mount {
    Done(String),
    Upload(Upload),
}

/// An upload that did not come to its end, and where it may go on.
struct Stopped {
    error: RegistryError,
    upload: Option<Uri>,
}

impl Stopped {
    fn for_good(error: RegistryError) -> Box<Self> {
        Box::new(Self {
            error,
            upload: None,
        })
    }
}

/// How many bytes an answer says have been received: `0-<last>`.
fn received(answer: &Response<Body>) -> Option<u64> {
    let range = answer.headers().get(RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    let last = last.trim().parse::<u64>().ok()?;
    // distribution says 0-0 for nothing; a single byte is then sent once more, which it refuses, and it begins anew.
    (first.trim() == "0").then(|| if last == 0 { 0 } else { last.saturating_add(1) })
}

/// Layers that only their maker may hand on.
fn is_foreign(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        MediaType::Other(other) => other.contains(".foreign."),
        _ => false,
    }
}

/// A file that tells how much of it has been read.
struct Counted<'c, R> {
    file: R,
    done: u64,
    total: u64,
    report: Report<'c>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        self.report.say(Event::Sending {
            done: self.done,
            total: self.total,
        });
        Ok(read)
    }
}
