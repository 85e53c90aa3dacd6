//! `RUN`: a command in a container of the stage's layers, whose writes become the next layer.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};

use image_core::{Image, Lease, Store, StoredLayer, Times};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Progress, Said};
use crate::backend::{self, Context, Exit, Job, Running};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Lock, Record};
use crate::lifecycle::store_layer;
use crate::mount::{BindMount, MountKind, MountSpec, Origin};
use crate::network::{self, Connection, NetworkMode, NetworkSpec};
use crate::process::Process;
use crate::spec::InstanceSpec;
use crate::timeline::Timeline;

/// The host's name in every RUN: it would differ each time otherwise.
const HOSTNAME: &str = "build";

/// Bytes read at once of what a command writes.
const CHUNK: usize = 64 << 10;

/// What a RUN is.
pub(super) struct Run<'r> {
    pub(super) home: &'r Home,
    pub(super) store: &'r Store,
    pub(super) lease: &'r Lease,
    pub(super) image: &'r Image,
    pub(super) words: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) network: NetworkMode,
    pub(super) times: Times,
}

/// An instance that goes with this, and is swept if this process is killed.
struct Made<'h> {
    home: &'h Home,
    record: Record,
    lock: Option<Lock>,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next command.
        let gone = container_core::cgroup::remove_by_id(&self.record.id)
            .map_err(Error::from)
            .and_then(|()| instance::remove_all(self.home, &self.record, true));
        if gone.is_ok()
            && let Some(lock) = self.lock.take()
        {
            let _ = lock.release();
        }
    }
}

impl Run<'_> {
    /// Runs the command. Its layer, or its exit code.
    pub(super) fn execute(&self, progress: &mut dyn Progress) -> Result<Result<StoredLayer, u8>> {
        let layers = self.store.layer_dirs(self.image)?;
        if layers.is_empty() {
            return Err(Error::Unsupported(
                "RUN needs a root file system, and the stage has none yet: begin with an image, or COPY one".into(),
            ));
        }
        let mut spec = InstanceSpec {
            image: self.image.id.to_string(),
            entrypoint: Some(self.words.clone()),
            env: self.env.clone(),
            hostname: Some(HOSTNAME.to_owned()),
            network: NetworkSpec {
                mode: self.network.clone(),
                ..NetworkSpec::default()
            },
            auto_remove: true,
            stop_signal: libc::SIGKILL,
            mounts: network_files(&self.network),
            ..InstanceSpec::default()
        };
        spec.log.kept = false;
        spec.check()?;
        let (record, lock) =
            instance::create(self.home, &spec, &self.image.id.to_string(), &self.words)?;
        let made = Made {
            home: self.home,
            record,
            lock: Some(lock),
        };
        progress.step(&format!(" ---> Running in {}", made.record.short_id()));
        let exit = self.run(&made.record, progress)?;
        let code = exit.ended.shell_code();
        if code != 0 {
            return Ok(Err(code));
        }
        let upper = self.home.instance(&made.record.id).join("upper");
        let layer = store_layer(self.store, self.lease, &layers, &upper, self.times)?;
        progress.step(&format!(
            "Removing intermediate container {}",
            made.record.short_id()
        ));
        Ok(Ok(layer))
    }

    fn run(&self, record: &Record, progress: &mut dyn Progress) -> Result<Exit> {
        let process = Process::new(
            &record.spec,
            self.store,
            self.image,
            self.words.clone(),
            HOSTNAME,
        )?;
        let mut notices = Vec::new();
        let connection =
            Connection::make(self.home, record, &mut |line| notices.push(line.to_owned()))?;
        let files = match self.network {
            NetworkMode::Networks => network::compose(self.home, record, &connection)?.into(),
            _ => Vec::new(),
        };
        let job = Job {
            home: self.home,
            record,
            store: self.store,
            image: self.image,
            process: &process,
            network: &connection,
            files: &files,
            terminal: None,
        };
        let mut timeline = Timeline::default();
        let mut context = Context {
            timeline: &mut timeline,
            notice: &mut |line| notices.push(line.to_owned()),
            begun: None,
            meanwhile: &mut |_| {},
        };
        let mut running = backend::of(record.spec.backend).start(&job, &mut context)?;
        for notice in notices {
            progress.step(&notice);
        }
        carry(running.as_mut(), progress)?;
        running.finish(false).map(|(exit, _)| exit)
    }
}

/// Name resolution in the host's network is the host's.
fn network_files(network: &NetworkMode) -> Vec<MountSpec> {
    if *network != NetworkMode::Host {
        return Vec::new();
    }
    ["/etc/hosts", "/etc/resolv.conf"]
        .into_iter()
        .filter(|path| std::path::Path::new(path).is_file())
        .map(|path| MountSpec {
            kind: MountKind::Bind(BindMount {
                source: path.to_owned(),
                ..BindMount::default()
            }),
            target: path.to_owned(),
            read_only: true,
            origin: Origin::Asked,
        })
        .collect()
}

/// Shows what the command writes until it has ended and nothing is left.
fn carry(running: &mut dyn Running, progress: &mut dyn Progress) -> Result<()> {
    let streams = running.take_streams();
    let mut open: Vec<(std::fs::File, Said)> = [
        (streams.output, Said::Output),
        (streams.errors, Said::Errors),
    ]
    .into_iter()
    .filter_map(|(stream, said): (Option<OwnedFd>, Said)| Some((stream?.into(), said)))
    .collect();
    let mut buffer = vec![0; CHUNK];
    let mut ended = false;
    loop {
        let mut wanted: Vec<PollFd<'_>> = open
            .iter()
            .map(|(stream, _)| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
            .collect();
        if !ended {
            wanted.push(PollFd::new(running.ended(), PollFlags::POLLIN));
        }
        // Once it has ended, what is in the pipes is all that counts: others may keep them open.
        let timeout = if ended {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        let ready = match poll(&mut wanted, timeout) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.map_err(|source| Error::System {
                action: "wait for a command's output",
                source: source.into(),
            })?,
        };
        let is_ready: Vec<bool> = wanted
            .iter()
            .map(|one| one.revents().is_some_and(|events| !events.is_empty()))
            .collect();
        if !ended && is_ready.last() == Some(&true) {
            ended = true;
        } else if ended && ready == 0 {
            return Ok(());
        }
        let mut closed = Vec::new();
        for (index, (stream, said)) in open.iter_mut().enumerate() {
            if is_ready.get(index) != Some(&true) {
                continue;
            }
            match stream.read(&mut buffer) {
                Ok(0) => closed.push(index),
                Ok(read) => progress.output(*said, buffer.get(..read).unwrap_or_default()),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => closed.push(index),
            }
        }
        for index in closed.into_iter().rev() {
            open.remove(index);
        }
        if ended && open.is_empty() {
            return Ok(());
        }
    }
}
