//! An instance's files, whether it runs or not: for `cp` and `diff`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use container_core::Init;
use serde::Deserialize;

use super::exec;
use crate::archive::{
    self, ArchiveError, Change, PathStat, Remote, RootDirectory, UpperEntry, changes, changes_of,
};
use crate::backend::Maintenance;
use crate::base;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::{self, Listed, Lock};
use crate::process::Process;
use crate::spec::BackendKind;

/// Exit code of our helper in a guest for a path that is not there.
const NOT_FOUND: u8 = 2;

/// The most that a helper's answer may be, bytes: a hostile guest writes what it likes.
const ANSWER_MAX: u64 = 64 << 20;

/// What gives access to an instance's files, as long as it lives.
pub struct Files {
    remote: Box<dyn Remote>,
    // After the remote, which may hold a mount of the writable layer.
    _lock: Option<Lock>,
}

impl Files {
    /// The three calls of `cp`.
    pub fn remote(&self) -> &dyn Remote {
        self.remote.as_ref()
    }
}

/// A toolbox's files are the engine's in the machine.
fn refuse_toolbox(found: &Listed) -> Result<()> {
    if found.record.spec.backend == BackendKind::Toolbox {
        return Err(Error::Unsupported(
            "cp and diff are refused for a toolbox: its files are in the engine inside the machine; use exec, or a volume"
                .into(),
        ));
    }
    Ok(())
}

/// Opens an instance's files. One that does not run cannot be started meanwhile; a VM that does not run is booted, without its
/// command, to look at its disk.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::Running`] when somebody starts it at this moment, and what a boot may say.
pub fn files(home: &Home, wanted: &str) -> Result<Files> {
    let found = instance::look(home, wanted)?;
    refuse_toolbox(&found)?;
    if found.record.spec.backend == BackendKind::Vm {
        let (tools, lock) = tools(home, found)?;
        return Ok(Files {
            remote: Box::new(GuestFiles { tools }),
            _lock: lock,
        });
    }
    let (root, lock) = root(home, &found)?;
    let image = image_of(home, &found)?;
    let process = Process::new(
        &found.record.spec,
        &image.0,
        &image.1,
        found.record.command.clone(),
        found.record.hostname(),
    );
    let identity = process.ok().map(|process| process.identity);
    Ok(Files {
        remote: Box::new(RootDirectory {
            root,
            user: identity.map(|identity| (identity.uid, identity.gid)),
        }),
        _lock: lock,
    })
}

pub(super) fn image_of(
    home: &Home,
    found: &Listed,
) -> Result<(image_core::Store, image_core::Image)> {
    let store = home.images()?;
    let image = if base::is_base(&found.record.spec.image) {
        base::ensure(&store)?
    } else {
        store.resolve(&found.record.image_id)?
    };
    Ok((store, image))
}

/// A container's root directory.
pub(super) fn root(home: &Home, found: &Listed) -> Result<(OwnedFd, Option<Lock>)> {
    if found.is_running()
        && let Some(init) = Init::open(found.state.pid, found.state.pid_started)?
    {
        let path = format!("/proc/{}/root", init.pid());
        let root = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        // Opened before the process could end and its number go to another: then this is that one's no more.
        if !init.has_ended()? {
            return Ok((root.into(), None));
        }
    }
    let lock = Lock::take(home, &found.record.id)?;
    let (store, image) = image_of(home, found)?;
    let directory = home.instance(&found.record.id);
    let (upper, work) = (directory.join("upper"), directory.join("work"));
    for path in [&upper, &work] {
        match std::fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", path, e));
            }
            _ => {}
        }
    }
    let layers = store.layer_dirs(&image)?;
    let root = container_core::mount_overlay(&layers, &upper, &work, false)?;
    Ok((root, Some(lock)))
}

/// What an instance has changed of its image.
///
/// # Errors
/// As for [`files`].
pub fn diff(home: &Home, wanted: &str) -> Result<Vec<Change>> {
    let found = instance::look(home, wanted)?;
    refuse_toolbox(&found)?;
    let (store, image) = image_of(home, &found)?;
    let layers = store.layer_dirs(&image)?;
    if found.record.spec.backend == BackendKind::Vm {
        let fresh = !home.instance(&found.record.id).join("disk.ext4").exists();
        if fresh && !found.is_running() {
            return Ok(Vec::new());
        }
        let (tools, lock) = tools(home, found)?;
        let listing = answer(tools.as_ref(), &["upper", &UPPER.to_string()]);
        drop((tools, lock));
        return Ok(changes_of(&layers, &entries(&listing?)?)?);
    }
    let upper = home.instance(&found.record.id).join("upper");
    match File::open(&upper) {
        Ok(upper) => Ok(changes(&layers, upper.as_fd())?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("open", &upper, e)),
    }
}

/// The descriptor on which the agent gives a helper the writable layer.
const UPPER: i32 = guest_protocol::UPPER_FD;

/// Reads a helper's list of the writable layer.
///
/// It does not say how directories differ, so that each there is counts as changed; but for /etc, if all there is of it are the
/// places of files that are the host's.
fn entries(listing: &[u8]) -> Result<Vec<UpperEntry>> {
    let mut entries = all_entries(listing)?;
    let is_ours = |entry: &UpperEntry| {
        [&b"/etc/hosts"[..], b"/etc/hostname", b"/etc/resolv.conf"].contains(&entry.path.as_slice())
            && entry.mode == libc::S_IFREG
    };
    let untouched = entries
        .iter()
        .filter(|entry| entry.path.starts_with(b"/etc/"))
        .all(is_ours);
    if untouched {
        entries.retain(|entry| entry.path != b"/etc" || entry.opaque);
    }
    Ok(entries)
}

fn all_entries(listing: &[u8]) -> Result<Vec<UpperEntry>> {
    let broken = || Error::Guest {
        message: "the guest's list of its writable layer cannot be read".into(),
        code: 125,
    };
    listing
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (letter, path) = entry.split_at_checked(2).ok_or_else(broken)?;
            let kind = match letter.first() {
                Some(b'd' | b'o') => libc::S_IFDIR,
                Some(b'l') => libc::S_IFLNK,
                Some(b'b') => libc::S_IFBLK,
                Some(b'c' | b'w') => libc::S_IFCHR,
                Some(b'p') => libc::S_IFIFO,
                Some(b's') => libc::S_IFSOCK,
                Some(b'f') => libc::S_IFREG,
                _ => return Err(broken()),
            };
            Ok(UpperEntry {
                path: path.to_vec(),
                mode: kind,
                whiteout: letter.first() == Some(&b'w'),
                opaque: letter.first() == Some(&b'o'),
                ..UpperEntry::default()
            })
        })
        .collect()
}

/// Changes a small file of a running VM's, in place.
///
/// # Errors
/// When the VM does not run, has no such file, or does not answer.
pub(crate) fn edit(
    home: &Home,
    found: Listed,
    path: &str,
    change: &dyn Fn(&str) -> String,
) -> Result<()> {
    let (tools, _lock) = tools(home, found)?;
    let text = answer(tools.as_ref(), &["read", path])?;
    let changed = change(&String::from_utf8_lossy(&text));
    let mut nothing = io::sink();
    let mut input = changed.as_bytes();
    match talk(
        tools.as_ref(),
        &["write", path],
        Some(&mut input),
        &mut nothing,
    )? {
        (0, _) => Ok(()),
        (_, message) => Err(Error::Guest { message, code: 125 }),
    }
}

/// Something that runs our helpers in a guest.
pub(super) trait Tools {
    /// Runs one to its end; its exit code.
    fn run(
        &self,
        args: &[&str],
        stdin: Option<BorrowedFd<'_>>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<u8>;
}

/// Through the supervisor of a running VM.
struct Running {
    home: Home,
    found: Listed,
}

impl Tools for Running {
    fn run(
        &self,
        args: &[&str],
        stdin: Option<BorrowedFd<'_>>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<u8> {
        exec::tool(&self.home, &self.found, args, stdin, stdout, stderr)
    }
}

impl Tools for Maintenance {
    fn run(
        &self,
        args: &[&str],
        stdin: Option<BorrowedFd<'_>>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<u8> {
        self.tool(args, stdin, stdout, stderr)
    }
}

pub(super) fn tools(home: &Home, found: Listed) -> Result<(Box<dyn Tools + Sync>, Option<Lock>)> {
    if found.is_running() {
        let running = Running {
            home: home.clone(),
            found,
        };
        return Ok((Box::new(running), None));
    }
    let lock = Lock::take(home, &found.record.id)?;
    let (store, image) = image_of(home, &found)?;
    let process = Process::new(
        &found.record.spec,
        &store,
        &image,
        found.record.command.clone(),
        found.record.hostname(),
    )?;
    let maintenance = Maintenance::boot(home, &found.record, &store, &image, &process)?;
    Ok((Box::new(maintenance), Some(lock)))
}

/// Runs a helper and gives what it wrote.
fn answer(tools: &(dyn Tools + Sync), args: &[&str]) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let (code, said) = talk(tools, args, None, &mut answer)?;
    if code == 0 {
        Ok(answer)
    } else {
        Err(Error::Guest {
            message: said,
            code: 125,
        })
    }
}

/// Runs a helper with its streams in pipes: what it writes goes to `output`, what it reads comes from `input`. Its exit code,
/// and what it said on standard error.
pub(super) fn talk(
    tools: &(dyn Tools + Sync),
    args: &[&str],
    input: Option<&mut dyn Read>,
    output: &mut dyn Write,
) -> Result<(u8, String)> {
    let pipe = || {
        io::pipe().map_err(|source| Error::System {
            action: "make a pipe",
            source,
        })
    };
    let (mut answers, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    let (stdin, feed) = match &input {
        Some(_) => {
            let (reader, writer) = pipe()?;
            (Some(reader), Some(writer))
        }
        None => (None, None),
    };
    std::thread::scope(|scope| {
        let runs = scope.spawn(move || {
            let code = tools.run(
                args,
                stdin.as_ref().map(AsFd::as_fd),
                stdout.as_fd(),
                stderr.as_fd(),
            );
            drop((stdin, stdout, stderr));
            code
        });
        let says = scope.spawn(move || {
            let mut said = String::new();
            // What a guest says is shown as far as it is text, and not without end.
            let _ = errors.take(4096).read_to_string(&mut said);
            said
        });
        let carried = match (input, feed) {
            (Some(input), Some(mut feed)) => {
                let copied = io::copy(input, &mut feed).map(drop);
                drop(feed);
                // A helper that has found something wrong reads no more: its own words are better.
                match copied {
                    Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
                    _ => io::copy(&mut (&mut answers).take(ANSWER_MAX), output).map(drop),
                }
            }
            _ => io::copy(&mut (&mut answers).take(u64::MAX), output).map(drop),
        };
        drop(answers);
        let code = runs
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let said = says.join().unwrap_or_default();
        carried.map_err(|source| Error::System {
            action: "carry an archive",
            source,
        })?;
        let said = said
            .trim()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c });
        Ok((code, said.collect()))
    })
}

/// A VM's files, by helpers in it.
struct GuestFiles {
    tools: Box<dyn Tools + Sync>,
}

/// The helper's word on a path.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GuestStat {
    name: String,
    size: u64,
    mode: u32,
    mtime: i64,
    mtime_ns: u32,
    link_target: String,
}

impl GuestFiles {
    fn run(
        &self,
        path: &str,
        args: &[&str],
        input: Option<&mut dyn Read>,
        output: &mut dyn Write,
    ) -> archive::Result<()> {
        let remote = |error: Error| ArchiveError::Remote(Box::new(error));
        match talk(self.tools.as_ref(), args, input, output).map_err(remote)? {
            (0, _) => Ok(()),
            (NOT_FOUND, _) => Err(ArchiveError::NotFound {
                path: path.to_owned(),
            }),
            (_, said) => Err(ArchiveError::Remote(said.into())),
        }
    }
}

/// Paths of an instance begin at its root, whether they say so or not.
fn absolute(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

impl Remote for GuestFiles {
    fn stat(&self, path: &str) -> archive::Result<PathStat> {
        let mut line = Vec::new();
        self.run(path, &["stat", &absolute(path)], None, &mut line)?;
        let stat: GuestStat = serde_json::from_slice(&line)
            .map_err(|e| ArchiveError::Remote(format!("the guest's answer: {e}").into()))?;
        Ok(PathStat {
            name: stat.name,
            size: stat.size,
            mode: stat.mode,
            mtime: (stat.mtime, stat.mtime_ns),
            link_target: Some(stat.link_target).filter(|target| !target.is_empty()),
        })
    }

    fn get(&self, path: &str, output: &mut dyn Write) -> archive::Result<()> {
        self.run(path, &["tar-out", &absolute(path)], None, output)
    }

    fn put(&self, directory: &str, input: &mut dyn Read, keep_owners: bool) -> archive::Result<()> {
        let _ = keep_owners;
        let mut nothing = io::sink();
        let args = ["tar-in", &absolute(directory)];
        self.run(directory, &args, Some(input), &mut nothing)
    }
}
