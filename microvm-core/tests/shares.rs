//! Directories and files of the host in real machines: served by our own monitor on KVM, and by virtiofsd under QEMU.

mod vm;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use microvm_core::session::Status;
use microvm_core::substrate;

use vm::{Machine, kvm, sh, tcg};

/// What a guest is to do with a directory at /data, the same one read-only at /ro, and one file at /etc/one. Each line of
/// its output is of its own, so that what is wrong can be seen. Where it says `ready` the host does its part.
const SCRIPT: &str = r#"
b() { busybox "$@"; }
set -e
cat /data/theirs /etc/one; echo /ro/*
echo ours > /data/ours; echo more >> /data/ours; echo added >> /etc/one
b mkdir -p /data/d/e; b ln -s ../ours /data/d/link; cat /data/d/link
b mv /data/ours /data/d/e/moved; b ln /data/d/e/moved /data/hard
stat -c '%h %a %u %g' /data/hard
b chmod 640 /data/hard; b chown 12:34 /data/hard; b touch -d @1000000000 /data/hard
echo gone > /data/gone; exec 3< /data/gone; rm /data/gone; cat <&3; exec 3<&-
b dd if=/dev/zero of=/data/sparse bs=1 count=1 seek=16777215 2>/dev/null; stat -c '%s' /data/sparse
if echo x > /ro/new; then echo BAD; fi 2>/dev/null; if rm /ro/theirs; then echo BAD; fi 2>/dev/null
if [ "$QUICK" ]; then b cp /bin/busybox /data/busybox; b cmp /bin/busybox /data/busybox; /data/busybox true; fi
if [ -x /data/map ]; then /data/map /data/mapped; else echo mapped and locked; fi
if [ "$LOCKS" ]; then
  /data/map wait /data/held & sleep 0.5; b killall -9 map
  /data/map wait /data/held > /data/waited &
fi
echo ready
while [ ! -e /data/go ]; do sleep 0.05; done
cat /data/theirs; ls /data/made; cat /etc/one
wait; if [ "$LOCKS" ]; then cat /data/waited; fi
echo end > /data/end
"#;

/// Maps a file into memory, shared, and writes to it there and through the file, each of which must be seen on the other
/// side.
const MAP: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count == 3) {
        /* Somebody else has locked it. */
        if (flock(open(words[2], O_RDWR), LOCK_EX)) return 7;
        puts("waited");
        return 0;
    }
    int file = open(words[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (count != 2 || file < 0 || ftruncate(file, 8192)) return 1;
    char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED) return 2;
    memcpy(map + 4090, "by memory", 9);
    char seen[9];
    if (pread(file, seen, 9, 4090) != 9 || memcmp(seen, "by memory", 9)) return 3;
    if (pwrite(file, "by file", 7, 0) != 7 || memcmp(map, "by file", 7)) return 4;
    if (msync(map, 8192, MS_SYNC)) return 5;
    struct flock lock = {.l_type = F_WRLCK};
    if (flock(file, LOCK_EX) || fcntl(file, F_SETLKW, &lock)) return 6;
    puts("mapped and locked");
    return 0;
}
"#;

/// Puts the program that maps into the shared directory, where there is a compiler.
fn build_map(shared: &Path) {
    let source = shared.with_file_name("map.c");
    fs::write(&source, MAP).unwrap();
    let built = Command::new("cc")
        .args(["-static", "-O1", "-mno-avx", "-o"])
        .args([&shared.join("map"), &source])
        .output();
    if !built.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: no C compiler with a static library (packages gcc, libc6-dev), so nothing is mapped shared"
        );
    }
}

fn shared(machine: &mut Machine) -> (PathBuf, PathBuf) {
    let directory = machine.folder.path().join("shared");
    let one = machine.folder.path().join("one");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("theirs"), "theirs\n").unwrap();
    fs::write(&one, "one\n").unwrap();
    machine.shares = vec![
        (directory.clone(), "/data", false),
        (directory.clone(), "/ro", true),
        (one.clone(), "/etc/one", false),
    ];
    (directory, one)
}

/// Runs the script, does the host's part in the middle, and looks at what has become of the files.
/// `quick`: whether a guest's kernel copies two megabytes in less than seconds. `locks`: whether its locks are the host's.
fn run_the_script(machine: &mut Machine, quick: bool, locks: bool) {
    let (directory, one) = shared(machine);
    build_map(&directory);
    let has_map = directory.join("map").exists();
    if quick {
        machine.process.env.push("QUICK=1".into());
    }
    let locks = locks && has_map;
    if locks {
        machine.process.env.push("LOCKS=1".into());
    }
    let held = fs::File::create(directory.join("held")).unwrap();
    held.lock().unwrap();
    machine.process.args = sh(SCRIPT);
    let ran = machine.run_and(&[], "ready\n", |_| {
        // The guest runs, and has written this.
        assert_eq!(
            fs::read_to_string(directory.join("hard")).unwrap(),
            "ours\nmore\n"
        );
        assert_eq!(fs::read_to_string(&one).unwrap(), "one\nadded\n");
        fs::write(directory.join("theirs"), "changed by the host\n").unwrap();
        fs::write(&one, "one, changed\n").unwrap();
        fs::create_dir(directory.join("made")).unwrap();
        fs::write(directory.join("made/inside"), "").unwrap();
        fs::write(directory.join("go"), "").unwrap();
        assert_eq!(fs::read(directory.join("waited")).unwrap_or_default(), b"");
        held.unlock().unwrap();
    });
    let expected = format!(
        "theirs\none\n/ro/held {}/ro/theirs\nours\nmore\n2 644 0 0\ngone\n16777216\nmapped and locked\nready\n\
         changed by the host\ninside\none, changed\n{}",
        if has_map { "/ro/map " } else { "" },
        if locks { "waited\n" } else { "" },
    );
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        expected,
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(ran.exit().status, Status::Code(0));
    let about = fs::metadata(directory.join("d/e/moved")).unwrap();
    assert_eq!(
        (about.nlink(), about.mode() & 0o7777, about.mtime()),
        (2, 0o640, 1_000_000_000)
    );
    assert_eq!((about.uid(), about.gid()), (12, 34));
    assert_eq!(
        fs::read_link(directory.join("d/link")).unwrap(),
        Path::new("../ours")
    );
    let sparse = fs::metadata(directory.join("sparse")).unwrap();
    assert!(
        sparse.len() == 16 << 20 && sparse.blocks() < 1000,
        "{sparse:?}"
    );
    if quick {
        let program = fs::metadata(directory.join("busybox")).unwrap();
        assert_eq!(program.permissions().mode() & 0o777, 0o755);
        assert!(fs::read(directory.join("busybox")).unwrap() == guest_artifacts::BUSYBOX);
    }
    if has_map {
        let mapped = fs::read(directory.join("mapped")).unwrap();
        assert_eq!(
            (&mapped[..7], &mapped[4090..4099]),
            (&b"by file"[..], &b"by memory"[..])
        );
    }
    assert_eq!(fs::read(directory.join("end")).unwrap(), b"end\n");
    assert!(!directory.join("new").exists() && !directory.join("gone").exists());
}

#[test]
fn the_host_and_a_guest_under_tcg_work_on_the_same_files() {
    let Some(mut machine) = tcg() else { return };
    run_the_script(&mut machine, true, false);
}

/// One boot for much: on kvm_pvm it takes many seconds, and so does each command.
#[test]
fn the_host_and_a_guest_on_kvm_work_on_the_same_files() {
    let Some(mut machine) = kvm() else { return };
    run_the_script(&mut machine, substrate().is_hardware(), true);
}

#[test]
fn shares_and_mounts_lie_one_on_another_as_their_paths_say() {
    let Some(mut machine) = tcg() else { return };
    let (directory, _) = shared(&mut machine);
    fs::create_dir(directory.join("inner")).unwrap();
    machine.shares = vec![
        (directory.join("inner"), "/a/tmp/inner", false),
        (directory.clone(), "/a", true),
        (directory.join("theirs"), "/etc/hostname", true),
    ];
    fs::create_dir(directory.join("tmp")).unwrap();
    machine.mounts = vec![guest_protocol::Mount {
        source: "tmpfs".into(),
        target: "/a/tmp".into(),
        filesystem: "tmpfs".into(),
        flags: 0,
        data: String::new(),
    }];
    machine.files = vec![guest_protocol::File {
        path: "/etc/hostname".into(),
        contents: "laid\n".into(),
        mode: 0o644,
    }];
    machine.process.args = sh("echo x > /a/tmp/inner/x; ls /a/tmp /a; cat /etc/hostname; \
         if echo y > /etc/hostname; then echo BAD; fi 2>/dev/null; grep -c virtiofs /proc/mounts");
    let ran = machine.run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "/a:\ninner\ntheirs\ntmp\n\n/a/tmp:\ninner\ntheirs\n3\n",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(fs::read(directory.join("inner/x")).unwrap(), b"x\n");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let folder = machine.folder.path().to_string_lossy().into_owned();
    assert!(
        !mounts.contains(&folder),
        "nothing of it is in the host's mount table"
    );
}
