//! The command `cp`, between the host and an instance.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::channel::channel;
use super::into::{Owner, TarInOptions, Top, extract};
use super::locate::Located;
use super::plan::{Destination, Source, follow, plan};
use super::{ArchiveError, PathStat, Remote, Result, out, path};
use crate::mount::path::clean;

/// Links followed to a destination on the host: docker's client stops there too.
const LINKS: usize = 10;

/// The flags of `cp`.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// `-a`: owners are kept.
    pub archive: bool,
    /// `-L`: a source that is a link is followed.
    pub follow_link: bool,
}

/// What a copy came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the archive that was carried.
    pub bytes: u64,
    /// Where it went, as docker tells it: `Successfully copied 2.05kB to …`. None for standard output.
    pub to: Option<String>,
}

/// Splits an argument of `cp`: `INSTANCE:PATH`, or a path on the host, which `./` or `/` before it always makes it.
pub fn split_argument(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((instance, path)) if !instance.starts_with('.') && !text.starts_with('/') => {
            (Some(instance), path)
        }
        _ => (None, text),
    }
}

/// Names the instance in an error about a path of its.
fn named(container: &str) -> impl Fn(ArchiveError) -> ArchiveError {
    move |error| match error {
        ArchiveError::NotFound { path } => ArchiveError::NotFoundIn {
            path,
            container: container.to_owned(),
        },
        other => other,
    }
}

/// `plimsoll cp CONTAINER:SOURCE DESTINATION`: `destination` is a path on the host, or `-` for the archive itself on `stdout`.
///
/// # Errors
/// [`ArchiveError`], with docker's words.
pub fn from_remote(
    remote: &dyn Remote,
    container: &str,
    source: &str,
    destination: &str,
    options: &CopyOptions,
    stdout: &mut dyn Write,
) -> Result<Copied> {
    let to_archive = destination == "-";
    let destination = if to_archive {
        destination.to_owned()
    } else {
        let destination = local(destination)?;
        check_output(&destination)?;
        destination
    };
    let mut from = Source {
        path: source.to_owned(),
        is_directory: false,
        renamed: None,
    };
    let mut stat = remote.stat(source).map_err(named(container))?;
    if options.follow_link
        && let Some(target) = &stat.link_target
    {
        (from.path, from.renamed) = follow(source, target);
        stat = remote.stat(&from.path).map_err(named(container))?;
    }
    from.is_directory = stat.is_directory();
    if to_archive {
        let mut counted = Counted {
            output: stdout,
            bytes: 0,
        };
        remote
            .get(&from.path, &mut counted)
            .and_then(|()| {
                counted
                    .flush()
                    .map_err(|e| ArchiveError::io("write", b"-", e))
            })
            .map_err(named(container))?;
        return Ok(Copied {
            bytes: counted.bytes,
            to: None,
        });
    }
    let to = local_destination(&destination)?;
    let placement = plan(&from, &to)?;
    // The archive's first name is what the other side makes of the path; anything else in it was not asked for.
    let expected = match path::split(&from.path).1.as_str() {
        "." | "/" => None,
        base => Some(base.as_bytes().to_vec()),
    };
    let top = Top {
        expected,
        renamed: placement.name.map(String::into_bytes),
    };
    let unpack = TarInOptions {
        owner: if options.archive {
            Owner::Archive
        } else {
            // docker: files belong to whoever copies them.
            Owner::All {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            }
        },
        ..TarInOptions::default()
    };
    let target = open_directory(&placement.directory)?;
    let (mut sender, mut reader) = channel();
    let (got, unpacked, bytes) = std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || extract(target, &mut reader, &top, &unpack));
        let got = remote.get(&from.path, &mut sender).and_then(|()| {
            sender
                .flush()
                .map_err(|e| ArchiveError::io("carry", from.path.as_bytes(), e))
        });
        let bytes = sender.bytes();
        drop(sender);
        (got, joined(unpacking), bytes)
    });
    settle(got, unpacked).map_err(named(container))?;
    Ok(Copied {
        bytes,
        to: Some(destination),
    })
}

/// `plimsoll cp SOURCE CONTAINER:DESTINATION`: `source` is a path on the host, or `-` for an archive on `stdin`.
///
/// # Errors
/// [`ArchiveError`], with docker's words.
pub fn to_remote(
    remote: &dyn Remote,
    container: &str,
    source: &str,
    destination: &str,
    options: &CopyOptions,
    stdin: &mut dyn Read,
) -> Result<Copied> {
    let mut to = Destination {
        path: destination.to_owned(),
        exists: false,
        is_directory: false,
    };
    let mut found = remote.stat(destination).ok();
    if let Some(target) = found.as_ref().and_then(|stat| stat.link_target.clone()) {
        found = remote.stat(&target).ok();
        to.path = target;
    }
    if found.as_ref().is_some_and(PathStat::is_device) {
        return Err(ArchiveError::Host(format!(
            "destination \"{container}:{destination}\" must be a directory or a regular file: got a device"
        )));
    }
    // What is not there may still be made, if its directory is: the other side tells.
    to.exists = found.is_some();
    to.is_directory = found.as_ref().is_some_and(PathStat::is_directory);
    let told = format!("{container}:{}", to.path);
    if source == "-" {
        if !to.is_directory {
            return Err(ArchiveError::Host(format!(
                "destination \"{container}:{destination}\" must be a directory"
            )));
        }
        let mut counted = Counting {
            input: stdin,
            bytes: 0,
        };
        remote
            .put(&to.path, &mut counted, options.archive)
            .map_err(named(container))?;
        return Ok(Copied {
            bytes: counted.bytes,
            to: Some(told),
        });
    }
    let (located, from) = local_source(source, options.follow_link)?;
    let placement = plan(&from, &to)?;
    let name = match placement.name {
        Some(name) => name.into_bytes(),
        None => located.base.clone(),
    };
    let (mut sender, mut reader) = channel();
    let (archived, put, bytes) = std::thread::scope(|scope| {
        let archiving = scope.spawn(move || {
            let archived = out::write(&located, &name, &from.path, &mut sender);
            (archived, sender.bytes())
        });
        let put = remote.put(&placement.directory, &mut reader, options.archive);
        // Whoever writes must not wait for a reader that has gone.
        drop(reader);
        let (archived, bytes) = match archiving.join() {
            Ok(done) => done,
            Err(_) => (
                Err(ArchiveError::Arguments("archiving the source failed")),
                0,
            ),
        };
        (archived, put, bytes)
    });
    settle(archived, put).map_err(named(container))?;
    Ok(Copied {
        bytes,
        to: Some(told),
    })
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    match thread.join() {
        Ok(result) => result,
        Err(_) => Err(ArchiveError::Arguments("unpacking the archive failed")),
    }
}

/// The failure to tell when two sides of a pipe may have failed. A writer whose reader has gone knows nothing of why; a reader whose writer
/// has failed sees only that the archive is cut short.
fn settle(written: Result<()>, read: Result<()>) -> Result<()> {
    match (written, read) {
        (Err(ArchiveError::Io { source, .. }), read)
            if source.kind() == io::ErrorKind::BrokenPipe =>
        {
            read
        }
        (Err(error), _) => Err(error),
        (Ok(()), read) => read,
    }
}

/// A path on the host as an absolute one, with the slash or dot at its end.
fn local(text: &str) -> Result<String> {
    let absolute =
        std::path::absolute(text).map_err(|e| ArchiveError::io("resolve", text.as_bytes(), e))?;
    let absolute = absolute.to_str().ok_or_else(|| {
        ArchiveError::Host(format!(
            "the working directory before {text:?} is not UTF-8: give an absolute path"
        ))
    })?;
    Ok(path::absolute(absolute, text))
}

/// docker's look at a destination on the host before anything is asked of the instance.
fn check_output(destination: &str) -> Result<()> {
    let (directory, _) = path::split(destination);
    if !Path::new(&directory).exists() {
        return Err(ArchiveError::Host(format!(
            "invalid output path: directory {directory:?} does not exist"
        )));
    }
    let device = |kind: fs::FileType| kind.is_char_device() || kind.is_block_device();
    if fs::metadata(destination).is_ok_and(|there| device(there.file_type())) {
        return Err(ArchiveError::Host(format!(
            "invalid output path: {destination:?} must be a directory or a regular file: got a device"
        )));
    }
    Ok(())
}

/// What is at a destination on the host. Links are followed: they are the host's own.
fn local_destination(typed: &str) -> Result<Destination> {
    let mut path = typed.to_owned();
    for _ in 0..=LINKS {
        match fs::symlink_metadata(&path) {
            Ok(there) if there.is_symlink() => {
                let target = fs::read_link(&path)
                    .map_err(|e| ArchiveError::io("read", path.as_bytes(), e))?;
                let directory = path::split(&path).0;
                path = clean(&Path::new(&directory).join(target).to_string_lossy());
            }
            Ok(there) => {
                return Ok(Destination {
                    path,
                    exists: true,
                    is_directory: there.is_dir(),
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let directory = path::split(&path).0;
                let parent = fs::metadata(&directory)
                    .map_err(|e| ArchiveError::io("open", directory.as_bytes(), e))?;
                if !parent.is_dir() {
                    return Err(ArchiveError::Host(format!("{directory}: not a directory")));
                }
                return Ok(Destination {
                    path,
                    exists: false,
                    is_directory: false,
                });
            }
            Err(e) => return Err(ArchiveError::io("open", path.as_bytes(), e)),
        }
    }
    Err(ArchiveError::Host(format!("too many symlinks in {typed}")))
}

/// Opens a source on the host.
fn local_source(text: &str, follow_link: bool) -> Result<(Located, Source)> {
    let typed = local(text)?;
    let failed = |e: io::Error| ArchiveError::Host(format!("lstat {typed}: {}", plain(&e)));
    let (path, renamed) = if follow_link {
        let resolved = fs::canonicalize(&typed).map_err(failed)?;
        follow(&typed, &resolved.to_string_lossy())
    } else {
        (typed.clone(), None)
    };
    // The kernel follows a link before a slash at the end, as docker does.
    let metadata = fs::symlink_metadata(&path).map_err(failed)?;
    let (directory, name) = if path::asserts_directory(&path) {
        (path.as_str(), None)
    } else {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        (
            directory,
            Some(name.as_bytes().to_vec()).filter(|name| !name.is_empty()),
        )
    };
    let base = match path::base(&path) {
        "." | "/" => "",
        base => base,
    };
    let located = Located {
        parent: open_directory(&format!("{directory}/"))?,
        name,
        base: base.as_bytes().to_vec(),
    };
    let source = Source {
        path,
        is_directory: metadata.is_dir(),
        renamed,
    };
    Ok((located, source))
}

fn open_directory(path: &str) -> Result<OwnedFd> {
    let opened = fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path);
    Ok(opened
        .map_err(|e| ArchiveError::io("open", path.as_bytes(), e))?
        .into())
}

/// The system's words without Rust's number behind them, as Go prints them: in lower case.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

struct Counted<'o> {
    output: &'o mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

struct Counting<'i> {
    input: &'i mut dyn Read,
    bytes: u64,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
