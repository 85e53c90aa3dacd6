//! A machine to play the guest's side of: what the agent would say, and hearing what it would hear.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use guest_protocol::{
    Decoder, Exited, GuestConfig, Hello, ImageDisk, MAIN, MAX_TO_GUEST, Process as GuestProcess,
    Started, Status, Stream, ToGuest, ToHost, VERSION,
};

use crate::process::Process;
use crate::session::{ExecRequest, Guest, Handle, Main, Options, SessionError, StdioFds};
use crate::{End, Ending, MicroVm};

struct Said;

impl Ending for Said {
    fn end(&mut self, status: ExitStatus) -> End {
        End::from_status(status)
    }
}

/// A machine with this program as its monitor, and the guest's end of its control channel.
#[expect(clippy::zombie_processes, reason = "the machine reaps its monitor")]
pub(super) fn machine(program: &[&str]) -> (MicroVm, UnixStream) {
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

pub(super) fn sleeping() -> (MicroVm, UnixStream) {
    machine(&["/bin/sleep", "1000"])
}

pub(super) fn frame(message: &ToHost<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

pub(super) fn hello() -> Vec<u8> {
    frame(&ToHost::Hello(Hello {
        version: VERSION,
        entered_ns: 1,
        now_ns: 2,
    }))
}

pub(super) fn started(channel: u32) -> Vec<u8> {
    let started = Started {
        pid: 2,
        prepared_ns: 3,
        now_ns: 4,
    };
    frame(&ToHost::Started(channel, started))
}

pub(super) fn exited(channel: u32, code: u8) -> Vec<u8> {
    let exited = Exited {
        status: Status::Code(code),
        oom_killed: false,
        peak_memory_bytes: 0,
        ended_ns: 5,
        now_ns: 6,
    };
    frame(&ToHost::Exited(channel, exited))
}

pub(super) fn output(channel: u32, bytes: &[u8]) -> Vec<u8> {
    frame(&ToHost::Output(channel, Stream::Stdout, bytes))
}

pub(super) fn process() -> GuestProcess {
    GuestProcess {
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
    }
}

pub(super) fn config() -> GuestConfig {
    GuestConfig {
        hostname: "h".into(),
        image: ImageDisk {
            device: "/dev/vda".into(),
            layers: Vec::new(),
        },
        writable: None,
        read_only_rootfs: false,
        shares: Vec::new(),
        networks: Vec::new(),
        mounts: Vec::new(),
        files: Vec::new(),
        shm_bytes: 0,
        process: process(),
        realtime_ns: 0,
        entropy: Vec::new(),
        late_devices: Vec::new(),
    }
}

pub(super) fn options() -> Options<'static> {
    Options::new(Duration::from_secs(20))
}

/// Descriptors for both output streams that end in this one.
pub(super) fn to(fd: &impl AsFd) -> StdioFds {
    let own = || fd.as_fd().try_clone_to_owned().unwrap();
    StdioFds {
        stdin: None,
        stdout: own(),
        stderr: own(),
    }
}

pub(super) fn to_nowhere() -> StdioFds {
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    to(&null)
}

pub(super) fn request() -> ExecRequest {
    ExecRequest {
        process: process(),
        program: None,
        upper: false,
    }
}

/// Holds a whole session with a guest that says these bytes, whatever it is told; gives what came of it and its stdout.
pub(super) fn hold(script: Vec<Vec<u8>>) -> (Result<u8, SessionError>, Vec<u8>) {
    let (vm, mut guest) = sleeping();
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
        let guest = Guest::connect(vm, options())?;
        let (_, main) = guest.start(config(), to(&writer))?;
        main.wait().map(|exit| exit.code())
    })();
    drop(writer);
    player.join().unwrap();
    (outcome, collector.join().unwrap())
}

/// The guest's side of a session, played step by step.
pub(super) struct Player {
    pub(super) guest: UnixStream,
    pub(super) decoder: Decoder,
}

impl Player {
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.guest.write_all(bytes).unwrap();
    }

    /// Hears messages until one is what is waited for.
    pub(super) fn hear<T>(&mut self, mut take: impl FnMut(ToGuest<'_>) -> Option<T>) -> T {
        loop {
            while let Some(frame) = self.decoder.next().unwrap() {
                if let Some(found) = take(ToGuest::parse(&frame).unwrap()) {
                    return found;
                }
            }
            let count = self.guest.read(self.decoder.space()).unwrap();
            assert!(count > 0, "the host has hung up");
            self.decoder.received(count);
        }
    }

    pub(super) fn hear_exec(&mut self) -> u32 {
        self.hear(|message| match message {
            ToGuest::Exec(channel, _) => Some(channel),
            _ => None,
        })
    }
}

/// A machine whose main process runs, with the guest's side to play.
pub(super) fn running(stdio: StdioFds) -> (Handle, Main, Player) {
    let (vm, guest) = sleeping();
    let mut player = Player {
        guest,
        decoder: Decoder::new(MAX_TO_GUEST),
    };
    player.say(&[hello(), started(MAIN)].concat());
    let (handle, main) = Guest::connect(vm, options())
        .unwrap()
        .start(config(), stdio)
        .unwrap();
    (handle, main, player)
}

pub(super) fn readable(fd: &impl AsFd) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}
