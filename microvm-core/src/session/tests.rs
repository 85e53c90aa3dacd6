//! Sessions with an agent that is not to be trusted: the test plays the guest, a sleeping process the monitor.

mod play;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use guest_protocol::{
    Decoder, Failed, FailureKind, Hello, MAIN, MAX_PROCESSES, MAX_TO_GUEST, Prepared, ToGuest,
    ToHost, VERSION, WINDOW,
};

use super::{ExecRequest, Guest, Handle, Interrupt, Main, Options, SessionError, host_time};
use crate::End;

use play::{
    Player, config, exited, frame, hello, hold, machine, options, output, readable, request,
    running, sleeping, started, to, to_nowhere,
};

#[test]
fn output_that_came_before_the_exit_is_all_written_though_it_is_much() {
    let mut script = vec![hello(), started(MAIN)];
    let piece = vec![b'x'; 30_000];
    for _ in 0..8 {
        script.push(output(MAIN, &piece));
    }
    script.push(exited(MAIN, 3));
    let (outcome, seen) = hold(script);
    assert_eq!(outcome.unwrap(), 3);
    assert_eq!(seen.len(), 240_000);
}

#[test]
fn a_guest_that_sends_more_than_it_was_granted_is_cut_off() {
    // The pipe takes 64 KiB and nobody reads it.
    let (_reader, writer) = std::io::pipe().unwrap();
    let (_, main, player) = running(to(&writer));
    let mut guest = player.guest;
    let flood = thread::spawn(move || {
        let piece = output(MAIN, &[0; 32_000]);
        let mut sent = 0;
        while guest.write_all(&piece).is_ok() && sent < 100 * WINDOW as usize {
            sent += piece.len();
        }
        sent
    });
    let error = main.wait().unwrap_err();
    assert!(matches!(error, SessionError::Flood), "{error}");
    assert!(readable(&main.ended()));
    drop(main);
    assert!(flood.join().unwrap() < 10 * WINDOW as usize);
}

#[test]
fn garbage_wrong_versions_and_messages_out_of_place_are_errors_with_a_sentence() {
    let text = |script| hold(script).0.unwrap_err().to_string();
    let running = || [hello(), started(MAIN)].concat();
    assert!(text(vec![vec![0xff; 64]]).contains("broke the protocol"));
    assert!(text(vec![vec![0; 64]]).contains("a frame of 0 bytes"));
    let other = Hello {
        version: VERSION + 1,
        entered_ns: 0,
        now_ns: 0,
    };
    assert!(text(vec![frame(&ToHost::Hello(other))]).contains("speaks version"));
    assert!(text(vec![started(MAIN)]).contains("it sent Started before Hello"));
    assert!(text(vec![hello(), started(1)]).contains("it sent Started before Started"));
    assert!(text(vec![hello(), exited(MAIN, 0)]).contains("it sent Exited before Started"));
    let prepared = frame(&ToHost::Prepared(Prepared { now_ns: 0 }));
    assert!(text(vec![hello(), prepared]).contains("it sent Prepared before Started"));
    assert!(text(vec![running(), hello()]).contains("it sent Hello while the machine ran"));
    assert!(text(vec![hello(), vec![5, 0, 0, 0, 99, 0, 0, 0, 0]]).contains("unknown kind 99"));
    let nothing = vec![7, 0, 0, 0, 66, 0, 0, 0, 0, b'{', b'}'];
    assert!(text(vec![hello(), nothing]).contains("malformed Started"));
    for nobody in [
        started(MAIN),
        started(7),
        output(7, b"x"),
        exited(7, 0),
        frame(&ToHost::StdinCredit(7, 1)),
        frame(&ToHost::StdinClosed(7)),
    ] {
        let said = text(vec![running(), nobody]);
        assert!(said.contains("which does not run"), "{said}");
    }
}

#[test]
fn a_process_beside_the_main_one_has_its_own_streams_and_end() {
    let (mut main_reader, writer) = std::io::pipe().unwrap();
    let (handle, main, mut player) = running(to(&writer));
    drop(writer);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let asked = thread::spawn({
        let handle = handle.clone();
        let stdio = to(&writer);
        move || handle.exec(request(), stdio).unwrap()
    });
    drop(writer);
    let channel = player.hear_exec();
    assert_ne!(channel, MAIN);
    player.say(
        &[
            started(channel),
            output(channel, b"beside"),
            output(MAIN, b"main"),
        ]
        .concat(),
    );
    let exec = asked.join().unwrap();
    assert_eq!(exec.id(), channel);
    exec.signal(15);
    exec.resize(4, 5);
    let signal = player.hear(|message| match message {
        ToGuest::Signal(to, signal) => Some((to, signal)),
        _ => None,
    });
    assert_eq!(signal, (channel, 15));
    assert!(!readable(&exec.ended()));
    player.say(&exited(channel, 9));
    assert_eq!(exec.wait().unwrap().code(), 9);
    assert!(readable(&exec.ended()));
    assert!(!readable(&main.ended()));
    // What is meant for one that has ended goes nowhere and harms nothing.
    exec.signal(9);
    player.say(&exited(MAIN, 0));
    assert_eq!(main.wait().unwrap().code(), 0);
    drop(main);
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "beside");
    seen.clear();
    main_reader.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "main");
}

#[test]
fn a_process_that_cannot_be_started_fails_alone() {
    let (handle, main, mut player) = running(to_nowhere());
    let asked = thread::spawn(move || handle.exec(request(), to_nowhere()).err().unwrap());
    let channel = player.hear_exec();
    let failed = Failed {
        kind: FailureKind::NotExecutable,
        message: "no".into(),
    };
    player.say(&frame(&ToHost::Failed(channel, failed)));
    match asked.join().unwrap() {
        SessionError::Failed { kind, .. } => assert_eq!(kind, FailureKind::NotExecutable),
        other => panic!("{other}"),
    }
    player.say(&exited(MAIN, 5));
    assert_eq!(main.wait().unwrap().code(), 5);
}

#[test]
fn a_process_speaks_neither_before_it_was_started_nor_after_its_end() {
    for (early, late) in [(true, false), (false, true)] {
        let (handle, main, mut player) = running(to_nowhere());
        let asked = thread::spawn(move || handle.exec(request(), to_nowhere()));
        let channel = player.hear_exec();
        if early {
            player.say(&output(channel, b"x"));
        }
        if late {
            player.say(&[started(channel), exited(channel, 0), output(channel, b"x")].concat());
        }
        let error = main.wait().unwrap_err();
        assert!(matches!(error, SessionError::Unknown { .. }), "{error}");
        assert_eq!(asked.join().unwrap().is_ok(), late);
    }
}

#[test]
fn a_process_that_starts_too_late_is_killed() {
    let (vm, guest) = sleeping();
    let mut player = Player {
        guest,
        decoder: Decoder::new(MAX_TO_GUEST),
    };
    player.say(&[hello(), started(MAIN)].concat());
    let (handle, _main) = Guest::connect(vm, Options::new(Duration::from_millis(300)))
        .unwrap()
        .start(config(), to_nowhere())
        .unwrap();
    let asked = thread::spawn(move || handle.exec(request(), to_nowhere()).err().unwrap());
    let channel = player.hear_exec();
    let error = asked.join().unwrap();
    assert!(matches!(error, SessionError::TooLate { .. }), "{error}");
    player.say(&started(channel));
    let signal = player.hear(|message| match message {
        ToGuest::Signal(to, signal) => Some((to, signal)),
        _ => None,
    });
    assert_eq!(signal, (channel, 9));
}

#[test]
fn handles_go_to_any_thread() {
    fn any_thread<T: Send + Sync>() {}
    any_thread::<Handle>();
    any_thread::<Main>();
    any_thread::<super::Exec>();
}

#[test]
fn the_main_processs_end_is_everybodys() {
    let (handle, main, mut player) = running(to_nowhere());
    let first = thread::spawn({
        let handle = handle.clone();
        move || handle.exec(request(), to_nowhere()).unwrap()
    });
    let channel = player.hear_exec();
    player.say(&started(channel));
    let first = first.join().unwrap();
    let second = thread::spawn({
        let handle = handle.clone();
        move || handle.exec(request(), to_nowhere())
    });
    player.hear_exec();
    player.say(&exited(MAIN, 0));
    assert_eq!(first.wait().unwrap().code(), 137);
    assert!(matches!(
        second.join().unwrap().err(),
        Some(SessionError::Over)
    ));
    main.wait().unwrap();
    main.finish().unwrap();
    assert!(matches!(
        handle.exec(request(), to_nowhere()).err(),
        Some(SessionError::Over)
    ));
}

#[test]
fn a_reader_that_is_stuck_keeps_the_machine_no_longer_than_a_moment() {
    let (handle, main, mut player) = running(to_nowhere());
    let (_reader, writer) = std::io::pipe().unwrap();
    let asked = thread::spawn(move || handle.exec(request(), to(&writer)).unwrap());
    let channel = player.hear_exec();
    player.say(&started(channel));
    let exec = asked.join().unwrap();
    for _ in 0..8 {
        player.say(&output(channel, &[0; 30_000]));
    }
    player.say(&[exited(channel, 0), exited(MAIN, 0)].concat());
    assert_eq!(main.wait().unwrap().code(), 0);
    main.finish().unwrap();
    assert_eq!(exec.wait().unwrap().code(), 0);
}

#[test]
fn there_are_no_more_processes_than_there_may_be() {
    let (handle, _main, mut player) = running(to_nowhere());
    let mut asked = Vec::new();
    for _ in 1..MAX_PROCESSES {
        let handle = handle.clone();
        asked.push(thread::spawn(move || {
            handle.exec(request(), to_nowhere()).map(drop)
        }));
        let channel = player.hear_exec();
        player.say(&started(channel));
    }
    for one in asked {
        one.join().unwrap().unwrap();
    }
    let error = handle.exec(request(), to_nowhere()).err().unwrap();
    assert!(matches!(error, SessionError::TooMany), "{error}");
}

#[test]
fn a_program_is_sent_once_and_whole_before_what_runs_it() {
    static PROGRAM: [u8; 100_000] = [7; 100_000];
    let (handle, _main, mut player) = running(to_nowhere());
    for round in 0..2 {
        let asked = thread::spawn({
            let handle = handle.clone();
            move || {
                let request = ExecRequest {
                    program: Some(&PROGRAM),
                    ..request()
                };
                handle.exec(request, to_nowhere()).map(drop)
            }
        });
        let mut sent = 0;
        let channel = player.hear(|message| match message {
            ToGuest::Program(0, bytes) => {
                sent += bytes.len();
                None
            }
            ToGuest::Exec(channel, exec) => {
                assert_eq!(exec.program, Some(0));
                Some(channel)
            }
            _ => None,
        });
        assert_eq!(sent, if round == 0 { PROGRAM.len() } else { 0 });
        player.say(&[started(channel), exited(channel, 0)].concat());
        asked.join().unwrap().unwrap();
    }
}

#[test]
fn work_without_a_main_process_ends_when_it_is_told_to() {
    let (vm, guest) = sleeping();
    let mut player = Player {
        guest,
        decoder: Decoder::new(MAX_TO_GUEST),
    };
    let prepared = frame(&ToHost::Prepared(Prepared { now_ns: 0 }));
    player.say(&[hello(), prepared].concat());
    let (handle, main) = Guest::connect(vm, options())
        .unwrap()
        .maintain(config())
        .unwrap();
    handle.shutdown();
    player.hear(|message| matches!(message, ToGuest::Shutdown).then_some(()));
    assert!(!readable(&main.ended()));
    player.say(&exited(MAIN, 0));
    assert_eq!(main.wait().unwrap().code(), 0);
}

#[test]
fn dropping_the_main_process_ends_the_machine() {
    let (handle, main, _player) = running(to_nowhere());
    drop(main);
    // SAFETY: signal 0 asks only whether there is such a process.
    assert_ne!(unsafe { libc::kill(handle.pid(), 0) }, 0);
}

/// Gives a start up when it is told to.
struct Told(std::io::PipeReader);

impl Interrupt for Told {
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn stops(&mut self) -> bool {
        let mut word = [0];
        self.0.read_exact(&mut word).unwrap();
        word == *b"!"
    }
}

#[test]
fn a_start_can_be_given_up() {
    let (vm, _guest) = sleeping();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"?!").unwrap();
    let mut told = Told(reader);
    let error = Guest::connect(
        vm,
        Options {
            interrupt: Some(&mut told),
            ..options()
        },
    )
    .err()
    .unwrap();
    assert!(matches!(error, SessionError::Abandoned), "{error}");
}

#[test]
fn a_failure_keeps_its_kind_and_its_text_is_escaped() {
    let failed = Failed {
        kind: FailureKind::NotFound,
        message: "no \x1b[31mred".into(),
    };
    match hold(vec![hello(), frame(&ToHost::Failed(MAIN, failed))])
        .0
        .unwrap_err()
    {
        SessionError::Failed {
            kind: FailureKind::NotFound,
            message,
        } => assert_eq!(message, "no \\u{1b}[31mred"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_machine_that_ends_is_noticed_at_once_and_its_console_is_shown() {
    let (vm, _guest) = machine(&["/bin/sh", "-c", "exit 9"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    std::fs::write(&path, "Kernel panic - not syncing\n").unwrap();
    let console = std::fs::File::open(path).unwrap();
    let mut options = Options::new(Duration::from_secs(60));
    options.console = Some(console);
    let begun = Instant::now();
    let error = Guest::connect(vm, options).err().unwrap();
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
    let (vm, mut guest) = machine(&["/bin/true"]);
    guest
        .write_all(&[hello(), started(MAIN), exited(MAIN, 4)].concat())
        .unwrap();
    drop(guest);
    let (_, main) = Guest::connect(vm, options())
        .unwrap()
        .start(config(), to_nowhere())
        .unwrap();
    assert_eq!(main.wait().unwrap().code(), 4);
}

#[test]
fn a_guest_that_never_answers_is_too_late() {
    let (vm, _guest) = sleeping();
    let error = Guest::connect(vm, Options::new(Duration::from_millis(50)))
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
    let (vm, guest) = sleeping();
    drop(guest);
    let error = Guest::connect(vm, Options::new(Duration::from_secs(20)))
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
