//! Layers as EROFS files, for virtual machines: one file a layer, uncompressed, made when a VM first needs it and kept.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::store::{Image, Store, place};
use crate::{Digest, Error, Result};

/// EROFS's block, and the unit in which a guest's disk is put together.
const BLOCK: u64 = 4096;

/// 9999-12-31. `mkfs.erofs` writes the time of its run into the superblock unless this variable gives another one, and lowers later
/// times of files to it: so far in the future it only makes the file the same each time.
const EPOCH: (&str, &str) = ("SOURCE_DATE_EPOCH", "253402300799");

/// How much of what `mkfs.erofs` said an error repeats, in bytes.
const OUTPUT: usize = 400;

/// One layer as a file system in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErofsLayer {
    /// The file. Its content never changes.
    pub path: PathBuf,
    /// Its size, a multiple of 4096.
    pub bytes: u64,
}

impl Store {
    /// An image's layers as EROFS files, **topmost first**, the same ones that [`Store::layer_dirs`] gives. Missing ones are made now.
    ///
    /// # Errors
    /// [`Error::NoMkfs`] when erofs-utils is not installed, [`Error::Mkfs`] when it fails, or a full disk.
    pub fn erofs_layers(&self, image: &Image) -> Result<Vec<ErofsLayer>> {
        let visible = self.visible_layers(image)?;
        let missing: Vec<Digest> = visible
            .iter()
            .filter(|diff_id| !self.erofs(**diff_id).exists())
            .copied()
            .collect();
        self.make_all(&missing)?;
        visible
            .into_iter()
            .map(|diff_id| {
                let path = self.erofs(diff_id);
                let about = std::fs::metadata(&path).map_err(Error::io("examine", &path))?;
                let bytes = about.len();
                Ok(ErofsLayer { path, bytes })
            })
            .collect()
    }

    /// Makes the files of several layers, as many at once as there are processors.
    fn make_all(&self, layers: &[Digest]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(diff_id) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.make_erofs(*diff_id, &self.erofs(*diff_id))?;
            }
            Ok(())
        };
        let most = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match layers.len().min(most) {
            0 => Ok(()),
            // Without a thread of its own: most images add one layer.
            1 => work(),
            count => thread::scope(|scope| {
                let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
                workers.into_iter().try_for_each(|worker| {
                    let worked = worker.join();
                    worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            }),
        }
    }

    fn make_erofs(&self, diff_id: Digest, path: &Path) -> Result<()> {
        let layer = self.layer(diff_id);
        // Whoever else needs the same file waits here, and then finds it.
        let maker = File::open(&layer).map_err(Error::io("open", &layer))?;
        maker.lock().map_err(Error::io("lock", &layer))?;
        if path.exists() {
            return Ok(());
        }
        let workspace = self.workspace()?;
        let new = workspace.unique("erofs");
        run_mkfs(diff_id, &self.layer_tree(diff_id), &new)?;
        let file = File::options()
            .write(true)
            .open(&new)
            .map_err(Error::io("open", &new))?;
        let bytes = file.metadata().map_err(Error::io("examine", &new))?.len();
        let padded = file
            .set_len(bytes.next_multiple_of(BLOCK))
            .and_then(|()| file.sync_all());
        padded.map_err(Error::io("write", &new))?;
        let _lock = self.lock()?;
        if !layer.exists() {
            return Err(Error::Missing {
                what: format!("layer {diff_id}"),
                reason: "it was removed in the meantime".to_owned(),
            });
        }
        place(&new, path)
    }
}

fn run_mkfs(diff_id: Digest, tree: &Path, target: &Path) -> Result<()> {
    let owner = rustix::process::getpid();
    let mut command = Command::new("mkfs.erofs");
    command
        .args(["--quiet", "-U", &uuid(diff_id)])
        .args([target, tree])
        .env(EPOCH.0, EPOCH.1)
        .stdin(Stdio::null());
    // SAFETY: the closure runs in the child between fork and exec; it makes two system calls, and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            // It must not outlive us: its output would go on growing in a workspace that counts as dead.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before that call.
            if rustix::process::getppid() == Some(owner) {
                Ok(())
            } else {
                Err(io::ErrorKind::Interrupted.into())
            }
        });
    }
    let output = match command.output() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NoMkfs),
        run => run.map_err(Error::io("run mkfs.erofs for", tree))?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(OUTPUT)..]).into_owned();
    let shown: String = said
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let shown = shown.trim();
    if shown.contains("No space left") {
        return Err(Error::NoSpace {
            path: target.to_owned(),
            reason: format!("the EROFS file of layer {diff_id} does not fit"),
        });
    }
    Err(Error::Mkfs {
        layer: diff_id,
        status: output.status.to_string(),
        output: shown.to_owned(),
    })
}

/// A UUID that depends on the content only: version 8 of RFC 9562, whose other bits are free.
fn uuid(diff_id: Digest) -> String {
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&diff_id.as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}
