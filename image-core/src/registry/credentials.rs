//! Credentials where docker keeps them: config.json, or the programs it names.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::endpoint::bare_host;
use super::{RegistryError, Server};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// The user name by which helpers say that the secret is a token (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";

/// What a helper, or config.json, may say at most.
const LONGEST: u64 = 4 << 20;

/// What a registry knows a user by.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user name and a password.
    Password {
        /// The name.
        user: String,
        /// The password, or an access token used as one.
        password: String,
    },
    /// A token that an earlier login was given (OAuth 2's refresh token).
    Identity(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// The value of an `Authorization: Basic` header; none for a token.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => Some(format!(
                "Basic {}",
                BASE64_STANDARD.encode(format!("{user}:{password}"))
            )),
            Self::Identity(_) => None,
        }
    }
}

/// docker's configuration, of which only the credentials are looked at; everything else stays as it is.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    path: PathBuf,
}

/// Where a login was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In config.json, where whoever can read the file can read the password.
    File(PathBuf),
    /// With this helper.
    Helper(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl DockerConfig {
    /// The user's: in `$DOCKER_CONFIG`, or `~/.docker`.
    ///
    /// # Errors
    /// When there is neither.
    pub fn of_user() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = set("DOCKER_CONFIG").map(PathBuf::from).or_else(|| {
            let home = set("HOME").map(PathBuf::from)?;
            Some(home.join(".docker"))
        });
        let directory = directory.unwrap_or_else(|| PathBuf::from("/root/.docker"));
        Ok(Self::in_directory(&directory))
    }

    /// The one in `directory`.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join("config.json"),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials for a registry, if there are any.
    ///
    /// # Errors
    /// A file that cannot be read, or a helper that fails.
    pub fn credentials(&self, server: &Server) -> Result<Option<Credentials>> {
        let config = self.read()?;
        if let Some(helper) = helper_for(&config, server) {
            return ask_helper(&helper, server.key());
        }
        let Some(auths) = config.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        // As written by whoever logged in: exactly, or as a URL of that host.
        let entry = auths.get(server.key()).or_else(|| {
            auths
                .iter()
                .find(|(key, _)| bare_host(key) == bare_host(server.key()))
                .map(|(_, entry)| entry)
        });
        entry.map_or(Ok(None), |entry| self.entry(entry, server))
    }

    fn entry(&self, entry: &Value, server: &Server) -> Result<Option<Credentials>> {
        let text = |key: &str| {
            let value = entry.get(key).and_then(Value::as_str);
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::Identity(token)));
        }
        if let Some(encoded) = text("auth") {
            let decoded = BASE64_STANDARD
                .decode(encoded.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((user, password)) = decoded.as_deref().and_then(|pair| pair.split_once(':'))
            else {
                return Err(self.wrong(format!(
                    "the auth of {} is not user:password in base64; log in again",
                    server.key()
                )));
            };
            return Ok(Some(Credentials::Password {
                user: user.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            }));
        }
        Ok(text("username").map(|user| Credentials::Password {
            user,
            password: text("password").unwrap_or_default(),
        }))
    }

    /// Keeps credentials that a registry has accepted.
    ///
    /// # Errors
    /// A file that cannot be replaced, or a helper that fails.
    pub fn store(&self, server: &Server, credentials: &Credentials) -> Result<Stored> {
        let mut config = self.read()?;
        let (user, secret) = match credentials {
            Credentials::Password { user, password } => (user.as_str(), password.as_str()),
            Credentials::Identity(token) => (TOKEN_USER, token.as_str()),
        };
        let helper = helper_for(&config, server);
        let entry = match (&helper, credentials) {
            (Some(helper), _) => {
                let request =
                    json!({"ServerURL": server.key(), "Username": user, "Secret": secret});
                run_helper(helper, "store", &request.to_string())?;
                json!({})
            }
            (None, Credentials::Identity(token)) => {
                json!({"auth": BASE64_STANDARD.encode("<token>:"), "identitytoken": token})
            }
            (None, Credentials::Password { .. }) => {
                json!({"auth": BASE64_STANDARD.encode(format!("{user}:{secret}"))})
            }
        };
        let auths = config
            .entry("auths")
            .or_insert_with(|| Value::Object(Map::new()));
        let auths = auths
            .as_object_mut()
            .ok_or_else(|| self.wrong("its auths are not an object".to_owned()))?;
        auths.insert(server.key().to_owned(), entry);
        self.write(&config)?;
        Ok(match helper {
            Some(helper) => Stored::Helper(helper),
            None => Stored::File(self.path.clone()),
        })
    }

    /// Forgets the credentials of a registry. False when there were none.
    ///
    /// # Errors
    /// A file that cannot be replaced, or a helper that fails.
    pub fn erase(&self, server: &Server) -> Result<bool> {
        let mut config = self.read()?;
        let mut known = false;
        if let Some(helper) = helper_for(&config, server) {
            known = ask_helper(&helper, server.key())?.is_some();
            if known {
                run_helper(&helper, "erase", server.key())?;
            }
        }
        if let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| bare_host(key) != bare_host(server.key()));
            if auths.len() < before {
                known = true;
                self.write(&config)?;
            }
        }
        Ok(known)
    }

    fn read(&self) -> Result<Map<String, Value>> {
        let file = match File::open(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
            opened => opened.map_err(|e| self.wrong(e.to_string()))?,
        };
        let mut text = String::new();
        file.take(LONGEST)
            .read_to_string(&mut text)
            .map_err(|e| self.wrong(e.to_string()))?;
        if text.trim().is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_str(&text).map_err(|e| self.wrong(e.to_string()))
    }

    /// Replaces the file at once, readable by its owner only. A link to the file stays one.
    fn write(&self, config: &Map<String, Value>) -> Result<()> {
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let write = || -> std::io::Result<()> {
            let directory = path.parent().unwrap_or(Path::new("/"));
            std::fs::DirBuilder::new()
                .recursive(true)
                .create(directory)?;
            let new = directory.join(format!(".config.json.{}", std::process::id()));
            let _ = std::fs::remove_file(&new);
            let written = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)
                .and_then(|mut file| {
                    file.write_all(&serde_json::to_vec_pretty(config)?)?;
                    file.write_all(b"\n")?;
                    file.sync_all()?;
                    std::fs::rename(&new, &path)
                });
            if written.is_err() {
                let _ = std::fs::remove_file(&new);
            }
            written
        };
        write().map_err(|e| self.wrong(e.to_string()))
    }

    fn wrong(&self, reason: String) -> RegistryError {
        RegistryError::Config {
            path: self.path.clone(),
            reason,
        }
    }
}

/// The helper that config.json names for a registry, or for all.
fn helper_for(config: &Map<String, Value>, server: &Server) -> Option<String> {
    let of_server = config
        .get("credHelpers")
        .and_then(Value::as_object)
        .and_then(|helpers| {
            helpers
                .iter()
                .find(|(key, _)| bare_host(key) == bare_host(server.key()))
                .map(|(_, helper)| helper)
        });
    let helper = of_server.or_else(|| config.get("credsStore"))?.as_str()?;
    (!helper.is_empty()).then(|| format!("docker-credential-{helper}"))
}

fn ask_helper(helper: &str, key: &str) -> Result<Option<Credentials>> {
    let answer = match run_helper(helper, "get", key) {
        // How helpers say that they have none (docker-credential-helpers' ErrCredentialsNotFound).
        Err(RegistryError::Helper { reason, .. })
            if reason.contains("credentials not found in native keychain") =>
        {
            return Ok(None);
        }
        answer => answer?,
    };
    let told: Told = serde_json::from_str(&answer).map_err(|e| RegistryError::Helper {
        helper: helper.to_owned(),
        reason: format!("its answer is not valid: {e}"),
    })?;
    if told.username.is_empty() && told.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if told.username == TOKEN_USER {
        Credentials::Identity(told.secret)
    } else {
        Credentials::Password {
            user: told.username,
            password: told.secret,
        }
    }))
}

fn run_helper(helper: &str, verb: &str, input: &str) -> Result<String> {
    let failed = |reason: String| RegistryError::Helper {
        helper: helper.to_owned(),
        reason,
    };
    if helper.contains('/') {
        return Err(failed("its name has a '/' in it".to_owned()));
    }
    // A socket, not a pipe: the command dies of SIGPIPE, should the helper end without reading.
    let (mut ours, theirs) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
    let mut child = Command::new(helper)
        .arg(verb)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    // A helper that does not read says in its answer what is wrong.
    let _ = ours.write_all(input.as_bytes());
    drop(ours);
    let mut answer = String::new();
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(LONGEST).read_to_string(&mut answer),
        None => Ok(0),
    };
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    read.map_err(|e| failed(e.to_string()))?;
    if !status.success() {
        let answer = answer.trim();
        return Err(failed(if answer.is_empty() {
            status.to_string()
        } else {
            answer.chars().take(300).collect()
        }));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, DockerConfig) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), text).unwrap();
        let config = DockerConfig::in_directory(directory.path());
        (directory, config)
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn a_login_is_kept_beside_what_the_file_holds_and_can_be_forgotten() {
        let (_directory, config) = config(r#"{"psFormat":"x","auths":{"a.b":{"auth":"eDp5"}}}"#);
        let server = Server::parse("localhost:5000").unwrap();
        assert_eq!(config.credentials(&server).unwrap(), None);
        let stored = config.store(&server, &password("me", "p:w")).unwrap();
        assert_eq!(stored, Stored::File(config.path().to_owned()));
        assert_eq!(
            config.credentials(&server).unwrap(),
            Some(password("me", "p:w"))
        );
        let other = Server::parse("a.b").unwrap();
        assert_eq!(
            config.credentials(&other).unwrap(),
            Some(password("x", "y"))
        );
        let text = std::fs::read_to_string(config.path()).unwrap();
        assert!(text.contains("psFormat"));
        let mode = std::fs::metadata(config.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(config.erase(&server).unwrap());
        assert!(!config.erase(&server).unwrap());
        assert_eq!(config.credentials(&server).unwrap(), None);
        assert!(config.credentials(&other).unwrap().is_some());
    }

    #[test]
    fn entries_are_found_however_their_registry_is_written() {
        let (_directory, config) = config(
            r#"{"auths":{"https://a.b:5000/v2/":{"auth":"eDp5"},"https://index.docker.io/v1/":{"identitytoken":"t"}}}"#,
        );
        let of = |name: &str| config.credentials(&Server::parse(name).unwrap()).unwrap();
        assert_eq!(of("a.b:5000"), Some(password("x", "y")));
        assert_eq!(of("docker.io"), Some(Credentials::Identity("t".to_owned())));
        assert_eq!(of("a.b"), None);
    }

    #[test]
    fn a_file_that_is_damaged_is_named() {
        for text in [
            "{",
            "[]",
            r#"{"auths":{"a.b":{"auth":"%%"}}}"#,
            r#"{"auths":{"a.b":{"auth":"eA=="}}}"#,
        ] {
            let (_directory, config) = config(text);
            let error = config
                .credentials(&Server::parse("a.b").unwrap())
                .unwrap_err();
            assert!(error.to_string().contains("config.json"), "{error}");
        }
    }

    #[test]
    fn a_helper_that_is_not_there_is_named() {
        let (_directory, config) = config(r#"{"credsStore":"plimsoll-test-absent"}"#);
        let error = config.credentials(&Server::hub()).unwrap_err().to_string();
        assert!(
            error.contains("docker-credential-plimsoll-test-absent"),
            "{error}"
        );
    }
}
