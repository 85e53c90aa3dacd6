//! Requests: one connection pool for each host, its certificates and its proxy; bounded answers, bounded waiting.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Request, Response, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, AsSendBody, Body};

use super::endpoint::is_loopback;
use super::names::Names;
use super::{RegistryError, proxy};
use crate::timestamp;

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Where docker keeps the certificates of private registries.
const DOCKER_CERTIFICATES: &str = "/etc/docker/certs.d";

/// Bundles of the authorities that a system trusts: Debian and Alpine, Fedora, openSUSE.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// What an error's text may say at most.
const DETAIL: u64 = 64 << 10;

/// How patient we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts without any progress before it is given up. Docker's default is 5 (max-download-attempts).
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each.
    pub first_wait: Duration,
    /// The longest wait, whatever a registry says in Retry-After.
    pub longest_wait: Duration,
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long it may stand still.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            connect: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The wait before the attempt after `failed` ones.
    pub(super) fn wait(&self, failed: u32, error: &RegistryError) -> Duration {
        if let RegistryError::Status {
            retry_after: Some(asked),
            ..
        } = error
        {
            return (*asked).min(self.longest_wait);
        }
        let doubled = self
            .first_wait
            .saturating_mul(1 << failed.saturating_sub(1).min(10));
        doubled.min(self.longest_wait)
    }
}

/// All connections of one operation.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) patience: Patience,
    agents: Mutex<HashMap<String, Agent>>,
    /// Read when the first certificate has to be checked.
    authorities: OnceLock<RootCerts>,
    certificates: PathBuf,
}

impl Http {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            agents: Mutex::default(),
            authorities: OnceLock::new(),
            certificates: PathBuf::from(DOCKER_CERTIFICATES),
        }
    }

    /// Sends one request and gives the answer, whatever its status. Redirections are not followed here.
    pub(super) fn send(
        &self,
        request: Request<impl AsSendBody>,
        what: &str,
    ) -> Result<Response<Body>> {
        let host = host_of(request.uri());
        let agent = self.agent(request.uri())?;
        agent
            .run(request)
            .map_err(|error| failed(&host, what, error))
    }

    fn agent(&self, uri: &Uri) -> Result<Agent> {
        let scheme = uri.scheme_str().unwrap_or_default();
        let host = host_of(uri);
        let origin = format!("{scheme}://{host}");
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&origin) {
            return Ok(agent.clone());
        }
        let proxy = proxy::for_host(scheme, &host, |name| std::env::var(name).ok())?;
        let silence = Some(self.patience.silence);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("plimsoll/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .proxy(proxy)
            .timeout_connect(Some(self.patience.connect))
            .timeout_recv_response(silence)
            .timeout_per_read(silence)
            .timeout_per_write(silence)
            .max_response_header_size(64 << 10)
            .max_idle_connections_per_host(8);
        if scheme == "https" {
            config = config.tls_config(self.tls(&host)?);
        }
        let agent = Agent::with_parts(config.build(), DefaultConnector::new(), Names);
        agents.insert(origin, agent.clone());
        Ok(agent)
    }

    /// The authorities for a host: the system's with those that docker's directory has for it; for this machine any, as docker does.
    fn tls(&self, host: &str) -> Result<TlsConfig> {
        let directory = self.certificates.join(host);
        let own = own_certificates(&directory)?;
        let mut tls = TlsConfig::builder();
        if is_loopback(host) && own.authorities.is_empty() {
            tls = tls.disable_verification(true);
        } else if own.authorities.is_empty() {
            let authorities = self.authorities.get_or_init(system_authorities);
            tls = tls.root_certs(authorities.clone());
        } else {
            let mut all = own.authorities;
            if let RootCerts::Specific(system) = self.authorities.get_or_init(system_authorities) {
                all.extend(system.iter().cloned());
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&all));
        }
        Ok(tls.client_cert(own.client).build())
    }
}

#[derive(Default)]
struct OwnCertificates {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

/// `*.crt` are authorities; `x.cert` and `x.key` are what we show ourselves with (docker's documentation of certs.d).
fn own_certificates(directory: &Path) -> Result<OwnCertificates> {
    let mut own = OwnCertificates::default();
    let Ok(listing) = std::fs::read_dir(directory) else {
        return Ok(own);
    };
    let read = |path: &Path| -> Result<Vec<PemItem<'static>>> {
        let unusable = |reason: String| RegistryError::Config {
            path: path.to_owned(),
            reason,
        };
        let bytes = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
        let items: Result<Vec<_>, _> = parse_pem(&bytes).collect();
        items.map_err(|e| unusable(e.to_string()))
    };
    let certificates = |items: Vec<PemItem<'static>>| {
        items.into_iter().filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
    };
    for path in listing.filter_map(|entry| Some(entry.ok()?.path())) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => own.authorities.extend(certificates(read(&path)?)),
            Some("cert") => {
                let chain: Vec<_> = certificates(read(&path)?).collect();
                let key_path = path.with_extension("key");
                let key = read(&key_path)?.into_iter().find_map(|item| match item {
                    PemItem::PrivateKey(key) => Some(key),
                    _ => None,
                });
                let key = key.ok_or_else(|| RegistryError::Config {
                    path: key_path,
                    reason: "it holds no private key".to_owned(),
                })?;
                own.client = Some(ClientCert::new_with_certs(&chain, key));
            }
            _ => {}
        }
    }
    Ok(own)
}

/// What the system trusts; Mozilla's list, as it was when this was built, where a system says nothing.
fn system_authorities() -> RootCerts {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let paths = named.into_iter().chain(BUNDLES.map(PathBuf::from));
    for path in paths {
        let Ok(bytes) = std::fs::read(path) else {
            continue;
        };
        let found: Vec<_> = parse_pem(&bytes)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if !found.is_empty() {
            return RootCerts::new_with_certs(&found);
        }
    }
    RootCerts::WebPki
}

/// `host[:port]` of an address.
pub(super) fn host_of(uri: &Uri) -> String {
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    // Never the user information that an address may begin with.
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
        .to_owned()
}

fn failed(host: &str, what: &str, error: ureq::Error) -> RegistryError {
    let host = host.to_owned();
    let reason = match error {
        ureq::Error::HostNotFound => "there is no host of this name".to_owned(),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            "it does not answer (timed out)".to_owned()
        }
        ureq::Error::Timeout(_) => {
            return RegistryError::Broken {
                host,
                what: what.to_owned(),
                reason: "it stands still (timed out)".to_owned(),
            };
        }
        ureq::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            return RegistryError::Broken {
                host,
                what: what.to_owned(),
                reason: error.to_string(),
            };
        }
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
            return RegistryError::Invalid {
                host,
                what: what.to_owned(),
                reason: error.to_string(),
            };
        }
        other => other.to_string(),
    };
    RegistryError::Unreachable { host, reason }
}

/// Reads a small answer whole.
pub(super) fn read_small(
    response: Response<Body>,
    limit: u64,
    host: &str,
    what: &str,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reader = response.into_body().into_reader();
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| RegistryError::Broken {
            host: host.to_owned(),
            what: what.to_owned(),
            reason: plain(&error),
        })?;
    if bytes.len() as u64 > limit {
        return Err(RegistryError::TooLong {
            host: host.to_owned(),
            what: what.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

/// An I/O error in words, without the names of the layers it came through.
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
        _ => {
            let text = error.to_string();
            text.strip_prefix("io: ").map(str::to_owned).unwrap_or(text)
        }
    }
}

/// The error for an answer that is none of those expected. Its text is the registry's, escaped and shortened.
pub(super) fn unexpected(response: Response<Body>, host: &str, what: &str) -> RegistryError {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    RegistryError::Status {
        host: host.to_owned(),
        what: what.to_owned(),
        status,
        detail: detail(response),
        retry_after,
    }
}

/// What a registry says in an error: empty, or beginning with `: `.
pub(super) fn detail(response: Response<Body>) -> String {
    let mut bytes = Vec::new();
    let reader = response.into_body().into_reader();
    if reader.take(DETAIL).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    // The distribution specification's errors; tokens' authorities answer in several ways.
    let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let first = &parsed["errors"][0];
    let text = [
        &first["message"],
        &first["code"],
        &parsed["details"],
        &parsed["message"],
    ];
    let Some(text) = text
        .iter()
        .find_map(|value| value.as_str())
        .filter(|t| !t.is_empty())
    else {
        return String::new();
    };
    let shown: String = text
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect();
    format!(": {shown}")
}

/// Retry-After: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = http_date(text)?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7); the two obsolete forms are not read.
fn http_date(text: &str) -> Option<SystemTime> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else {
        return None;
    };
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    timestamp::parse(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

/// Whether an answer from `from` may send us to `to`: only TLS, except from this machine to itself.
pub(super) fn may_lead(from: &Uri, to: &Uri) -> bool {
    match to.scheme_str() {
        Some("https") => true,
        Some("http") => from.scheme_str() == Some("http") && is_loopback(&host_of(to)),
        _ => false,
    }
}

/// The address that `location` means when `base` answered with it.
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    if let Ok(uri) = location.parse::<Uri>()
        && uri.scheme().is_some()
        && uri.authority().is_some()
    {
        return Some(uri);
    }
    let scheme = base.scheme_str()?;
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    let host = host_of(base);
    if location.starts_with('/') {
        return format!("{scheme}://{host}{location}").parse().ok();
    }
    if let Some(query) = location.strip_prefix('?') {
        return format!("{scheme}://{host}{}?{query}", base.path())
            .parse()
            .ok();
    }
    let directory = base
        .path()
        .rsplit_once('/')
        .map_or("", |(before, _)| before);
    format!("{scheme}://{host}{directory}/{location}")
        .parse()
        .ok()
}

/// Text as a value in an address' query.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        // The unreserved characters of RFC 3986.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Shares what is expensive to make.
pub(super) type SharedHttp = Arc<Http>;

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_are_resolved_against_what_answered() {
        let base = uri("http://localhost:5000/v2/x/blobs/uploads/?a=b");
        for (location, expected) in [
            ("https://other/y", "https://other/y"),
            ("//other/y", "http://other/y"),
            ("/v2/z?c", "http://localhost:5000/v2/z?c"),
            ("z", "http://localhost:5000/v2/x/blobs/uploads/z"),
            ("?c", "http://localhost:5000/v2/x/blobs/uploads/?c"),
            ("/v2/z#part", "http://localhost:5000/v2/z"),
        ] {
            assert_eq!(
                resolve(&base, location).unwrap(),
                uri(expected),
                "{location}"
            );
        }
        assert_eq!(resolve(&base, "ht tp://x y"), None);
    }

    #[test]
    fn nobody_is_led_from_tls_to_plain_text_or_from_elsewhere_to_this_machine() {
        let leads = |from: &str, to: &str| may_lead(&uri(from), &uri(to));
        assert!(leads("https://a/", "https://b/"));
        assert!(leads("http://localhost:5000/", "http://127.0.0.1:5001/"));
        assert!(leads("http://localhost:5000/", "https://b/"));
        assert!(!leads("https://a/", "http://a/"));
        assert!(!leads("https://a/", "http://localhost/"));
        assert!(!leads("http://localhost/", "http://a/"));
        assert!(!leads("https://a/", "file://a/etc/passwd"));
    }

    #[test]
    fn waits_double_up_to_a_ceiling_unless_the_registry_says_when() {
        let patience = Patience::default();
        let broken = RegistryError::Cancelled;
        let waits: Vec<_> = (1..9)
            .map(|n| patience.wait(n, &broken).as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]);
        let told = |seconds| RegistryError::Status {
            host: String::new(),
            what: String::new(),
            status: 429,
            detail: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(patience.wait(1, &told(7)).as_secs(), 7);
        assert_eq!(patience.wait(1, &told(99_999)).as_secs(), 60);
    }

    #[test]
    fn dates_of_http_are_read() {
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = date.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(seconds.as_secs(), 784_111_777);
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn queries_hold_no_separators() {
        assert_eq!(
            escape("repository:a/b:pull,push"),
            "repository%3Aa%2Fb%3Apull%2Cpush"
        );
    }
}
