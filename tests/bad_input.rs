//! Whatever is wrong gets one sentence and docker's exit code, and leaves nothing behind.

mod common;

use std::fs;

use common::{Host, guest_kernel, tar_of, which};

#[test]
fn an_image_that_is_not_there_is_named() {
    let host = Host::new();
    host.plimsoll(["run", "--rm", "nowhere/nothing:1", "true"])
        .fails(125, &["nowhere/nothing:1"]);
    host.plimsoll(["rmi", "nowhere/nothing"])
        .fails(1, &["nowhere/nothing"]);
    host.plimsoll(["compare", "nowhere/nothing", "true"])
        .fails(125, &["nowhere/nothing"]);
    assert!(host.leftovers().is_empty());
}

#[test]
fn an_image_name_that_cannot_be_one_is_refused() {
    let host = Host::new();
    for name in ["UPPER", "a b", "../x", "x:y:z", "x@sha256:12"] {
        let said = host.plimsoll(["run", "--rm", name, "true"]);
        said.fails(125, &[]);
    }
}

#[test]
fn flags_that_contradict_the_backend_are_refused_by_name() {
    let host = Host::new();
    let refused = |flags: &[&str], words: &[&str]| {
        host.plimsoll([&["run", "--rm"], flags, &["plimsoll/base", "true"]].concat())
            .fails(125, words);
    };
    refused(
        &["--backend", "vm", "--network", "host"],
        &["--network host", "VM"],
    );
    refused(
        &["--backend", "vm", "--security-opt", "seccomp=unconfined"],
        &["seccomp", "VM"],
    );
    refused(&["--backend", "vm", "-m", "1m"], &["--memory", "64 MiB"]);
    refused(&["--kernel", "/vmlinux"], &["--kernel", "--backend vm"]);
    refused(&["--accel", "tcg"], &["--accel", "--backend vm"]);
    refused(&["--cpus", "0"], &["--cpus"]);
    refused(&["--name", "../etc"], &["../etc"]);
    refused(&["-w", "relative"], &["relative"]);
    refused(&["-u", "ghost"], &["ghost"]);
    refused(
        &["--security-opt", "apparmor=x"],
        &["apparmor=x", "seccomp=unconfined"],
    );
    assert!(host.leftovers().is_empty());
}

#[test]
fn a_flag_that_does_not_exist_gives_dockers_125() {
    let host = Host::new();
    let said = host.plimsoll(["run", "--no-such-flag", "plimsoll/base"]);
    assert_eq!(said.code, Some(125));
    assert!(said.stderr.contains("--no-such-flag"), "{said:?}");
    // docker's code for a command that it does not have.
    assert_eq!(host.plimsoll(["no-such-verb"]).code, Some(1));
    assert_eq!(
        host.plimsoll(["run", "-m", "many", "plimsoll/base"]).code,
        Some(125)
    );
}

#[test]
fn a_file_that_is_no_kernel_is_refused_before_anything_starts() {
    let host = Host::new();
    let truncated = fs::read(guest_kernel())
        .map(|kernel| kernel[..kernel.len() / 3].to_vec())
        .unwrap_or_default();
    let mut foreign = fs::read(common::binary()).unwrap()[..4096].to_vec();
    // e_machine: 183 is AArch64.
    foreign[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let random: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for (what, bytes) in [
        ("truncated", truncated),
        ("foreign", foreign),
        ("random", random),
        ("empty", Vec::new()),
    ] {
        let path = host.scratch().join(what);
        fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        for accel in ["kvm", "tcg"] {
            if accel == "kvm" && !std::path::Path::new("/dev/kvm").exists()
                || accel == "tcg" && which("qemu-system-x86_64").is_none()
            {
                eprintln!("skipped: --accel {accel} is not possible here");
                continue;
            }
            let run = [
                "run",
                "--rm",
                "--backend",
                "vm",
                "--accel",
                accel,
                "--kernel",
                path,
                "plimsoll/base",
                "true",
            ];
            host.plimsoll(run).fails(125, &[path]);
        }
    }
    let Some(vm) = common::vm_ways().pop() else {
        skip!("no VM can be run here");
    };
    let missing = [
        &["run", "--rm"],
        vm.as_slice(),
        &["--kernel", "/nowhere/vmlinux", "plimsoll/base", "true"],
    ];
    host.plimsoll(missing.concat())
        .fails(125, &["/nowhere/vmlinux"]);
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn kvm_that_may_not_be_used_is_a_sentence_that_names_the_mend() {
    // A mount namespace in which /dev/kvm is a plain file, as on a host whose device node is something else.
    let host = Host::new();
    let mut command = std::process::Command::new("unshare");
    let script = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec \"$@\"";
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(common::binary());
    command
        .env("PLIMSOLL_ROOT", host.root())
        .stdin(std::process::Stdio::null());
    command
        .args([
            "run",
            "--rm",
            "--backend",
            "vm",
            "--accel",
            "kvm",
            "--kernel",
        ])
        .arg(guest_kernel());
    command.args(["plimsoll/base", "true"]);
    common::finish(command).fails(125, &["/dev/kvm", "does not exist"]);
}

#[test]
fn archives_that_are_cut_short_or_no_archives_make_no_image() {
    let host = Host::new();
    let archive = tar_of(&[("bin/file", 0o755, &[7; 100_000])]);
    let mut compressed = Vec::new();
    {
        use std::io::Write;
        let mut encoder =
            flate2::write::GzEncoder::new(&mut compressed, flate2::Compression::fast());
        encoder.write_all(&archive).unwrap();
        encoder.finish().unwrap();
    }
    let random: Vec<u8> = (0..50_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for (what, bytes) in [
        ("tar cut short", &archive[..50_000]),
        ("gzip cut short", &compressed[..compressed.len() / 2]),
        ("random bytes", &random),
        ("nothing", &[]),
    ] {
        let said = host.plimsoll_with_input(bytes, &["import", "-", "broken"]);
        assert_eq!(said.code, Some(1), "{what}: {said:?}");
        said.fails(1, &[]);
        host.plimsoll_with_input(bytes, &["load"]).fails(1, &[]);
    }
    let listed = host.plimsoll(["images", "--format", "json"]);
    assert!(!listed.ok().contains("broken"), "{listed:?}");
}

#[test]
fn archives_that_reach_out_of_the_image_touch_nothing() {
    let host = Host::new();
    let canary = host.scratch().join("canary");
    fs::write(&canary, "alive").unwrap();
    let outside = canary.to_str().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    archive
        .append_link(&mut link, "escape", host.scratch())
        .unwrap();
    let mut file = tar::Header::new_gnu();
    file.set_size(4);
    file.set_mode(0o644);
    file.set_cksum();
    archive
        .append_data(&mut file, "escape/canary", &b"dead"[..])
        .unwrap();
    let bytes = archive.into_inner().unwrap();
    // Refused or confined: either is sound, touching the canary is not.
    let said = host.plimsoll_with_input(&bytes, &["import", "-", "hostile"]);
    assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    assert_eq!(fs::read_to_string(outside).unwrap(), "alive");
}

#[test]
fn a_full_disk_is_told_and_leaves_no_half_made_layer() {
    let host = Host::new();
    let archive = tar_of(&[("big", 0o644, &vec![9; 8 << 20])]);
    let path = host.scratch().join("big.tar");
    fs::write(&path, &archive).unwrap();
    let state = host.scratch().join("small");
    fs::create_dir(&state).unwrap();
    let mut command = std::process::Command::new("unshare");
    let script = "mount -t tmpfs -o size=6m none \"$1\" && shift && \"$PLIMSOLL\" --root \"$0\" import \"$1\" big; \
                  code=$?; find \"$0/images/layers\" \"$0/images/blobs\" -type f 2>/dev/null | wc -l; exit $code";
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(&state)
        .arg(&state)
        .arg(&path);
    command
        .env("PLIMSOLL", common::binary())
        .stdin(std::process::Stdio::null());
    let said = common::finish(command);
    said.fails(1, &["space"]);
    assert_eq!(said.stdout.trim(), "0", "{said:?}");
}

#[test]
fn a_result_file_that_is_none_makes_no_report() {
    let host = Host::new();
    let results = host.scratch().join("results.json");
    let out = host.scratch().join("report");
    for content in ["", "{", "{\"kind\":\"other\"}", "[1,2,3]"] {
        fs::write(&results, content).unwrap();
        let said = host.plimsoll([
            "report",
            results.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
        ]);
        said.fails(1, &["results.json"]);
        assert!(!out.exists());
    }
    host.plimsoll(["report", "/nowhere.json", "-o", out.to_str().unwrap()])
        .fails(1, &["/nowhere.json"]);
}
