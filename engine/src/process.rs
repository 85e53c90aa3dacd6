//! What runs in an instance: the image's defaults and the user's words, put together as docker does.

use image_core::{Image, Store};

use crate::error::{Error, Result};
use crate::spec::{InstanceSpec, merge_env};
use crate::user::{self, Identity};

/// docker's search path for images that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most that is read of an image's passwd or group file, bytes. Debian's is 1 KiB; an image is hostile.
pub(crate) const ACCOUNTS_MAX: u64 = 4 << 20;

/// The process that an instance runs.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) identity: Identity,
}

/// The environment as `inspect` shows it: the user's words, then what the image adds.
pub fn environment(image: &[String], user: &[String]) -> Vec<String> {
    let mut env: Vec<String> = user.to_vec();
    env.retain(|entry| entry.contains('='));
    let has_path = |env: &[String]| env.iter().any(|entry| entry.starts_with("PATH="));
    for entry in image {
        let key = entry.split('=').next().unwrap_or_default();
        if !user.iter().any(|own| own.split('=').next() == Some(key)) {
            env.push(entry.clone());
        }
    }
    if !has_path(&env) {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    env
}

/// The command line of an instance: entry point, then the user's words or, without any, the image's.
///
/// # Errors
/// [`Error::NoCommand`] when nothing is left to run.
pub(crate) fn command(spec: &InstanceSpec, image: &Image) -> Result<Vec<String>> {
    let config = image.config.config().as_ref();
    let own_entrypoint = config
        .and_then(|config| config.entrypoint().clone())
        .unwrap_or_default();
    let own_command = config
        .and_then(|config| config.cmd().clone())
        .unwrap_or_default();
    let mut args = spec.entrypoint.clone().unwrap_or(own_entrypoint);
    // An entry point of the user's own goes without the image's arguments, which were meant for another program.
    if !spec.command.is_empty() {
        args.extend(spec.command.iter().cloned());
    } else if spec.entrypoint.is_none() {
        args.extend(own_command);
    }
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::NoCommand(spec.image.clone()));
    }
    Ok(args)
}

impl Process {
    /// Adds what it is told of the instances that it is linked to; its own words win.
    pub(crate) fn link(&mut self, variables: Vec<String>) {
        for variable in variables {
            let key = variable.split('=').next().unwrap_or_default();
            let is_known = self
                .env
                .iter()
                .any(|own| own.split('=').next() == Some(key));
            if !is_known {
                self.env.push(variable);
            }
        }
    }

    /// Puts the process together; `hostname` is what it will see as its host's name.
    ///
    /// # Errors
    /// [`Error::NoSuchUser`], and the image store's.
    pub(crate) fn new(
        spec: &InstanceSpec,
        store: &Store,
        image: &Image,
        args: Vec<String>,
        hostname: &str,
    ) -> Result<Self> {
        Self::with_accounts(spec, image, args, hostname, &|path| {
            let bytes = store
                .read_file(image, path, ACCOUNTS_MAX)?
                .unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }

    /// The same with the users and groups of files that `accounts` reads, by a path such as `etc/passwd`.
    ///
    /// # Errors
    /// As for [`Process::new`].
    pub(crate) fn with_accounts(
        spec: &InstanceSpec,
        image: &Image,
        args: Vec<String>,
        hostname: &str,
        accounts: &dyn Fn(&str) -> Result<String>,
    ) -> Result<Self> {
        let config = image.config.config().as_ref();
        let wanted = spec
            .user
            .clone()
            .or_else(|| config.and_then(|config| config.user().clone()))
            .unwrap_or_default();
        let identity = user::resolve(&wanted, &accounts("etc/passwd")?, &accounts("etc/group")?)?;
        let mut defaults = vec![("PATH", DEFAULT_PATH), ("HOSTNAME", hostname)];
        if spec.terminal {
            defaults.push(("TERM", "xterm"));
        }
        defaults.push(("HOME", &identity.home));
        let image_env = config
            .and_then(|config| config.env().clone())
            .unwrap_or_default();
        let env = merge_env(&image_env, &spec.env, &defaults);
        let cwd = spec
            .workdir
            .clone()
            .or_else(|| config.and_then(|config| config.working_dir().clone()))
            .filter(|directory| !directory.is_empty())
            .unwrap_or_else(|| "/".to_owned());
        if !cwd.starts_with('/') {
            return Err(Error::InvalidValue {
                flag: "--workdir",
                value: cwd,
                reason: "the working directory must be an absolute path".into(),
            });
        }
        Ok(Self {
            args,
            env,
            cwd,
            identity,
        })
    }
}
