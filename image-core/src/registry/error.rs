//! What can go wrong between this program and a registry.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Digest;
use crate::error::on_a_line;

/// Why a registry could not be used, or its answer not be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No connection, or none that could be trusted.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// The registry, or whom it sent us to.
        host: String,
        /// What the network or TLS said.
        reason: String,
    },

    /// The connection ended, or stood still, in the middle of an answer.
    #[error("{host} broke off {what}: {reason}")]
    Broken {
        /// The registry, or whom it sent us to.
        host: String,
        /// What was being moved.
        what: String,
        /// How it ended.
        reason: String,
    },

    /// An answer that is none of those expected.
    #[error("{host} answers {status} to {what}{detail}")]
    Status {
        /// The registry, or whom it sent us to.
        host: String,
        /// What was asked for.
        what: String,
        /// HTTP's code.
        status: u16,
        /// What the registry says of it: empty, or beginning with `: `.
        detail: String,
        /// When it says to come back.
        retry_after: Option<Duration>,
    },

    /// There is no such image.
    #[error("manifest for {0} not found: manifest unknown")]
    ManifestUnknown(String),

    /// It is not there, or not for whoever asks.
    #[error(
        "{action} access denied for {repository}: the repository does not exist or may require 'plimsoll login'{detail}"
    )]
    Denied {
        /// `pull` or `push`.
        action: &'static str,
        /// The repository without tag.
        repository: String,
        /// What the registry says of it: empty, or beginning with `: `.
        detail: String,
    },

    /// The credentials are not good.
    #[error("{host} does not take the user name and password{detail}")]
    BadCredentials {
        /// The registry, or its authority for tokens.
        host: String,
        /// What it says of it: empty, or beginning with `: `.
        detail: String,
    },

    /// A redirection that is not followed.
    #[error("{host} redirects {what} {reason}")]
    Redirect {
        /// Who redirects.
        host: String,
        /// What was asked for.
        what: String,
        /// Why that is not followed.
        reason: &'static str,
    },

    /// The registry contradicts itself.
    #[error("{host} lies about {what}: {reason}")]
    Lie {
        /// The registry.
        host: String,
        /// About which content.
        what: String,
        /// Both sides of the contradiction.
        reason: String,
    },

    /// Something that should be small is not.
    #[error("{what} from {host} is longer than the limit of {limit} bytes")]
    TooLong {
        /// The registry.
        host: String,
        /// Which content.
        what: String,
        /// The limit.
        limit: u64,
    },

    /// An answer that could not be understood.
    #[error(
        "{host} answers {what} with something that is not valid: {}",
        on_a_line(reason)
    )]
    Invalid {
        /// The registry, or its authority for tokens.
        host: String,
        /// To what.
        what: String,
        /// What is wrong.
        reason: String,
    },

    /// The oldest manifests, which docker 28 refuses too.
    #[error(
        "{0} has a manifest of schema 1, which is not supported: push it again with a newer tool"
    )]
    Schema1(String),

    /// Not a platform.
    #[error("{0:?} is not a platform: write os/architecture[/variant], such as linux/amd64")]
    Platform(String),

    /// Not the name of a registry.
    #[error("{0:?} is not a registry: write a host name with an optional port")]
    Server(String),

    /// A name with a digest cannot be pushed.
    #[error("cannot push {0}: a digest follows from the content; push a tag")]
    PushDigest(String),

    /// An image that exists in this program only.
    #[error("{0} is a part of plimsoll itself and comes from no registry")]
    BuiltIn(String),

    /// The configuration file cannot be used.
    #[error("cannot use {}: {reason}", .path.display())]
    Config {
        /// docker's config.json.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A credential helper failed.
    #[error("the credential helper {helper} failed: {reason}")]
    Helper {
        /// Its program.
        helper: String,
        /// What it said.
        reason: String,
    },

    /// A proxy that cannot be used.
    #[error("cannot use the proxy in {variable}: {reason}")]
    Proxy {
        /// The variable of the environment.
        variable: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// Another layer failed, so this one was left.
    #[error("given up because another layer failed")]
    Cancelled,
}

impl RegistryError {
    /// Whether the same request may well succeed a little later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    /// What a layer that does not end as it should looks like.
    pub(super) fn wrong_digest(host: &str, what: &str, expected: Digest, actual: Digest) -> Self {
        Self::Lie {
            host: host.to_owned(),
            what: what.to_owned(),
            reason: format!("the digest of its content is {actual}, not {expected}"),
        }
    }
}

impl From<RegistryError> for io::Error {
    fn from(error: RegistryError) -> Self {
        // Comes out of a reader again as the crate's own error (`Error::reading`).
        Self::other(crate::Error::from(error))
    }
}
