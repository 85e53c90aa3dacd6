//! Sessions with an agent that is not to be trusted: the test plays the guest, a sleeping process the monitor.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use guest_protocol::{
    Exited, Failed, FailureKind, GuestConfig, Hello, ImageDisk, Process as GuestProcess, Started,
    Status, Stream, ToHost, VERSION, WINDOW,
};

use super::{Options, Session, SessionError, Stdio, host_time};
use crate::process::Process;
use crate::{End, Ending, MicroVm};

struct Said;

impl Ending for Said {
    fn end(&mut self, status: ExitStatus) -> End {
        End::from_status(status)
    }
}

/// A machine with this program as its monitor, and the guest's end of its control channel.
#[expect(clippy::zombie_processes, reason = "the machine reaps its monitor")]
fn machine(program: &[&str]) -> (MicroVm, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(program[0])
        .args(&program[1..])
        .spawn()
        .unwrap();
    let process = Process::adopt(i32::try_from(child.id()).unwrap()).unwrap();
    (
        MicroVm::new(process, ours, Vec::new(), Box::new(Said)),
        theirs,
    )
}

fn sleeping() -> (MicroVm, UnixStream) {
    machine(&["/bin/sleep", "1000"])
}

fn frame(message: &ToHost<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn hello() -> Vec<u8> {
    frame(&ToHost::Hello(Hello {
        version: VERSION,
        entered_ns: 1,
        now_ns: 2,
    }))
}

fn started() -> Vec<u8> {
    frame(&ToHost::Started(Started {
        pid: 2,
        prepared_ns: 3,
        now_ns: 4,
    }))
}

fn exited(code: u8) -> Vec<u8> {
    frame(&ToHost::Exited(Exited {
        status: Status::Code(code),
        oom_killed: false,
        peak_memory_bytes: 0,
        ended_ns: 5,
        now_ns: 6,
    }))
}

fn config() -> GuestConfig {
    GuestConfig {
        hostname: "h".into(),
        image: ImageDisk {
            device: "/dev/vda".into(),
            layers: Vec::new(),
        },
        writable: None,
        read_only_rootfs: false,
        shares: Vec::new(),
        mounts: Vec::new(),
        files: Vec::new(),
        shm_bytes: 0,
        process: GuestProcess {
            args: vec!["true".into()],
            env: Vec::new(),
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            umask: 0,
            terminal: None,
            stdin: false,
            rlimits: Vec::new(),
            no_new_privileges: false,
            capabilities: None,
        },
        realtime_ns: 0,
        entropy: Vec::new(),
    }
}

/// Holds a whole session with a guest that says these bytes, whatever it is told; gives what came of it and its stdout.
fn hold(script: Vec<Vec<u8>>) -> (Result<u8, SessionError>, Vec<u8>) {
    let (mut vm, mut guest) = sleeping();
    let player = thread::spawn(move || {
        for piece in script {
            if guest.write_all(&piece).is_err() {
                break;
            }
        }
        // Stays open, so that nothing but what was said ends the session.
        let mut rest = Vec::new();
        let _ = guest.read_to_end(&mut rest);
    });
    let (mut reader, writer) = std::io::pipe().unwrap();
    let collector = thread::spawn(move || {
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        seen
    });
    let outcome = (|| {
        let mut session = Session::connect(&mut vm, Options::new(Duration::from_secs(20)))?;
        session.start(config())?;
        let stdio = Stdio {
            stdin: None,
            stdout: writer.as_fd(),
            stderr: writer.as_fd(),
        };
        session.run(&stdio).map(|exit| exit.code())
    })();
    drop(writer);
    drop(vm);
    player.join().unwrap();
    (outcome, collector.join().unwrap())
}

#[test]
fn output_that_came_before_the_exit_is_all_written_though_it_is_much() {
    let mut script = vec![hello(), started()];
    let piece = vec![b'x'; 30_000];
    for _ in 0..8 {
        script.push(frame(&ToHost::Output(Stream::Stdout, &piece)));
    }
    script.push(exited(3));
    let (outcome, seen) = hold(script);
    assert_eq!(outcome.unwrap(), 3);
    assert_eq!(seen.len(), 240_000);
}

#[test]
fn a_guest_that_sends_more_than_it_was_granted_is_cut_off() {
    // The pipe takes 64 KiB and nobody reads it.
    let (mut vm, mut guest) = sleeping();
    guest.write_all(&[hello(), started()].concat()).unwrap();
    let flood = thread::spawn(move || {
        let piece = frame(&ToHost::Output(Stream::Stdout, &[0; 32_000]));
        let mut sent = 0;
        while guest.write_all(&piece).is_ok() && sent < 100 * WINDOW as usize {
            sent += piece.len();
        }
        sent
    });
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut session = Session::connect(&mut vm, Options::new(Duration::from_secs(20))).unwrap();
    session.start(config()).unwrap();
    let stdio = Stdio {
        stdin: None,
        stdout: writer.as_fd(),
        stderr: writer.as_fd(),
    };
    let error = session.run(&stdio).unwrap_err();
    assert!(matches!(error, SessionError::Flood), "{error}");
    drop(vm);
    assert!(flood.join().unwrap() < 10 * WINDOW as usize);
}

#[test]
fn garbage_wrong_versions_and_messages_out_of_place_are_errors_with_a_sentence() {
    let text = |script| hold(script).0.unwrap_err().to_string();
    assert!(text(vec![vec![0xff; 64]]).contains("broke the protocol"));
    assert!(text(vec![vec![0; 64]]).contains("a frame of no bytes"));
    let other = Hello {
        version: VERSION + 1,
        entered_ns: 0,
        now_ns: 0,
    };
    assert!(text(vec![frame(&ToHost::Hello(other))]).contains("speaks version"));
    assert!(text(vec![started()]).contains("it sent Started before Hello"));
    assert!(text(vec![hello(), exited(0)]).contains("it sent Exited before Started"));
    assert!(
        text(vec![hello(), started(), hello()]).contains("it sent Hello while the process ran")
    );
    assert!(text(vec![hello(), vec![3, 0, 0, 0, 99, 1, 2]]).contains("unknown kind 99"));
    assert!(text(vec![hello(), vec![3, 0, 0, 0, 66, b'{', b'}']]).contains("malformed Started"));
}

#[test]
fn a_failure_keeps_its_kind_and_its_text_is_escaped() {
    let failed = ToHost::Failed(Failed {
        kind: FailureKind::NotFound,
        message: "no \x1b[31mred".into(),
    });
    match hold(vec![hello(), frame(&failed)]).0.unwrap_err() {
        SessionError::Failed {
            kind: FailureKind::NotFound,
            message,
        } => assert_eq!(message, "no \\u{1b}[31mred"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_machine_that_ends_is_noticed_at_once_and_its_console_is_shown() {
    let (mut vm, _guest) = machine(&["/bin/sh", "-c", "exit 9"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    std::fs::write(&path, "Kernel panic - not syncing\n").unwrap();
    let console = std::fs::File::open(path).unwrap();
    let mut options = Options::new(Duration::from_secs(60));
    options.console = Some(&console);
    let begun = Instant::now();
    let error = Session::connect(&mut vm, options).err().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "long before the limit"
    );
    let text = error.to_string();
    assert!(
        matches!(
            error,
            SessionError::Ended {
                end: End::Exited(9),
                ..
            }
        ),
        "{text}"
    );
    assert!(
        text.ends_with("guest console: Kernel panic - not syncing"),
        "{text}"
    );
}

#[test]
fn what_the_guest_said_before_its_machine_ended_counts() {
    let (mut vm, mut guest) = machine(&["/bin/true"]);
    guest
        .write_all(&[hello(), started(), exited(4)].concat())
        .unwrap();
    drop(guest);
    let mut session = Session::connect(&mut vm, Options::new(Duration::from_secs(20))).unwrap();
    session.start(config()).unwrap();
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    let stdio = Stdio {
        stdin: None,
        stdout: null.as_fd(),
        stderr: null.as_fd(),
    };
    assert_eq!(session.run(&stdio).unwrap().code(), 4);
}

#[test]
fn a_guest_that_never_answers_is_too_late() {
    let (mut vm, _guest) = sleeping();
    let error = Session::connect(&mut vm, Options::new(Duration::from_millis(50)))
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with("the guest did not boot within 0.05 s"),
        "{error}"
    );
}

#[test]
fn a_channel_that_closes_under_a_living_machine_is_an_error() {
    let (mut vm, guest) = sleeping();
    drop(guest);
    let error = Session::connect(&mut vm, Options::new(Duration::from_secs(20)))
        .err()
        .unwrap();
    assert!(matches!(error, SessionError::Closed { .. }), "{error}");
}

#[test]
fn a_guests_moment_is_as_long_ago_as_the_guest_says() {
    assert_eq!(host_time(1000, 500, 300), 800);
}

#[test]
fn a_guest_that_lies_about_time_gets_a_time_in_bounds() {
    assert_eq!(host_time(1000, 300, 500), 1000);
    assert_eq!(host_time(1000, u64::MAX, 0), 0);
}
