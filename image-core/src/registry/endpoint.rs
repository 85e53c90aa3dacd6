//! Which registry and repository a name means.

use std::net::IpAddr;

use super::RegistryError;
use crate::Reference;

/// Docker Hub's registry; its names say docker.io or nothing.
const HUB: &str = "registry-1.docker.io";

/// What config.json calls Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A registry: where it is, and what its credentials are filed under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `host[:port]` to connect to.
    host: String,
    /// docker's key for credentials.
    key: String,
}

impl Server {
    /// Docker Hub.
    #[must_use]
    pub fn hub() -> Self {
        Self {
            host: HUB.to_owned(),
            key: HUB_KEY.to_owned(),
        }
    }

    /// The registry that `login` means: a host name with an optional port; a URL's other parts are ignored, as docker does.
    ///
    /// # Errors
    /// [`RegistryError::Server`].
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let host = bare_host(text);
        if matches!(host, "docker.io" | "index.docker.io" | HUB) {
            return Ok(Self::hub());
        }
        let is_good = !host.is_empty()
            && host.bytes().all(|c| {
                c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b':' | b'[' | b']')
            })
            && host.parse::<ureq::http::uri::Authority>().is_ok();
        if !is_good {
            return Err(RegistryError::Server(text.to_owned()));
        }
        Ok(Self {
            host: host.to_owned(),
            key: host.to_owned(),
        })
    }

    /// `host[:port]`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The key of its credentials in config.json, which is also what credential helpers are asked for.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// A repository on a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    pub(super) server: Server,
    /// Its whole path there, such as `library/debian`.
    pub(super) path: String,
    /// As users type it.
    pub(super) familiar: String,
}

impl Repository {
    pub(super) fn of(reference: &Reference) -> Self {
        let familiar = reference.repository();
        let on_hub = |path: String| Self {
            server: Server::hub(),
            path,
            familiar: familiar.to_owned(),
        };
        match familiar.split_once('/') {
            None => on_hub(format!("library/{familiar}")),
            Some((host, path)) if names_a_registry(host) => Self {
                server: Server {
                    host: host.to_owned(),
                    key: host.to_owned(),
                },
                path: path.to_owned(),
                familiar: familiar.to_owned(),
            },
            Some(_) => on_hub(familiar.to_owned()),
        }
    }
}

/// Where a name leads: the whole name with its registry, such as `docker.io/library/debian:12`, and the repository's path there.
#[must_use]
pub fn full_name(reference: &Reference) -> (String, String) {
    let repository = Repository::of(reference);
    let host = if repository.server == Server::hub() {
        "docker.io"
    } else {
        repository.server.host()
    };
    let mut full = format!("{host}/{}", repository.path);
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => full.push_str(&format!("@{digest}")),
        (None, Some(tag)) => full.push_str(&format!(":{tag}")),
        (None, None) => {}
    }
    (full, repository.path)
}

/// docker's rule for the first component of a name; [`Reference`] has refused everything else.
fn names_a_registry(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':'])
        || component.chars().any(|c| c.is_ascii_uppercase())
}

/// The host and port in an address of a registry, however it is written.
pub(super) fn bare_host(text: &str) -> &str {
    let text = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    text.split('/').next().unwrap_or_default()
}

/// Whether a host is this machine without asking anyone. docker takes such registries without TLS, or with any certificate.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = host_name(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost") {
        return true;
    }
    name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A host without its port and brackets.
pub(super) fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(text: &str) -> (String, String) {
        let repository = Repository::of(&text.parse().unwrap());
        (repository.server.host, repository.path)
    }

    #[test]
    fn short_names_are_docker_hubs() {
        let hub = |path: &str| (HUB.to_owned(), path.to_owned());
        assert_eq!(repository("debian:12"), hub("library/debian"));
        assert_eq!(repository("plimsoll/x"), hub("plimsoll/x"));
        assert_eq!(
            repository("docker.io/library/debian"),
            hub("library/debian")
        );
    }

    #[test]
    fn a_first_component_with_a_dot_or_a_port_is_a_registry() {
        let of = |host: &str, path: &str| (host.to_owned(), path.to_owned());
        assert_eq!(
            repository("localhost:5000/a/b:1"),
            of("localhost:5000", "a/b")
        );
        assert_eq!(repository("localhost/a"), of("localhost", "a"));
        assert_eq!(repository("quay.io/a"), of("quay.io", "a"));
    }

    #[test]
    fn a_whole_name_says_its_registry() {
        let whole = |text: &str| full_name(&text.parse().unwrap()).0;
        assert_eq!(whole("debian"), "docker.io/library/debian:latest");
        assert_eq!(whole("localhost:5000/a/b:1"), "localhost:5000/a/b:1");
    }

    #[test]
    fn docker_hub_has_a_key_of_its_own_and_others_their_host() {
        assert_eq!(Server::parse("docker.io").unwrap().key(), HUB_KEY);
        assert_eq!(Server::parse(HUB_KEY).unwrap(), Server::hub());
        assert_eq!(Server::parse("https://a.b:5/v1/").unwrap().key(), "a.b:5");
        for bad in ["", "a b", "https://", "a@b", "a:b:c:d"] {
            assert!(Server::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_is_surely_this_machine_is_loopback() {
        for yes in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
            "a.localhost",
        ] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in [
            "localhost.com",
            "128.0.0.1",
            "10.0.0.1:5000",
            "[::2]:1",
            "127.0.0.1.example.com",
        ] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
