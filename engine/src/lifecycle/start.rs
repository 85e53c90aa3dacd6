//! Making, starting and joining instances.

use image_core::{Image, Store};

use crate::base;
use crate::client::{self, Attach, Conversation, Parting};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Lock, Record, Status, sweep_some};
use crate::mount::{self, Inherited};
use crate::network::{self, NetworkError, NetworkMode};
use crate::process;
use crate::signals::Signals;
use crate::spec::{BackendKind, InstanceSpec, Limits};
use crate::supervisor::protocol::{Link, Reply, Request};
use crate::supervisor::{Launch, Starter, connect, spawn};
use crate::terminal::Size;
use crate::timeline::Timeline;
use crate::volume::{self, Prepared};

/// How a run, a start or an attachment came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The instance.
    pub id: String,
    /// The exit code for the shell: the command's own, or 128 + n after signal n; 0 where nobody waited for it.
    pub code: u8,
    /// What the user should be told besides, in one sentence: that the memory limit killed it, for example.
    pub reason: Option<String>,
}

/// How `run` and `start` go about it.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Return as soon as the command runs.
    pub detach: bool,
    /// What of its streams this command takes part in.
    pub attach: Attach,
}

/// Makes an instance, which is not started.
///
/// # Errors
/// Whatever is wrong with the specification or the image, a name that is taken. Nothing is left then.
pub fn create(home: &Home, spec: &InstanceSpec) -> Result<Record> {
    let made = make(home, spec)?;
    made.lock.release()?;
    Ok(made.record)
}

/// An instance that has just been made.
struct Made {
    record: Record,
    lock: Lock,
    image: (Store, Image),
}

fn make(home: &Home, spec: &InstanceSpec) -> Result<Made> {
    let mut spec = spec.clone();
    spec.check()?;
    let store = home.images()?;
    let image = if base::is_base(&spec.image) {
        base::ensure(&store)?
    } else {
        store.resolve(&spec.image)?
    };
    let command = process::command(&spec, &image)?;
    spec.take_from_image(&image);
    settle_network(home, &mut spec)?;
    let prepared = mounts(home, &mut spec, &store, &image)?;
    let made = instance::create(home, &spec, &image.id.to_string(), &command);
    if made.is_err()
        && let Some(prepared) = prepared
    {
        // The first failure is the one to tell.
        let _ = prepared.discard(home);
    }
    let (record, lock) = made?;
    if !record.spec.network.links.is_empty() {
        network::note_links(home, &record)?;
    }
    Ok(Made {
        record,
        lock,
        image: (store, image),
    })
}

/// What other instances and networks are called may change: from here on they are named by what does not.
fn settle_network(home: &Home, spec: &mut InstanceSpec) -> Result<()> {
    let asked = &mut spec.network;
    if spec.backend == BackendKind::Native {
        // It has no network namespace, and so the host's network.
        asked.mode = NetworkMode::Host;
        return Ok(());
    }
    if asked.mode == NetworkMode::Networks {
        for attachment in &mut asked.attachments {
            attachment.network = network::find(home, &attachment.network)?.name;
        }
    }
    for link in &mut asked.links {
        let other = instance::look(home, &link.instance)?;
        if !other.is_running() {
            return Err(NetworkError::LinkNotRunning {
                target: other.record.name,
                name: spec.name.clone().unwrap_or_default(),
                alias: link.alias.clone(),
            }
            .into());
        }
        link.instance = other.record.id;
    }
    match &mut asked.mode {
        NetworkMode::Container(other) => {
            let found = instance::look(home, other)?;
            if spec.hostname.is_some() {
                return Err(Error::Unsupported(
                    "conflicting options: hostname and the network mode".into(),
                ));
            }
            spec.hostname = Some(found.record.hostname().to_owned());
            *other = found.record.id;
        }
        NetworkMode::Host if spec.hostname.is_none() => {
            // docker: whoever sees the host's network has its name too.
            spec.hostname = nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok());
        }
        _ => {}
    }
    Ok(())
}

/// Puts the mounts together, makes the volumes that are missing, and fills empty ones from the image. What comes back keeps
/// anybody from removing the volumes until the record names them.
fn mounts(
    home: &Home,
    spec: &mut InstanceSpec,
    store: &Store,
    image: &Image,
) -> Result<Option<Prepared>> {
    let of_image = image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.volumes().clone())
        .unwrap_or_default();
    if spec.mounts.is_empty() && spec.volumes_from.is_empty() && of_image.is_empty() {
        return Ok(None);
    }
    let others = std::mem::take(&mut spec.volumes_from)
        .into_iter()
        .map(|from| {
            Ok((
                from.read_only,
                instance::look(home, &from.instance)?.record.spec.mounts,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let inherited: Vec<Inherited<'_>> = others
        .iter()
        .map(|(read_only, mounts)| Inherited {
            read_only: *read_only,
            mounts,
        })
        .collect();
    let merged = mount::merge(&spec.mounts, &inherited, &of_image)?;
    let prepared = volume::prepare(home, &merged, Some(&store.layer_dirs(image)?))?;
    spec.mounts = prepared.specs();
    Ok(Some(prepared))
}

/// Makes an instance and starts it: in the foreground until its command ends or the user leaves, or only until it runs.
///
/// `notice` is told, in one line each, what was decided for the user (which accelerator, and why). Must be called on a
/// process's only thread, since the instance's supervisor is a fork of it.
///
/// # Errors
/// Whatever keeps the command from running; [`Error::exit_code`] gives docker's exit code for it.
pub fn run(
    home: &Home,
    spec: &InstanceSpec,
    options: &RunOptions,
    created: &mut dyn FnMut(&Record) -> Result<()>,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let mut timeline = Timeline::default();
    timeline.mark("command");
    let signals = Signals::block()?;
    let Made {
        record,
        lock,
        image,
    } = make(home, spec)?;
    if let Err(error) = created(&record) {
        // The first failure is the one to tell.
        let _ = instance::remove_all(home, &record, true).and_then(|()| lock.release());
        return Err(error);
    }
    timeline.mark("created");
    let ready = Ready {
        record,
        lock,
        image: Some(image),
        timeline,
    };
    launch(home, ready, options, &signals, notice)
}

/// Starts an instance that does not run.
///
/// # Errors
/// [`Error::NoSuchInstance`], and as for [`run`].
pub fn start(
    home: &Home,
    wanted: &str,
    options: &RunOptions,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let signals = Signals::block()?;
    let found = instance::look(home, wanted)?;
    if found.is_running() {
        // docker: starting what runs is done already.
        if options.detach {
            return Ok(Outcome {
                id: found.record.id,
                code: 0,
                reason: None,
            });
        }
        return join(home, &found.record, &options.attach, &signals, notice);
    }
    let lock = Lock::take(home, &found.record.id)?;
    let ready = Ready {
        record: found.record,
        lock,
        image: None,
        timeline: Timeline::default(),
    };
    launch(home, ready, options, &signals, notice)
}

/// An instance that this process holds, to be started.
struct Ready {
    record: Record,
    lock: Lock,
    image: Option<(Store, Image)>,
    timeline: Timeline,
}

fn launch(
    home: &Home,
    ready: Ready,
    options: &RunOptions,
    signals: &Signals,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let Ready {
        record,
        lock,
        image,
        timeline,
    } = ready;
    let (ours, theirs) = Link::pair()?;
    let attach = if options.detach {
        Attach::default()
    } else {
        options.attach.clone()
    };
    let [stdout, stderr] = attach.descriptors();
    let copy = |descriptor: Option<_>| descriptor.map(client::copy).transpose();
    let starter = Starter {
        link: theirs,
        sinks: [copy(stdout)?, copy(stderr)?],
        stdin: attach.stdin,
        size: if record.spec.terminal {
            client::own_size()
        } else {
            Size::DEFAULT
        },
    };
    spawn(Launch {
        image,
        home: home.clone(),
        record: record.clone(),
        lock,
        starter,
        timeline,
    })?;
    if options.detach {
        return until_started(home, ours, &record, notice);
    }
    let parting = Conversation {
        link: ours,
        attach: &attach,
        terminal: record.spec.terminal,
        running: false,
        signals,
        notice,
        started: &mut || {
            // While the command runs there is time to settle what killed processes left. Whatever goes wrong with others'
            // remains is theirs, and `doctor --repair` tells it.
            let _ = sweep_some(home);
        },
    }
    .hold()?;
    outcome(home, &record, parting)
}

fn until_started(
    home: &Home,
    link: Link,
    record: &Record,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    use crate::supervisor::protocol::Packet;
    let mut buffer = Vec::new();
    loop {
        let parting = match link.receive::<Reply>(&mut buffer, true) {
            Packet::Message(Reply::Notice(line), _) => {
                notice(&line);
                continue;
            }
            Packet::Message(Reply::Started, _) => {
                return Ok(Outcome {
                    id: record.id.clone(),
                    code: 0,
                    reason: None,
                });
            }
            Packet::Message(Reply::Failed { code, message }, _) => {
                Parting::Failed { code, message }
            }
            // It ended before it ran: a boot that was given up.
            Packet::Message(
                Reply::Ended {
                    code,
                    oom_killed,
                    error,
                },
                _,
            ) => Parting::Ended {
                code,
                oom_killed,
                error,
            },
            Packet::Message(..) | Packet::Nothing => continue,
            Packet::Stdin(_) | Packet::Closed => Parting::Lost,
        };
        return outcome(home, record, parting);
    }
}

/// Joins the streams of a running instance.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::Refused`] for one that does not run or is paused.
pub fn attach(
    home: &Home,
    wanted: &str,
    attach: &Attach,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let signals = Signals::block()?;
    let found = instance::look(home, wanted)?;
    match found.state.status {
        Status::Running => {}
        Status::Paused => {
            return Err(Error::Refused(
                "You cannot attach to a paused container, unpause it first".into(),
            ));
        }
        Status::Restarting => {
            return Err(Error::Refused(
                "You cannot attach to a restarting container, wait until it is running".into(),
            ));
        }
        Status::Created | Status::Exited => {
            return Err(Error::Refused(
                "You cannot attach to a stopped container, start it first".into(),
            ));
        }
    }
    join(home, &found.record, attach, &signals, notice)
}

fn join(
    home: &Home,
    record: &Record,
    attach: &Attach,
    signals: &Signals,
    notice: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let link = connect(home, &record.id)?
        .ok_or_else(|| Error::Refused(format!("container {} is not running", record.short_id())))?;
    let [stdout, stderr] = attach.descriptors();
    let given: Vec<_> = [stdout, stderr].into_iter().flatten().collect();
    let attach = Attach {
        // What was made without -i reads nothing.
        stdin: attach.stdin && record.spec.interactive,
        ..attach.clone()
    };
    let request = Request::Attach {
        stdin: attach.stdin,
        stdout: attach.stdout,
        stderr: attach.stderr,
    };
    let sent = link.send(&request, &given);
    if sent.is_ok() && record.spec.terminal {
        client::resize(&link);
    }
    let parting = Conversation {
        link,
        attach: &attach,
        terminal: record.spec.terminal,
        running: true,
        signals,
        notice,
        started: &mut || {},
    }
    .hold()?;
    outcome(home, record, parting)
}

/// What the user is told of the end of a conversation.
fn outcome(home: &Home, record: &Record, parting: Parting) -> Result<Outcome> {
    let id = record.id.clone();
    Ok(match parting {
        Parting::Ended {
            code,
            oom_killed,
            error,
        } => Outcome {
            id,
            code,
            reason: error.or_else(|| oom_killed.then(|| out_of_memory(&record.spec.limits))),
        },
        Parting::Failed { code, message } => return Err(Error::Told { code, message }),
        Parting::Detached => Outcome {
            id,
            code: 0,
            reason: None,
        },
        Parting::Interrupted(number) => Outcome {
            id,
            code: 128 + (number & 0x7f) as u8,
            reason: None,
        },
        Parting::Lost => {
            instance::settle(home, &id)?;
            Outcome {
                reason: Some(format!(
                    "the supervisor of {} was killed, and the instance with it",
                    record.short_id()
                )),
                id,
                code: 137,
            }
        }
    })
}

/// The sentence for a command that the memory limit has ended.
pub(super) fn out_of_memory(limits: &Limits) -> String {
    let limit = limits
        .memory
        .map_or_else(String::new, |bytes| format!(" of {} MiB", bytes >> 20));
    format!(
        "the command was killed because its memory limit{limit} was reached: give it more with --memory"
    )
}
