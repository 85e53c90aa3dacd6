use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;
use crate::kvm::saved::tests::saved;

/// Keeps a template of a machine without contents at a path.
fn publish(path: &Path) {
    let draft = Draft::begin(path).unwrap().unwrap();
    let files = draft.files().unwrap();
    files.memory.set_len(64 << 20).unwrap();
    files
        .state
        .write_all_at(&saved().encode().unwrap(), 0)
        .unwrap();
    draft.publish().unwrap();
}

/// Such a template, in a directory of its own.
fn template() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("64m");
    publish(&path);
    (folder, path)
}

fn refusal(path: &Path) -> String {
    Template::open(path).unwrap_err().to_string()
}

#[test]
fn a_template_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("64m");
    let draft = Draft::begin(&path).unwrap().unwrap();
    assert!(Template::open(&path).unwrap().is_none());
    assert!(Draft::begin(&path).unwrap().is_none(), "one at a time");
    drop(draft);
    let left = || fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left(), 1, "only the lock stays");
    // One whose maker was killed: its lock is free, its files are there.
    let draft = Draft::begin(&path).unwrap().unwrap();
    draft.memory.set_len(1 << 20).unwrap();
    std::mem::forget(draft.files().unwrap());
    fs::rename(&draft.hidden, folder.path().join("aside")).unwrap();
    drop(draft);
    fs::rename(folder.path().join("aside"), folder.path().join(".64m.part")).unwrap();
    assert!(Template::open(&path).unwrap().is_none());
    drop(Draft::begin(&path).unwrap().unwrap());
    assert_eq!(left(), 1);
}

#[test]
fn a_template_that_was_kept_is_found_replaced_and_removed() {
    let (_folder, path) = template();
    let found = Template::open(&path).unwrap().unwrap();
    assert_eq!((found.memory_mib(), found.vcpus()), (64, 1));
    publish(&path);
    assert!(remove(&path).unwrap());
    assert!(!remove(&path).unwrap());
    assert!(Template::open(&path).unwrap().is_none());
}

#[test]
fn a_cut_damaged_foreign_or_open_template_is_refused_and_the_reason_said() {
    let (_folder, path) = template();
    let memory = File::options().write(true).open(path.join(MEMORY)).unwrap();
    memory.set_len((64 << 20) - 4096).unwrap();
    assert!(refusal(&path).contains("memory file has 67104768 bytes in place of 67108864"));
    memory.set_len(64 << 20).unwrap();
    assert!(Template::open(&path).is_ok());

    let mode = |bits| fs::set_permissions(path.join(MEMORY), fs::Permissions::from_mode(bits));
    mode(0o644).unwrap();
    assert!(refusal(&path).contains("not this user's alone"));
    mode(0o600).unwrap();

    let state = path.join(STATE);
    let good = fs::read(&state).unwrap();
    let put = |bytes: &[u8]| fs::write(&state, bytes).unwrap();
    put(&good[..good.len() - 1]);
    assert!(refusal(&path).contains("damaged"));
    let text = String::from_utf8(good.clone()).unwrap();
    put(text
        .replacen("\"version\":1", "\"version\":77", 1)
        .as_bytes());
    assert!(refusal(&path).contains("it is of version 77, and this program's are of version 1"));
    put(b"");
    assert!(refusal(&path).contains("no template's"));
    put(&vec![b'x'; MAX_BYTES as usize + 1]);
    assert!(refusal(&path).contains("too long"));
    put(&good);
    assert!(Template::open(&path).is_ok());

    fs::remove_file(path.join(MEMORY)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path.join(MEMORY)).unwrap();
    assert!(refusal(&path).contains("cannot be opened"));
}
