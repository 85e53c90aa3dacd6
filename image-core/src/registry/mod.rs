//! Registries: images pulled from and pushed to whatever speaks the OCI distribution specification or docker's.
//!
//! [`Client`] holds what is common to all that is asked of registries: where credentials are, how patient to be. Everything blocks;
//! layers move in threads of their own, which end with the call.
//!
//! **Invariants.** A registry is not believed: every answer has a limit, every blob the size and digest that its descriptor
//! states, or it is an error. Credentials go to the registry they are for and the authority it names, over TLS or within this
//! machine; no redirection takes them along.

mod challenge;
mod credentials;
mod download;
mod endpoint;
mod error;
mod http;
mod names;
mod partial;
mod platform;
mod progress;
mod proxy;
mod pull;
mod push;
mod session;

use std::sync::Arc;

pub use self::credentials::{Credentials, DockerConfig, Stored};
pub use self::endpoint::{Server, full_name};
pub use self::error::RegistryError;
use self::http::Http;
pub use self::http::Patience;
pub use self::platform::Platform;
pub use self::progress::{Event, Progress};
pub use self::pull::Pulled;
pub use self::push::Pushed;
use self::session::Session;

pub(crate) type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Layers that move at the same time. Docker's default (max-concurrent-downloads); more do not help a machine with few processors,
/// because each is unpacked while it comes.
const AT_ONCE: usize = 3;

/// Who asks registries, and how.
#[derive(Clone, Debug)]
pub struct Client {
    config: DockerConfig,
    http: Arc<Http>,
}

impl Client {
    /// With the credentials in `config`.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        Self::with_patience(config, Patience::default())
    }

    /// With more or less patience than usual.
    #[must_use]
    pub fn with_patience(config: DockerConfig, patience: Patience) -> Self {
        Self {
            config,
            http: Arc::new(Http::new(patience)),
        }
    }

    /// Asks a registry whether it takes these credentials, and keeps them if so.
    ///
    /// # Errors
    /// [`RegistryError::BadCredentials`]; a registry that cannot be reached; a place that they cannot be kept in.
    pub fn login(&self, server: &Server, credentials: &Credentials) -> Result<Stored> {
        let given = Some(credentials.clone());
        Session::open(&self.http, server, None, &self.config, given)?.check()?;
        self.config.store(server, credentials)
    }

    /// Forgets the credentials for a registry. False when there were none.
    ///
    /// # Errors
    /// A place that they cannot be taken out of.
    pub fn logout(&self, server: &Server) -> Result<bool> {
        self.config.erase(server)
    }

    /// The credentials that are kept for a registry.
    ///
    /// # Errors
    /// A place that cannot be read.
    pub fn credentials(&self, server: &Server) -> Result<Option<Credentials>> {
        self.config.credentials(server)
    }
}
