//! Who answers the system calls that a filter hands over (config-linux.md, "The Container Process State").

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use oci_spec::runtime::{ContainerProcessStateBuilder, ContainerState, Spec};

use crate::error::{Error, Result};
use crate::hooks::HookState;
use crate::sys::socket;

/// The listener of a specification, and what it is told.
#[derive(Clone, Debug)]
pub struct SeccompListener {
    path: PathBuf,
    metadata: Option<String>,
    state: HookState,
    /// The container's first process, where the calls are those of another that has joined it.
    joined: Option<i32>,
}

impl SeccompListener {
    /// The listener that a specification names; `None` when it names none.
    pub fn of(spec: &Spec, state: &HookState) -> Option<Self> {
        let seccomp = spec.linux().as_ref()?.seccomp().as_ref()?;
        Some(Self {
            path: seccomp.listener_path().clone()?,
            metadata: seccomp.listener_metadata().clone(),
            state: state.clone(),
            joined: None,
        })
    }

    /// The same for a process that joins the container whose first process this is.
    pub(crate) fn in_container(&self, init: i32) -> Self {
        Self {
            joined: Some(init),
            ..self.clone()
        }
    }

    /// Sends it the descriptor by which the calls of a process are answered.
    pub(crate) fn send(&self, pid: i32, descriptor: &OwnedFd) -> Result<()> {
        let failed = |error: std::io::Error| {
            Error::setup(
                format!("reach linux.seccomp.listenerPath {}", self.path.display()),
                error,
            )
        };
        let invalid = |reason: String| Error::invalid("linux.seccomp.listenerPath", reason);
        let mut told = ContainerProcessStateBuilder::default()
            .version(self.state.version())
            .fds(vec!["seccompFd".to_owned()])
            .pid(pid)
            .state(match self.joined {
                Some(init) => self.state.state(ContainerState::Running, Some(init))?,
                None => self.state.state(ContainerState::Created, Some(pid))?,
            });
        if let Some(metadata) = &self.metadata {
            told = told.metadata(metadata.clone());
        }
        let told = told.build().map_err(|error| invalid(error.to_string()))?;
        let text = serde_json::to_vec(&told).map_err(|error| invalid(error.to_string()))?;
        let stream = UnixStream::connect(&self.path).map_err(failed)?;
        socket::send(stream.as_raw_fd(), &text, Some(descriptor.as_raw_fd())).map_err(|errno| {
            Error::setup(
                format!("send to linux.seccomp.listenerPath {}", self.path.display()),
                errno,
            )
        })
    }
}
