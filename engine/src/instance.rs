//! An instance's state: a directory, a record in it, a name, and a lock that the kernel releases with its holder.
//!
//! **Invariant:** `active/<id>` is linked, locked, before anything else of the instance exists, and is unlinked after
//! everything else is settled. So whatever a killed process leaves behind can be found by looking at `active/` alone
//! ([`sweep`]), whose size is the number of running instances.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::home::{Home, replace};
use crate::names;
use crate::spec::InstanceSpec;

/// The layout of instance.json; raised when a field changes its meaning.
const RECORD_VERSION: u32 = 1;

/// How long `rm -f` waits for the owner of a killed instance to let go of it. Killing a VM's process frees all of its
/// memory first, which takes up to a second for many GiB.
const OWNER_PATIENCE: Duration = Duration::from_secs(10);

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code as the shell would see it: 128 + n after signal n.
    pub code: i32,
    /// Whether the memory limit killed it.
    pub oom_killed: bool,
    /// Why it never ran or ended early, where it was not the command's own doing.
    pub error: Option<String>,
    /// When, nanoseconds since 1970.
    pub at: u64,
}

/// What is known of an instance: instance.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    version: u32,
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
    /// How it ended; `None` while it runs.
    pub exit: Option<ExitRecord>,
}

impl Record {
    /// The first twelve digits of the identifier.
    pub fn short_id(&self) -> &str {
        short(&self.id)
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// A running instance, owned by this process.
#[derive(Debug)]
pub(crate) struct Instance {
    home: Home,
    pub(crate) record: Record,
    /// Held until the instance is settled.
    _lock: File,
}

impl Instance {
    /// Makes the state of a new instance and takes its name.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::InvalidName`], and whatever the file system says. Nothing is left then.
    pub(crate) fn create(
        home: &Home,
        spec: &InstanceSpec,
        image_id: &str,
        command: &[String],
    ) -> Result<Self> {
        if let Some(name) = spec.name.as_ref().filter(|name| !names::is_valid(name)) {
            return Err(Error::InvalidName(name.clone()));
        }
        let id = names::new_id()?;
        let lock = link_active(home, &id)?;
        let record = Record {
            version: RECORD_VERSION,
            name: spec.name.clone().unwrap_or_default(),
            image_id: image_id.to_owned(),
            created: now(),
            spec: spec.clone(),
            command: command.to_vec(),
            exit: None,
            id,
        };
        let mut instance = Self {
            home: home.clone(),
            record,
            _lock: lock,
        };
        match instance.fill() {
            Ok(()) => Ok(instance),
            Err(error) => {
                // The first failure is the one to tell; `sweep` takes what cannot be removed now.
                let _ = remove_state(home, &instance.record.id, "");
                let _ = fs::remove_file(home.active().join(&instance.record.id));
                Err(error)
            }
        }
    }

    fn fill(&mut self) -> Result<()> {
        let directory = self.directory();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|e| Error::io("create", &directory, e))?;
        if self.record.name.is_empty() {
            // 2304 names: with a thousand instances, ten tries fail about once in 4000 starts, so the rest gets digits.
            for attempt in 0.. {
                let mut name = names::generate()?;
                if attempt >= 10 {
                    name.push_str(&self.record.id[..8]);
                }
                match take_name(&self.home, &name, &self.record.id) {
                    Err(Error::NameTaken { .. }) if attempt < 20 => continue,
                    result => result?,
                }
                self.record.name = name;
                break;
            }
        } else {
            take_name(&self.home, &self.record.name, &self.record.id)?;
        }
        self.save()
    }

    /// The instance's own directory.
    pub(crate) fn directory(&self) -> PathBuf {
        self.home.instance(&self.record.id)
    }

    /// The state directory that the instance is in.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    fn save(&self) -> Result<()> {
        write_record(&self.home, &self.record)
    }

    /// Settles an instance that has ended: the record says how, or (`--rm`) nothing of it stays.
    ///
    /// # Errors
    /// Whatever the file system says; `sweep` tries again then.
    pub(crate) fn finish(mut self, exit: ExitRecord) -> Result<()> {
        if self.record.spec.auto_remove {
            remove_state(&self.home, &self.record.id, &self.record.name)?;
        } else {
            self.record.exit = Some(exit);
            self.save()?;
        }
        let active = self.home.active().join(&self.record.id);
        fs::remove_file(&active).map_err(|e| Error::io("remove", &active, e))
    }

    /// Takes back an instance that never ran.
    pub(crate) fn discard(mut self) -> Result<()> {
        self.record.spec.auto_remove = true;
        let exit = ExitRecord {
            code: 125,
            oom_killed: false,
            error: None,
            at: now(),
        };
        self.finish(exit)
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

/// Makes `active/<id>` appear already locked, so that nobody can take it for a dead process's.
fn link_active(home: &Home, id: &str) -> Result<File> {
    let folder = home.active();
    let file = File::options()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(&folder)
        .map_err(|e| Error::io("create a file in", &folder, e))?;
    file.lock().map_err(|e| Error::io("lock", &folder, e))?;
    let path = folder.join(id);
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(
        AT_FDCWD,
        unnamed.as_str(),
        AT_FDCWD,
        &path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )
    .map_err(|e| Error::io("create", &path, e.into()))?;
    Ok(file)
}

/// Points `names/<name>` at the instance, unless another living instance has it.
fn take_name(home: &Home, name: &str, id: &str) -> Result<()> {
    let link = home.name(name);
    for _ in 0..3 {
        match symlink(id, &link) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", &link, e)),
        }
        let Ok(holder) = fs::read_link(&link) else {
            continue;
        };
        let holder = holder.to_string_lossy().into_owned();
        if home.instance(&holder).exists() {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                holder: short(&holder).to_owned(),
            });
        }
        // Its holder was removed by a process that died before it came to the name. Whoever wins the rename wins.
        let stale = home.trash().join(format!("name-{id}"));
        match fs::rename(&link, &stale) {
            Ok(()) => fs::remove_file(&stale).map_err(|e| Error::io("remove", &stale, e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("rename", &link, e)),
        }
    }
    Err(Error::NameTaken {
        name: name.to_owned(),
        holder: "that is being made".into(),
    })
}

fn write_record(home: &Home, record: &Record) -> Result<()> {
    let path = home.instance(&record.id).join("instance.json");
    let json = serde_json::to_vec(record).map_err(|e| Error::DamagedState {
        path: path.clone(),
        reason: e.to_string(),
    })?;
    replace(&path, &json)
}

fn read_record(home: &Home, id: &str) -> Result<Record> {
    let path = home.instance(id).join("instance.json");
    let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let damaged = |reason: String| Error::DamagedState {
        path: path.clone(),
        reason,
    };
    let record: Record = serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))?;
    if record.version != RECORD_VERSION {
        return Err(damaged(format!(
            "its version is {}, this plimsoll reads {RECORD_VERSION}",
            record.version
        )));
    }
    Ok(record)
}

/// Removes an instance's directory and name. Every step can be repeated after a kill in between.
fn remove_state(home: &Home, id: &str, name: &str) -> Result<()> {
    let trash = home.trash().join(id);
    let directory = home.instance(id);
    match fs::rename(&directory, &trash) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("rename", &directory, e)),
    }
    if !name.is_empty() {
        let link = home.name(name);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(id)) {
            ignore_missing(fs::remove_file(&link)).map_err(|e| Error::io("remove", &link, e))?;
        }
    }
    ignore_missing(fs::remove_dir_all(&trash)).map_err(|e| Error::io("remove", &trash, e))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a living process owns the instance.
fn is_active(home: &Home, id: &str) -> bool {
    File::open(home.active().join(id))
        .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// One line of `ps`.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The record.
    pub record: Record,
    /// Whether it runs now.
    pub running: bool,
}

/// All instances, newest first, after those whose owner was killed have been settled.
///
/// # Errors
/// [`Error::Io`]; a damaged record is left out, since one bad file must not hide the rest (`rm -f` takes it).
pub fn list(home: &Home) -> Result<Vec<Listed>> {
    sweep(home)?;
    let mut listed: Vec<Listed> = instance_ids(home)?
        .into_iter()
        .filter_map(|id| {
            let record = read_record(home, &id).ok()?;
            let running = record.exit.is_none() && is_active(home, &id);
            Some(Listed { record, running })
        })
        .collect();
    listed.sort_by_key(|item| std::cmp::Reverse(item.record.created));
    Ok(listed)
}

fn instance_ids(home: &Home) -> Result<Vec<String>> {
    let folder = home.instances();
    let entries = fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// The identifier behind a name, an identifier or a unique beginning of one.
fn find(home: &Home, wanted: &str) -> Result<String> {
    let missing = || Error::NoSuchInstance(wanted.to_owned());
    if !names::is_valid(wanted) && wanted.len() != 1 {
        return Err(missing());
    }
    if let Ok(target) = fs::read_link(home.name(wanted)) {
        let id = target.to_string_lossy().into_owned();
        if home.instance(&id).exists() {
            return Ok(id);
        }
    }
    let fits: Vec<String> = instance_ids(home)?
        .into_iter()
        .filter(|id| id.starts_with(wanted))
        .collect();
    match fits.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(missing()),
        several => Err(Error::AmbiguousPrefix {
            prefix: wanted.to_owned(),
            count: several.len(),
        }),
    }
}

/// Removes an instance; with `force` a running one too, whose processes are killed first.
///
/// # Errors
/// [`Error::NoSuchInstance`], [`Error::Running`], [`Error::Io`].
pub fn remove(home: &Home, wanted: &str, force: bool) -> Result<()> {
    let id = find(home, wanted)?;
    let active = home.active().join(&id);
    if let Ok(lock) = File::open(&active) {
        if !force && matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::Running(wanted.to_owned()));
        }
        // The owner sees its process end, settles the instance and lets go of the lock.
        let deadline = Instant::now() + OWNER_PATIENCE;
        loop {
            container_core::cgroup::remove_by_id(&id)?;
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(Error::Running(wanted.to_owned())),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &active, e)),
            }
        }
        reclaim(home, &id)?;
    }
    let name = read_record(home, &id)
        .map(|record| record.name)
        .unwrap_or_default();
    remove_state(home, &id, &name)
}

/// Settles every instance whose owner died without doing so, and finishes removals that were cut off.
///
/// # Errors
/// [`Error::Io`] where the state directory cannot be read or written.
pub(crate) fn sweep(home: &Home) -> Result<usize> {
    let mut settled = 0;
    let folder = home.active();
    for entry in fs::read_dir(&folder)
        .map_err(|e| Error::io("read", &folder, e))?
        .flatten()
    {
        let Ok(id) = entry.file_name().into_string() else {
            continue;
        };
        let Ok(lock) = File::open(entry.path()) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            reclaim(home, &id)?;
            settled += 1;
        }
    }
    let trash = home.trash();
    for entry in fs::read_dir(&trash)
        .map_err(|e| Error::io("read", &trash, e))?
        .flatten()
    {
        let path = entry.path();
        // Another process may be removing the same tree: what either leaves, the next sweep takes.
        let _ = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
    Ok(settled)
}

/// Settles every instance whose owner died, and takes away the empty cgroup that all instances have been in.
///
/// # Errors
/// When the state directory cannot be read or written, or cgroups cannot be read.
pub fn repair(home: &Home) -> Result<usize> {
    let settled = sweep(home)?;
    container_core::cgroup::remove_parent()?;
    Ok(settled)
}

/// Settles one instance whose lock this process has taken over.
fn reclaim(home: &Home, id: &str) -> Result<()> {
    container_core::cgroup::remove_by_id(id)?;
    match read_record(home, id) {
        Ok(record) if record.exit.is_some() => {}
        Ok(record) if record.spec.auto_remove => remove_state(home, id, &record.name)?,
        Ok(mut record) => {
            // What the workload would have ended with: the owner's death kills it.
            let error = Some("the plimsoll process that ran it was killed".to_owned());
            record.exit = Some(ExitRecord {
                code: 137,
                oom_killed: false,
                error,
                at: now(),
            });
            write_record(home, &record)?;
        }
        // Killed before the record was written: it never ran, and only the link itself knows its name.
        Err(Error::Io { .. }) => remove_state(home, id, &name_of(home, id)?)?,
        // Left for the user to look at; `rm -f` removes it.
        Err(_) => {}
    }
    let active = home.active().join(id);
    ignore_missing(fs::remove_file(&active)).map_err(|e| Error::io("remove", &active, e))
}

/// The name that points to an instance; empty where none does.
fn name_of(home: &Home, id: &str) -> Result<String> {
    let folder = home.names();
    let entries = fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    let held = entries
        .flatten()
        .find(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(id)));
    Ok(held.map_or_else(String::new, |entry| {
        entry.file_name().to_string_lossy().into_owned()
    }))
}

/// An instance made from the image, if there is one.
///
/// # Errors
/// Those of [`list`].
pub fn user_of_image(home: &Home, image_id: &str) -> Result<Option<Record>> {
    Ok(list(home)?
        .into_iter()
        .map(|item| item.record)
        .find(|record| record.image_id == image_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let temporary = tempfile::tempdir().unwrap();
        let home = Home::open(temporary.path()).unwrap();
        (temporary, home)
    }

    fn create(home: &Home, name: Option<&str>, auto_remove: bool) -> Result<Instance> {
        let spec = InstanceSpec {
            name: name.map(str::to_owned),
            auto_remove,
            ..InstanceSpec::default()
        };
        Instance::create(home, &spec, "sha256:0", &["true".into()])
    }

    fn ended(code: i32) -> ExitRecord {
        ExitRecord {
            code,
            oom_killed: false,
            error: None,
            at: now(),
        }
    }

    fn leftovers(home: &Home) -> Vec<PathBuf> {
        ["instances", "names", "active", "trash"]
            .iter()
            .flat_map(|folder| {
                fs::read_dir(home.root().join(folder))
                    .unwrap()
                    .flatten()
                    .map(|entry| entry.path())
            })
            .collect()
    }

    #[test]
    fn an_instance_that_removes_itself_leaves_nothing() {
        let (_temporary, home) = home();
        create(&home, Some("once"), true)
            .unwrap()
            .finish(ended(0))
            .unwrap();
        assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_kept_instance_tells_how_it_ended_until_it_is_removed() {
        let (_temporary, home) = home();
        let instance = create(&home, Some("kept"), false).unwrap();
        assert!(list(&home).unwrap()[0].running);
        assert!(matches!(
            remove(&home, "kept", false),
            Err(Error::Running(_))
        ));
        let id = instance.record.id.clone();
        instance.finish(ended(7)).unwrap();
        let listed = list(&home).unwrap();
        assert!(!listed[0].running);
        assert_eq!(listed[0].record.exit.as_ref().unwrap().code, 7);
        remove(&home, &id[..6], false).unwrap();
        assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
        assert!(matches!(
            remove(&home, "kept", true),
            Err(Error::NoSuchInstance(_))
        ));
    }

    #[test]
    fn a_taken_name_is_refused_with_its_holder_and_free_again_afterwards() {
        let (_temporary, home) = home();
        let first = create(&home, Some("one"), true).unwrap();
        let error = create(&home, Some("one"), true).unwrap_err();
        assert!(
            error.to_string().contains(first.record.short_id()),
            "{error}"
        );
        first.finish(ended(0)).unwrap();
        create(&home, Some("one"), true)
            .unwrap()
            .finish(ended(0))
            .unwrap();
        assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_a_killed_owner_leaves_is_swept() {
        let (_temporary, home) = home();
        // Dropping without finish releases the lock, as a death does.
        drop(create(&home, Some("gone"), true).unwrap());
        drop(create(&home, Some("stays"), false).unwrap());
        let alive = create(&home, Some("alive"), true).unwrap();
        assert_eq!(sweep(&home).unwrap(), 2);
        let listed = list(&home).unwrap();
        let names: Vec<_> = listed
            .iter()
            .map(|item| (item.record.name.as_str(), item.running))
            .collect();
        assert_eq!(names, [("alive", true), ("stays", false)]);
        assert_eq!(listed[1].record.exit.as_ref().unwrap().code, 137);
        alive.finish(ended(0)).unwrap();
    }

    #[test]
    fn an_instance_cut_off_before_its_record_is_swept_and_its_name_usable() {
        let (_temporary, home) = home();
        let instance = create(&home, Some("half"), true).unwrap();
        fs::remove_file(instance.directory().join("instance.json")).unwrap();
        drop(instance);
        sweep(&home).unwrap();
        create(&home, Some("half"), true)
            .unwrap()
            .finish(ended(0))
            .unwrap();
        assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_damaged_record_hides_nothing_else_and_can_be_removed() {
        let (_temporary, home) = home();
        let bad = create(&home, Some("bad"), false).unwrap();
        fs::write(bad.directory().join("instance.json"), b"{").unwrap();
        let id = bad.record.id.clone();
        drop(bad);
        create(&home, Some("good"), false)
            .unwrap()
            .finish(ended(0))
            .unwrap();
        assert_eq!(list(&home).unwrap().len(), 1);
        remove(&home, &id, true).unwrap();
        remove(&home, "good", false).unwrap();
    }

    #[test]
    fn names_that_lead_out_of_the_state_directory_find_nothing() {
        let (_temporary, home) = home();
        for name in ["../x", "..", "", "a/b", "/"] {
            assert!(
                matches!(remove(&home, name, true), Err(Error::NoSuchInstance(_))),
                "{name:?}"
            );
        }
    }
}
