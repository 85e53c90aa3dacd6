//! The pump with real processes on the test's own machine. The main process is one like the others here: no PID namespace ends
//! with it, and nothing is mounted.
//!
//! No test runs without a main process: Shutdown kills everybody else on the machine then.

use super::*;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use core::time::Duration;
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use guest_protocol::{
    Decoder, Exited, MAX_DATA, MAX_TO_HOST, Process, Status, Stream, WINDOW, WindowSize,
};

use crate::sys::Fd;

/// What the agent has said.
#[derive(Debug, PartialEq)]
enum Said {
    Started(Number),
    Output(Number, Vec<u8>),
    Credit(Number),
    Exited(Number, Status),
    Failed(Number, String),
    Other,
}

/// The host's side.
struct Host {
    stream: UnixStream,
    decoder: Decoder,
    agent: JoinHandle<Result<Exited, String>>,
}

fn sh(script: &str) -> Process {
    Process {
        args: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: vec!["PATH=/usr/bin:/bin".into()],
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        additional_gids: vec![],
        umask: 0o22,
        terminal: None,
        stdin: true,
        rlimits: vec![],
        no_new_privileges: false,
        capabilities: None,
    }
}

impl Host {
    /// Has a main process run and be carried on.
    fn with(main: Process) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let port = Fd::own(theirs.into_raw_fd() as usize);
        let agent = thread::spawn(move || {
            let role = Role::Further {
                program: None,
                upper: None,
            };
            let (launched, _) = launch::launch(&main, role).map_err(|failure| failure.message)?;
            let (mut channel, root) = (Channel::over(port), Root::default());
            Pump::new(&mut channel, &root, Some(launched))
                .run()
                .map(|end| end.now())
                .map_err(|failure| failure.message)
        });
        // A test that waits in vain fails.
        ours.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream: ours,
            decoder: Decoder::new(MAX_TO_HOST),
            agent,
        }
    }

    fn say(&mut self, message: &ToGuest<'_>) {
        let mut out = Vec::new();
        message.encode(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn exec(&mut self, number: Number, process: Process) {
        let exec = Exec {
            process,
            program: None,
            upper: false,
        };
        self.say(&ToGuest::Exec(number, Box::new(exec)));
    }

    fn hear(&mut self) -> Said {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return match ToHost::parse(&frame).unwrap() {
                    ToHost::Started(number, _) => Said::Started(number),
                    ToHost::Output(number, _, bytes) => Said::Output(number, bytes.to_vec()),
                    ToHost::StdinCredit(number, _) => Said::Credit(number),
                    ToHost::Exited(number, exited) => Said::Exited(number, exited.status),
                    ToHost::Failed(number, failed) => Said::Failed(number, failed.message),
                    _ => Said::Other,
                };
            }
            let count = self.stream.read(self.decoder.space()).unwrap();
            assert!(count > 0, "the agent has hung up");
            self.decoder.received(count);
        }
    }

    /// All that a process says until its end, and how it ended.
    fn hear_end(&mut self, number: Number) -> (Vec<u8>, Status) {
        let mut output = Vec::new();
        loop {
            match self.hear() {
                Said::Output(from, bytes) if from == number => output.extend_from_slice(&bytes),
                Said::Exited(from, status) if from == number => return (output, status),
                _ => {}
            }
        }
    }

    fn main_end(self) -> Result<Status, String> {
        self.agent.join().unwrap().map(|exited| exited.status)
    }
}

#[test]
fn processes_have_their_own_stdin_output_and_end() {
    let mut host = Host::with(sh("cat; exit 3"));
    host.exec(5, sh("read line; echo got $line; exit 4"));
    assert_eq!(host.hear(), Said::Started(5));
    host.say(&ToGuest::Stdin(5, b"this\n"));
    assert_eq!(host.hear_end(5), (b"got this\n".to_vec(), Status::Code(4)));
    host.say(&ToGuest::Stdin(MAIN, b"main"));
    host.say(&ToGuest::StdinEof(MAIN));
    assert_eq!(host.hear(), Said::Output(MAIN, b"main".to_vec()));
    assert_eq!(host.main_end(), Ok(Status::Code(3)));
}

#[test]
fn what_is_meant_for_nobody_is_passed_over() {
    let mut host = Host::with(sh("read line; exit 7"));
    for number in [9, u32::MAX] {
        host.say(&ToGuest::Stdin(number, b"x"));
        host.say(&ToGuest::StdinEof(number));
        host.say(&ToGuest::Signal(number, 9));
        host.say(&ToGuest::OutputCredit(number, Stream::Stdout, u32::MAX));
        host.say(&ToGuest::OutputClosed(number, Stream::Stderr));
        let size = WindowSize {
            rows: 1,
            columns: 1,
        };
        host.say(&ToGuest::Resize(number, size));
    }
    // Neither an unknown signal nor a size without a terminal is an end.
    host.say(&ToGuest::Signal(MAIN, 250));
    host.say(&ToGuest::StdinEof(MAIN));
    assert_eq!(host.main_end(), Ok(Status::Code(7)));
}

#[test]
fn more_stdin_than_was_granted_ends_it_all() {
    let mut host = Host::with(sh("exec sleep 5"));
    let piece = vec![0; MAX_DATA];
    let mut message = Vec::new();
    // A pipe's 64 KiB are taken from the agent, and not counted until half a window is.
    for _ in 0..(2 * WINDOW as usize / MAX_DATA) {
        ToGuest::Stdin(MAIN, &piece).encode(&mut message);
    }
    // The agent may hang up in the middle.
    let _ = host.stream.write_all(&message);
    let error = host.main_end().unwrap_err();
    assert!(
        error.contains("more stdin than there is room for"),
        "{error}"
    );
}

#[test]
fn output_stands_still_without_credit_and_others_pass() {
    let mut host = Host::with(sh("exec yes"));
    let mut seen = 0;
    while seen < WINDOW as usize {
        if let Said::Output(MAIN, bytes) = host.hear() {
            seen += bytes.len();
        }
    }
    assert_eq!(seen, WINDOW as usize);
    host.exec(1, sh("echo passes"));
    assert_eq!(host.hear(), Said::Started(1));
    assert_eq!(host.hear(), Said::Output(1, b"passes\n".to_vec()));
    assert_eq!(host.hear(), Said::Exited(1, Status::Code(0)));
    host.say(&ToGuest::OutputCredit(MAIN, Stream::Stdout, 10));
    match host.hear() {
        Said::Output(MAIN, bytes) => assert_eq!(bytes.len(), 10),
        other => panic!("{other:?}"),
    }
    host.say(&ToGuest::Shutdown);
    host.say(&ToGuest::OutputClosed(MAIN, Stream::Stdout));
    assert_eq!(host.main_end(), Ok(Status::Signal(9)));
}

#[test]
fn what_is_left_running_keeps_no_end_waiting() {
    let mut host = Host::with(sh("read line"));
    let script = "(sleep 0.3; head -c 300000 /dev/zero) & echo left";
    host.exec(1, sh(script));
    assert_eq!(host.hear(), Said::Started(1));
    assert_eq!(host.hear_end(1), (b"left\n".to_vec(), Status::Code(0)));
    host.say(&ToGuest::StdinEof(MAIN));
    assert_eq!(host.main_end(), Ok(Status::Code(1)));
}

#[test]
fn a_slow_reader_of_another_processs_output_does_not_keep_the_end_waiting() {
    let mut host = Host::with(sh("read line; exit 2"));
    // The window is full, and a pipe holds the rest.
    host.exec(1, sh("head -c 300000 /dev/zero"));
    let mut seen = 0;
    while seen < WINDOW as usize {
        if let Said::Output(1, bytes) = host.hear() {
            seen += bytes.len();
        }
    }
    host.say(&ToGuest::StdinEof(MAIN));
    assert_eq!(host.hear(), Said::Exited(1, Status::Code(0)));
    assert_eq!(host.main_end(), Ok(Status::Code(2)));
}

#[test]
fn what_cannot_be_run_fails_alone() {
    let mut host = Host::with(sh("read line"));
    let mut lost = sh("true");
    lost.args = vec!["/no/such".into()];
    host.exec(1, lost);
    assert!(matches!(host.hear(), Said::Failed(1, text) if text.contains("/no/such")));
    let unsent = Exec {
        process: sh("true"),
        program: Some(3),
        upper: false,
    };
    host.say(&ToGuest::Exec(2, Box::new(unsent)));
    assert!(matches!(host.hear(), Said::Failed(2, text) if text.contains("no program")));
    let upper = Exec {
        process: sh("true"),
        program: None,
        upper: true,
    };
    host.say(&ToGuest::Exec(3, Box::new(upper)));
    assert!(matches!(host.hear(), Said::Failed(3, text) if text.contains("no writable disk")));
    host.say(&ToGuest::StdinEof(MAIN));
    assert_eq!(host.main_end(), Ok(Status::Code(1)));
}

#[test]
fn there_is_a_limit_to_processes() {
    let mut host = Host::with(sh("exec sleep 60"));
    for number in 1..MAX_PROCESSES as Number {
        host.exec(number, sh("exec cat"));
        assert_eq!(host.hear(), Said::Started(number));
    }
    host.exec(1000, sh("true"));
    assert!(matches!(host.hear(), Said::Failed(1000, text) if text.contains("run already")));
    host.say(&ToGuest::Signal(7, 15));
    assert_eq!(host.hear_end(7).1, Status::Signal(15));
    host.exec(1001, sh("exit 2"));
    assert_eq!(host.hear_end(1001).1, Status::Code(2));
    for number in (1..MAX_PROCESSES as Number).filter(|number| *number != 7) {
        host.say(&ToGuest::StdinEof(number));
    }
    host.say(&ToGuest::Signal(MAIN, 9));
    assert_eq!(host.main_end(), Ok(Status::Signal(9)));
}

#[test]
fn a_program_that_was_sent_along_is_run() {
    let mut host = Host::with(sh("read line"));
    // Any program will do, a dynamic one too.
    let program = std::fs::read("/bin/true").unwrap();
    for piece in program.chunks(MAX_DATA) {
        host.say(&ToGuest::Program(0, piece));
    }
    for number in 1..3 {
        let mut process = sh("");
        process.args = vec!["whatever".into()];
        let exec = Exec {
            process,
            program: Some(0),
            upper: false,
        };
        host.say(&ToGuest::Exec(number, Box::new(exec)));
        assert_eq!(host.hear_end(number).1, Status::Code(0));
    }
    host.say(&ToGuest::StdinEof(MAIN));
    assert_eq!(host.main_end(), Ok(Status::Code(1)));
}

#[test]
fn garbage_from_the_host_ends_it_with_a_sentence() {
    let mut host = Host::with(sh("exec sleep 5"));
    host.stream.write_all(&[0xff; 64]).unwrap();
    let error = host.main_end().unwrap_err();
    assert!(error.contains("the host sent a frame of"), "{error}");
}
