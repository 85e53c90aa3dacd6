//! A conversation with one registry: its address, and the tokens or passwords that it asks for.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::{Body, SendBody};

use super::challenge::{self, Challenge};
use super::credentials::{Credentials, DockerConfig};
use super::endpoint::is_loopback;
use super::http::{
    SharedHttp, detail, escape, host_of, may_lead, plain, read_small, resolve, unexpected,
};
use super::{RegistryError, Server};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Redirections that are followed for one request. Registries send to their storage, which may send on once.
const REDIRECTIONS: usize = 5;

/// Refusals of one request after which no new token is asked for. More than one, because other threads use tokens up too.
const REFUSALS: usize = 3;

/// The longest answer of an authority for tokens.
const LONGEST_TOKEN: u64 = 1 << 20;

/// The name that authorities for tokens know this program by.
const CLIENT: &str = "plimsoll";

/// A request, which may be sent several times.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Uri,
    pub(super) headers: &'a [(&'static str, &'a str)],
    /// What is asked for, in an error's words.
    pub(super) what: &'a str,
}

/// What a request carries.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// As many bytes as the request's Content-Length says.
    Stream(&'a mut dyn Read),
}

pub(super) struct Session<'s> {
    http: SharedHttp,
    pub(super) server: Server,
    base: String,
    /// What is to be allowed, in the words of the token specification; none for a login.
    scope: Option<String>,
    config: &'s DockerConfig,
    /// Credentials that are being tried, in place of those that are kept.
    given: Option<Credentials>,
    access: Mutex<Access>,
    pub(super) cancelled: AtomicBool,
    /// Whether it has answered anything yet. What has never been there is not waited for.
    reached: AtomicBool,
}

/// What lets us in.
#[derive(Default)]
struct Access {
    challenge: Option<Challenge>,
    header: Option<String>,
    /// When the token ends.
    until: Option<Instant>,
    /// Grows with each header, so that of several threads that were refused only the first asks for a new one.
    generation: u64,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl<'s> Session<'s> {
    /// Finds out how a registry is spoken to. One that is not on this machine is spoken to by TLS, and not asked before.
    pub(super) fn open(
        http: &SharedHttp,
        server: &Server,
        scope: Option<String>,
        config: &'s DockerConfig,
        given: Option<Credentials>,
    ) -> Result<Self> {
        let mut session = Self {
            http: http.clone(),
            server: server.clone(),
            base: format!("https://{}", server.host()),
            scope,
            config,
            given,
            access: Mutex::default(),
            cancelled: AtomicBool::new(false),
            reached: AtomicBool::new(false),
        };
        if is_loopback(server.host()) && session.speaks_plainly()? {
            session.base = format!("http://{}", server.host());
        }
        Ok(session)
    }

    /// Whether a registry on this machine speaks HTTP without TLS. Servers that speak TLS answer plain requests by an error, or not
    /// in HTTP.
    fn speaks_plainly(&self) -> Result<bool> {
        let url = self.address("http", "/v2/")?;
        let request = self.request(&Method::GET, &url, &[], None)?;
        let ask = || match self
            .http
            .send(request.clone().map(|()| SendBody::none()), "/v2/")
        {
            Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => Ok(false),
            Ok(answer) => {
                self.lock().challenge = offered(&answer);
                // Read to its end, the connection can be used again.
                let _ = detail(answer);
                Ok(true)
            }
            Err(RegistryError::Invalid { .. } | RegistryError::Broken { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        self.persist(ask)
    }

    /// An address of the registry's API.
    pub(super) fn url(&self, path: &str) -> Result<Uri> {
        let (scheme, _) = self.base.split_once(':').unwrap_or(("https", ""));
        self.address(scheme, path)
    }

    fn address(&self, scheme: &str, path: &str) -> Result<Uri> {
        format!("{scheme}://{}{path}", self.server.host())
            .parse()
            .map_err(|_| RegistryError::Server(self.server.host().to_owned()))
    }

    /// Whether the registry lets us in at all: what `login` asks.
    pub(super) fn check(&self) -> Result<()> {
        let url = self.url("/v2/")?;
        let what = "a login";
        let ask = Ask {
            method: Method::GET,
            url,
            headers: &[],
            what,
        };
        let answer = self.persist(|| self.answer(&ask, Payload::None))?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(RegistryError::BadCredentials {
                    host: self.server.host().to_owned(),
                    detail: detail(answer),
                })
            }
            _ => Err(unexpected(answer, self.server.host(), what)),
        }
    }

    /// Tries until it works, fails for good, or patience ends.
    pub(super) fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let patience = &self.http.patience;
        let mut failed = 0;
        loop {
            match attempt() {
                Err(error) if error.is_passing() => {
                    failed += 1;
                    let is_absent = matches!(error, RegistryError::Unreachable { .. })
                        && !self.reached.load(Ordering::Relaxed);
                    if is_absent || failed >= patience.attempts {
                        return Err(error);
                    }
                    self.sleep(patience.wait(failed, &error))?;
                }
                Ok(done) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn patience(&self) -> &super::Patience {
        &self.http.patience
    }

    /// Waits, but not when everything is being given up.
    pub(super) fn sleep(&self, wait: Duration) -> Result<()> {
        let end = Instant::now() + wait;
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(RegistryError::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Sends a request once, lets itself in where that is asked for, and follows redirections. The answer may be one of any status;
    /// those that pass by themselves (429, 5xx) are errors.
    pub(super) fn answer(&self, ask: &Ask<'_>, mut payload: Payload<'_>) -> Result<Response<Body>> {
        let own = self.url("/")?;
        let mut url = ask.url.clone();
        let mut refusals = 0;
        let mut redirections = 0;
        loop {
            let ours = is_same_origin(&own, &url);
            let (header, generation) = if ours { self.header()? } else { (None, 0) };
            let request = self.request(&ask.method, &url, ask.headers, header.as_deref())?;
            let answer = match &mut payload {
                Payload::None => self
                    .http
                    .send(request.map(|()| SendBody::none()), ask.what)?,
                Payload::Bytes(bytes) => self.http.send(request.map(|()| &**bytes), ask.what)?,
                Payload::Stream(reader) => self
                    .http
                    .send(request.map(|()| SendBody::from_reader(*reader)), ask.what)?,
            };
            let status = answer.status();
            if matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) {
                return Err(unexpected(answer, &host_of(&url), ask.what));
            }
            let is_stream = matches!(payload, Payload::Stream(_));
            if status == StatusCode::UNAUTHORIZED && ours && refusals < REFUSALS {
                refusals += 1;
                // Again with what it asks for, if there is anything new to show.
                if !self.authenticate(offered(&answer), generation)? {
                    return Ok(answer);
                }
                if is_stream {
                    // What was sent cannot be sent again from here.
                    return Err(RegistryError::Broken {
                        host: host_of(&url),
                        what: ask.what.to_owned(),
                        reason: "it asks for a new token".to_owned(),
                    });
                }
                continue;
            }
            let is_redirection = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            if !is_redirection || is_stream {
                return Ok(answer);
            }
            redirections += 1;
            let redirect = |reason| RegistryError::Redirect {
                host: host_of(&url),
                what: ask.what.to_owned(),
                reason,
            };
            if redirections > REDIRECTIONS {
                return Err(redirect("in a circle, or too often"));
            }
            let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let next = location.and_then(|location| resolve(&url, location));
            let next = next.ok_or_else(|| redirect("to nowhere"))?;
            if !may_lead(&url, &next) {
                return Err(redirect("to where there is no TLS"));
            }
            url = next;
        }
    }

    fn request(
        &self,
        method: &Method,
        url: &Uri,
        headers: &[(&'static str, &str)],
        authorization: Option<&str>,
    ) -> Result<Request<()>> {
        let mut request = Request::builder().method(method.clone()).uri(url.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(()).map_err(|error| RegistryError::Invalid {
            host: host_of(url),
            what: "a request".to_owned(),
            reason: error.to_string(),
        })
    }

    /// What to show with the next request: a token that ends soon is renewed before.
    fn header(&self) -> Result<(Option<String>, u64)> {
        let mut access = self.lock();
        let ends = access.until.is_some_and(|until| Instant::now() >= until);
        // A challenge may be known already, from how the address was found.
        if ends || (access.header.is_none() && access.challenge.is_some()) {
            self.renew(&mut access)?;
        }
        Ok((access.header.clone(), access.generation))
    }

    /// After a refusal of what was shown in `generation`. False when there is nothing else to show.
    fn authenticate(&self, offered: Option<Challenge>, generation: u64) -> Result<bool> {
        let mut access = self.lock();
        if access.generation != generation {
            return Ok(true);
        }
        let Some(challenge) = offered else {
            return Ok(false);
        };
        // A password that was refused stays wrong; a token may have ended early.
        if challenge == Challenge::Basic && access.header.is_some() {
            return Ok(false);
        }
        access.challenge = Some(challenge);
        self.renew(&mut access)?;
        Ok(access.generation != generation)
    }

    fn renew(&self, access: &mut Access) -> Result<()> {
        let Some(challenge) = access.challenge.clone() else {
            return Ok(());
        };
        let credentials = match &self.given {
            Some(given) => Some(given.clone()),
            None => self.config.credentials(&self.server)?,
        };
        let (header, until) = match challenge {
            Challenge::Basic => (credentials.as_ref().and_then(Credentials::basic), None),
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let scope = self.scope.clone().or(scope);
                let token = self.token(
                    &realm,
                    service.as_deref(),
                    scope.as_deref(),
                    credentials.as_ref(),
                )?;
                (Some(token.0), Some(token.1))
            }
        };
        if header.is_none() {
            // Nothing to show: the next answer decides.
            access.challenge = None;
            return Ok(());
        }
        access.header = header;
        access.until = until;
        access.generation += 1;
        Ok(())
    }

    /// A token from the authority that the registry names (distribution's token specification).
    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<(String, Instant)> {
        let invalid = |reason: &str| RegistryError::Invalid {
            host: self.server.host().to_owned(),
            what: "a request for access".to_owned(),
            reason: reason.to_owned(),
        };
        let own = self.url("/v2/")?;
        let url: Uri = realm
            .parse()
            .map_err(|_| invalid("the authority for its tokens has no valid address"))?;
        // The password goes there.
        if !may_lead(&own, &url) {
            return Err(invalid("the authority for its tokens does not speak TLS"));
        }
        let mut query = Vec::new();
        let mut add = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                query.push(format!("{key}={}", escape(value)));
            }
        };
        add("service", service);
        // Several scopes are several parameters in the one form, and words in the other.
        let what = "a request for a token";
        let started = Instant::now();
        let answer = if let Some(Credentials::Identity(token)) = credentials {
            add("scope", scope);
            add("client_id", Some(CLIENT));
            add("grant_type", Some("refresh_token"));
            add("refresh_token", Some(token));
            let form = query.join("&");
            let form_type = [("content-type", "application/x-www-form-urlencoded")];
            let request = self.request(&Method::POST, &url, &form_type, None)?;
            self.http.send(request.map(|()| form.as_bytes()), what)?
        } else {
            for scope in scope
                .unwrap_or_default()
                .split(' ')
                .filter(|s| !s.is_empty())
            {
                add("scope", Some(scope));
            }
            if let Some(Credentials::Password { user, .. }) = credentials {
                add("account", Some(user));
            }
            add("client_id", Some(CLIENT));
            let separator = if realm.contains('?') { '&' } else { '?' };
            let url: Uri = format!("{realm}{separator}{}", query.join("&"))
                .parse()
                .map_err(|_| invalid("the authority for its tokens has no valid address"))?;
            let basic = credentials.and_then(Credentials::basic);
            let request = self.request(&Method::GET, &url, &[], basic.as_deref())?;
            self.http.send(request.map(|()| SendBody::none()), what)?
        };
        let host = host_of(&url);
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(RegistryError::BadCredentials {
                    host,
                    detail: detail(answer),
                });
            }
            _ => return Err(unexpected(answer, &host, what)),
        }
        let bytes = read_small(answer, LONGEST_TOKEN, &host, what)?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|error| RegistryError::Invalid {
                host: host.clone(),
                what: what.to_owned(),
                reason: error.to_string(),
            })?;
        let value = token.token.or(token.access_token).unwrap_or_default();
        if value.is_empty() || !value.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(RegistryError::Invalid {
                host,
                what: what.to_owned(),
                reason: "there is no token in it".to_owned(),
            });
        }
        // The specification: a minute if nothing is said, and never less. Renewed a little before its end.
        let lives = Duration::from_secs(token.expires_in.unwrap_or(60).clamp(60, 86_400));
        Ok((
            format!("Bearer {value}"),
            started + lives - Duration::from_secs(10),
        ))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer asks for.
fn offered(answer: &Response<Body>) -> Option<Challenge> {
    if answer.status() != StatusCode::UNAUTHORIZED {
        return None;
    }
    let headers = answer.headers().get_all(WWW_AUTHENTICATE);
    challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()))
}

fn is_same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && host_of(a).eq_ignore_ascii_case(&host_of(b))
}

/// An I/O error met while reading an answer's body.
pub(super) fn broken(host: &str, what: &str, error: &std::io::Error) -> RegistryError {
    RegistryError::Broken {
        host: host.to_owned(),
        what: what.to_owned(),
        reason: plain(error),
    }
}
