//! What goes wrong with a machine, on this host's KVM: each ends it, with a sentence that says what it was, and nothing
//! stays.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::tests::{Guest, SPIN, guest, say};
use super::*;
use crate::End;
use crate::session::{Guest as Session, Options, SessionError};

/// `ud2`, with no table of handlers.
const TRIPLE_FAULT: &[u8] = b"\x0f\x0b";

/// Waits for the guest's agent, and gives the reason why there is none; by then the monitor is gone.
fn refusal(guest: &Guest, limit: Duration) -> SessionError {
    let vm = guest.launch();
    let process = format!("/proc/{}", vm.pid());
    let mut options = Options::new(limit);
    options.console = Some(File::open(guest.path("console")).unwrap());
    let error = Session::connect(vm, options).err().unwrap();
    assert!(!Path::new(&process).exists(), "{error}");
    error
}

#[test]
fn a_triple_fault_before_the_agent_is_told_with_the_consoles_last_lines() {
    let code = [&say(b"so far\nso good"), TRIPLE_FAULT].concat();
    let Some(guest) = guest(&code) else { return };
    let said = refusal(&guest, Duration::from_secs(60)).to_string();
    assert!(
        said.contains("triple fault of the guest on vCPU 0"),
        "{said}"
    );
    assert!(
        said.ends_with("\n  guest console: so far\n  guest console: so good"),
        "{said}"
    );
}

#[test]
fn a_guest_that_spins_before_the_agent_is_ended_when_its_time_is_up() {
    let Some(guest) = guest(&[&say(b"spinning\n"), SPIN].concat()) else {
        return;
    };
    let error = refusal(&guest, Duration::from_millis(500));
    assert!(matches!(error, SessionError::TooLate { .. }), "{error}");
    assert!(error.to_string().contains("spinning"), "{error}");
}

#[test]
fn a_guest_that_halts_for_ever_is_ended_when_its_time_is_up() {
    // cli; hlt; jmp -3
    let Some(guest) = guest(b"\xfa\xf4\xeb\xfd") else {
        return;
    };
    let error = refusal(&guest, Duration::from_millis(500));
    assert!(matches!(error, SessionError::TooLate { .. }), "{error}");
}

/// Cuts a file of a machine that reads its memory for ever, and gives the machine's end.
fn cut(guest: &Guest, name: &str) -> End {
    let mut vm = guest.launch();
    assert_eq!(vm.wait_for(Some(Duration::from_millis(50))).unwrap(), None);
    File::options()
        .write(true)
        .open(guest.path(name))
        .unwrap()
        .set_len(0)
        .unwrap();
    vm.wait_for(Some(Duration::from_secs(60)))
        .unwrap()
        .expect("a machine without its memory ends")
}

#[test]
fn a_kernels_file_that_is_cut_under_its_guest_ends_it() {
    // mov al, [AT+0x2000]; jmp -7
    let mut code = b"\xa0".to_vec();
    code.extend((super::tests::AT as u32 + 0x2000).to_le_bytes());
    code.extend(b"\xeb\xf9");
    code.resize(0x4000, 0x90);
    let Some(guest) = guest(&code) else { return };
    let end = cut(&guest, "kernel");
    assert!(!end.is_orderly(), "{end}");
    let said = end.to_string();
    // KVM says it, or the monitor meets it itself: that depends on what KVM is.
    assert!(said.contains("cut"), "{said}");
}

#[test]
fn a_disks_file_that_is_cut_gives_the_guest_an_error_and_not_the_host() {
    use crate::devices::virtio::blk::Disk;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = Disk::writable(file.path()).unwrap();
    file.as_file().set_len(512).unwrap();
    let mut sector = [1u8; 512];
    file.as_file().read_exact_at(&mut sector, 0).unwrap();
    let mut vectors = vec![libc::iovec {
        iov_base: sector.as_mut_ptr().cast(),
        iov_len: sector.len(),
    }];
    assert!(disk.read(512, 512, &mut vectors).is_err());
}

#[test]
fn a_guest_for_whose_memory_there_is_no_room_is_refused() {
    /// Set in the process that has little room.
    const ALONE: &str = "PLIMSOLL_TEST_NO_ROOM";
    let Some(mut guest) = guest(SPIN) else { return };
    if std::env::var_os(ALONE).is_none() {
        let name = "kvm::faults::a_guest_for_whose_memory_there_is_no_room_is_refused";
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
        return;
    }
    let limit = libc::rlimit {
        rlim_cur: 1 << 30,
        rlim_max: 1 << 30,
    };
    // SAFETY: the kernel reads one rlimit; this process is this test's.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    guest.config.memory_mib = 8 << 10;
    let said = Kvm.launch(&guest.config).err().unwrap().to_string();
    assert!(said.contains("the guest's memory"), "{said}");
    assert!(said.contains("allocate memory"), "{said}");
}
