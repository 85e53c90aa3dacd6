//! Messages go through a decoder and come out as they were.

use super::*;
use crate::config::{Capabilities, Extent, File, ImageDisk, Mount, Process, Rlimit};
use crate::frame::Decoder;
use alloc::vec;
use proptest::prelude::*;

fn config(
    args: Vec<String>,
    env: Vec<String>,
    layers: Vec<(u64, u64)>,
    sizes: (u16, u16),
) -> GuestConfig {
    GuestConfig {
        hostname: "h".into(),
        image: ImageDisk {
            device: "/dev/vda".into(),
            layers: layers
                .into_iter()
                .map(|(offset, length)| Extent { offset, length })
                .collect(),
        },
        writable: Some("/dev/vdb".into()),
        read_only_rootfs: false,
        shares: Vec::new(),
        networks: Vec::new(),
        mounts: vec![Mount {
            source: "tmpfs".into(),
            target: "/run".into(),
            filesystem: "tmpfs".into(),
            flags: 6,
            data: "size=1m".into(),
        }],
        files: vec![File {
            path: "/etc/hostname".into(),
            contents: "h\n".into(),
            mode: 0o644,
        }],
        shm_bytes: 64 << 20,
        process: Process {
            args,
            env,
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            additional_gids: vec![1, 2],
            umask: 0o22,
            terminal: Some(WindowSize {
                rows: sizes.0,
                columns: sizes.1,
            }),
            stdin: true,
            rlimits: vec![Rlimit {
                resource: 7,
                soft: 1,
                hard: u64::MAX,
            }],
            no_new_privileges: true,
            capabilities: Some(Capabilities {
                bounding: u64::MAX,
                effective: 1,
                permitted: 2,
                inheritable: 3,
                ambient: 4,
            }),
        },
        realtime_ns: 1,
        entropy: vec![0, 255],
        late_devices: vec!["virtio-mmio.2".into()],
    }
}

fn through_to_guest(message: &ToGuest<'_>) {
    let mut out = Vec::new();
    message.encode(&mut out);
    let mut decoder = Decoder::new(crate::MAX_TO_GUEST);
    decoder.push(&out);
    let frame = decoder.next().unwrap().unwrap();
    assert_eq!(&ToGuest::parse(&frame).unwrap(), message);
}

fn through_to_host(message: &ToHost<'_>) {
    let mut out = Vec::new();
    message.encode(&mut out);
    let mut decoder = Decoder::new(crate::MAX_TO_HOST);
    decoder.push(&out);
    let frame = decoder.next().unwrap().unwrap();
    assert_eq!(&ToHost::parse(&frame).unwrap(), message);
}

proptest! {
    #[test]
    fn messages_to_the_guest_come_out_as_they_went_in(
        args in prop::collection::vec(any::<String>(), 0..5),
        env in prop::collection::vec(any::<String>(), 0..5),
        layers in prop::collection::vec(any::<(u64, u64)>(), 0..130),
        sizes in any::<(u16, u16)>(),
        bytes in prop::collection::vec(any::<u8>(), 0..crate::MAX_DATA),
        number in any::<u32>(),
        signal in any::<u8>(),
    ) {
        let config = config(args, env, layers, sizes);
        let exec = Exec { process: config.process.clone(), program: Some(number), upper: signal > 99 };
        through_to_guest(&ToGuest::Exec(number, Box::new(exec)));
        through_to_guest(&ToGuest::Prepare(Box::new(config.clone())));
        through_to_guest(&ToGuest::Start(Box::new(config)));
        through_to_guest(&ToGuest::Program(number, &bytes));
        through_to_guest(&ToGuest::Stdin(number, &bytes));
        through_to_guest(&ToGuest::StdinEof(number));
        through_to_guest(&ToGuest::Resize(number, WindowSize { rows: sizes.0, columns: sizes.1 }));
        through_to_guest(&ToGuest::Signal(number, signal));
        through_to_guest(&ToGuest::OutputCredit(number, Stream::Stderr, number));
        through_to_guest(&ToGuest::OutputClosed(number, Stream::Stdout));
        through_to_guest(&ToGuest::Shutdown);
    }

    #[test]
    fn messages_to_the_host_come_out_as_they_went_in(
        numbers in any::<(u32, u64, u64)>(),
        bytes in prop::collection::vec(any::<u8>(), 0..crate::MAX_DATA),
        text in any::<String>(),
        flag in any::<bool>(),
        code in any::<u8>(),
    ) {
        let (small, first, second) = numbers;
        through_to_host(&ToHost::Hello(Hello { version: small, entered_ns: first, now_ns: second }));
        through_to_host(&ToHost::Prepared(Prepared { now_ns: second }));
        through_to_host(&ToHost::Started(small, Started { pid: small, prepared_ns: first, now_ns: second }));
        through_to_host(&ToHost::Output(small, Stream::Stdout, &bytes));
        through_to_host(&ToHost::Output(small, Stream::Stderr, &bytes));
        through_to_host(&ToHost::StdinCredit(small, small));
        through_to_host(&ToHost::StdinClosed(small));
        for status in [Status::Code(code), Status::Signal(code)] {
            through_to_host(&ToHost::Exited(small, Exited {
                status,
                oom_killed: flag,
                peak_memory_bytes: first,
                ended_ns: first,
                now_ns: second,
            }));
        }
        through_to_host(&ToHost::Failed(small, Failed { kind: FailureKind::NotFound, message: text }));
    }

    #[test]
    fn garbage_is_a_message_or_an_error_and_never_a_panic(kind in any::<u8>(), channel in any::<u32>(), payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let frame = Frame { kind, channel, payload: &payload };
        let _ = ToHost::parse(&frame);
        let _ = ToGuest::parse(&frame);
    }
}

#[test]
fn what_the_host_says_is_an_unknown_kind_to_the_host() {
    let frame = Frame {
        kind: kind::SIGNAL,
        channel: 0,
        payload: &[15],
    };
    assert_eq!(
        ToHost::parse(&frame),
        Err(MessageError::UnknownKind(kind::SIGNAL))
    );
}

#[test]
fn a_message_with_an_unknown_field_is_refused() {
    let frame = Frame {
        kind: kind::HELLO,
        channel: 0,
        payload: br#"{"version":1,"entered_ns":1,"now_ns":2,"more":3}"#,
    };
    let error = ToHost::parse(&frame).unwrap_err().to_string();
    assert!(
        error.starts_with("a malformed Hello message: unknown field `more`"),
        "{error}"
    );
}

#[test]
fn deeply_nested_json_is_refused() {
    let payload = vec![b'['; 100_000];
    let frame = Frame {
        kind: kind::HELLO,
        channel: 0,
        payload: &payload,
    };
    assert!(matches!(
        ToHost::parse(&frame),
        Err(MessageError::Malformed {
            message: "Hello",
            ..
        })
    ));
}

#[test]
fn a_stream_that_does_not_exist_is_refused() {
    let frame = Frame {
        kind: kind::OUTPUT_CLOSED,
        channel: 0,
        payload: &[3],
    };
    assert!(ToGuest::parse(&frame).is_err());
}
