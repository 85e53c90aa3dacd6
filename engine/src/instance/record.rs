//! What is known of an instance: `instance.json`, which says what it was asked to be, and `state.json`, which says what has
//! become of it. Both are replaced whole; the second only by whoever holds the instance's lock.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::home::{Home, replace};
use crate::network::{Binding, Endpoint};
use crate::spec::InstanceSpec;

/// The layout of both files; raised when a field changes its meaning.
const VERSION: u32 = 3;

/// What an instance was asked to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub(super) version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image's identifier (`sha256:…`).
    pub image_id: String,
    /// When it was made, nanoseconds since 1970.
    pub created: u64,
    /// What it was asked to be.
    pub spec: InstanceSpec,
    /// The whole command as run: entry point and arguments.
    pub command: Vec<String>,
}

impl Record {
    pub(super) fn new(id: String, spec: &InstanceSpec, image_id: &str, command: &[String]) -> Self {
        Self {
            version: VERSION,
            id,
            name: spec.name.clone().unwrap_or_default(),
            image_id: image_id.to_owned(),
            created: super::now(),
            spec: spec.clone(),
            command: command.to_vec(),
        }
    }

    /// The first twelve digits of the identifier.
    pub fn short_id(&self) -> &str {
        short(&self.id)
    }

    /// The host name inside: as asked for, or the short identifier.
    pub fn hostname(&self) -> &str {
        self.spec.hostname.as_deref().unwrap_or(self.short_id())
    }
}

/// The first twelve digits of an identifier.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Where an instance stands, in docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, and never started.
    #[default]
    Created,
    /// Its command runs, or a VM boots for it.
    Running,
    /// Its processes are stopped in their tracks.
    Paused,
    /// It has ended and will be started again.
    Restarting,
    /// It has ended.
    Exited,
}

impl Status {
    /// docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }

    /// Whether a supervisor must be there for this to be true.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// What has become of an instance. Moments are nanoseconds since 1970; 0 is never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct State {
    /// Where it stands.
    pub status: Status,
    /// The host's process ID of its first process, or of its VM's monitor; 0 while there is none.
    pub pid: i32,
    /// That process's start time (field 22 of /proc/PID/stat), so that another one with its number is not taken for it.
    pub pid_started: u64,
    /// The supervisor's process ID; 0 while there is none.
    pub supervisor: i32,
    /// When its command was last started.
    pub started_at: u64,
    /// When it last ended.
    pub finished_at: u64,
    /// The exit code as a shell would see it: 128 + n after signal n.
    pub exit_code: i32,
    /// Whether the memory limit killed it.
    pub oom_killed: bool,
    /// Why it never ran or ended early, where that was not the command's own doing.
    pub error: Option<String>,
    /// How often the restart policy has started it again.
    pub restart_count: u32,
    /// The user stopped or killed it, so that `unless-stopped` leaves it alone.
    pub stopped_by_user: bool,
    /// What a VM runs on: accelerator and substrate.
    pub accelerator: Option<String>,
    /// Its places on networks, while it runs.
    pub endpoints: Vec<Endpoint>,
    /// Ports of the host that lead to it, while it runs.
    pub bindings: Vec<Binding>,
}

/// Writes what an instance was asked to be.
pub(crate) fn write_record(home: &Home, record: &Record) -> Result<()> {
    write(home, &record.id, RECORD, record)
}

/// Writes what has become of an instance. Only for whoever holds its lock.
pub(crate) fn write_state(home: &Home, id: &str, state: &State) -> Result<()> {
    write(home, id, STATE, state)
}

const RECORD: &str = "instance.json";
const STATE: &str = "state.json";

fn write<T: Serialize>(home: &Home, id: &str, file: &str, value: &T) -> Result<()> {
    let path = home.instance(id).join(file);
    let json = serde_json::to_vec(value).map_err(|e| Error::DamagedState {
        path: path.clone(),
        reason: e.to_string(),
    })?;
    replace(&path, &json)
}

/// Reads what an instance was asked to be.
pub(crate) fn read_record(home: &Home, id: &str) -> Result<Record> {
    let path = home.instance(id).join(RECORD);
    let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let damaged = |reason: String| Error::DamagedState {
        path: path.clone(),
        reason,
    };
    // The version first: of another one, the rest may not even parse.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    match serde_json::from_slice::<Record>(&json) {
        Ok(record) if record.version == VERSION => Ok(record),
        result => match serde_json::from_slice(&json) {
            Ok(Version { version }) if version != VERSION => Err(damaged(format!(
                "its version is {version}, this plimsoll reads {VERSION}"
            ))),
            _ => Err(damaged(match result {
                Err(e) => e.to_string(),
                Ok(_) => "it has no version".to_owned(),
            })),
        },
    }
}

/// Reads what has become of an instance; without the file it was never started.
pub(crate) fn read_state(home: &Home, id: &str) -> Result<State> {
    let path = home.instance(id).join(STATE);
    match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).map_err(|e| Error::DamagedState {
            path,
            reason: e.to_string(),
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}
