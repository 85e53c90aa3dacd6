//! Filters against a plain reading of their profiles, by an interpreter and by the kernel.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscallBuilder,
};
use proptest::prelude::*;

use super::rules::{AUDIT_I386, AUDIT_X86_64, Rules};
use super::syscalls::{Call, X32_BIT};
use super::{bpf, compile, docker_default};
use crate::default_spec::DEFAULT_CAPABILITIES;
use crate::sys::process::Ended;
use crate::sys::{clone, credentials, process, raw};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

fn compiled(profile: &LinuxSeccomp, x32: bool) -> Vec<libc::sock_filter> {
    compile::program(&Rules::new(profile, x32).unwrap()).unwrap()
}

/// What the specification says, read as slowly and plainly as possible.
fn plainly(profile: &LinuxSeccomp, x32: bool, audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let listed = |arch| {
        profile
            .architectures()
            .iter()
            .flatten()
            .any(|listed| *listed == arch)
    };
    let is_x32 = audit == AUDIT_X86_64 && number >= X32_BIT && number != u32::MAX;
    let default =
        super::rules::action("x", profile.default_action(), profile.default_errno_ret()).unwrap();
    if audit != AUDIT_X86_64 && !(audit == AUDIT_I386 && listed(Arch::ScmpArchX86)) {
        return 0;
    }
    if audit == AUDIT_X86_64 && number == u32::MAX {
        return default;
    }
    if is_x32 && !listed(Arch::ScmpArchX32) {
        return 0;
    }
    if is_x32 && !x32 {
        return ENOSYS;
    }
    let number_of = |name: &str| {
        let call = Call::named(name, &mut 0)?;
        match audit {
            AUDIT_I386 => call.i386(),
            _ if is_x32 => call.x32(),
            _ => call.x86_64(),
        }
    };
    let mut largest = None;
    for rule in profile.syscalls().iter().flatten() {
        for name in rule.names() {
            largest = largest.max(number_of(name));
        }
    }
    for rule in profile.syscalls().iter().flatten() {
        if !rule
            .names()
            .iter()
            .any(|name| number_of(name) == Some(number))
        {
            continue;
        }
        let conditions = rule.args().clone().unwrap_or_default();
        let holds = |condition: &LinuxSeccompArg| {
            let argument = arguments[condition.index()];
            let value = condition.value();
            match condition.op() {
                LinuxSeccompOperator::ScmpCmpNe => argument != value,
                LinuxSeccompOperator::ScmpCmpLt => argument < value,
                LinuxSeccompOperator::ScmpCmpLe => argument <= value,
                LinuxSeccompOperator::ScmpCmpEq => argument == value,
                LinuxSeccompOperator::ScmpCmpGe => argument >= value,
                LinuxSeccompOperator::ScmpCmpGt => argument > value,
                LinuxSeccompOperator::ScmpCmpMaskedEq => {
                    argument & value == condition.value_two().unwrap_or(0)
                }
            }
        };
        let indices: HashSet<_> = conditions.iter().map(LinuxSeccompArg::index).collect();
        let any = indices.len() < conditions.len();
        if if any {
            conditions.iter().any(holds)
        } else {
            conditions.iter().all(holds)
        } {
            return super::rules::action("x", rule.action(), rule.errno_ret()).unwrap();
        }
    }
    let permissive = [
        LinuxSeccompAction::ScmpActAllow,
        LinuxSeccompAction::ScmpActLog,
        LinuxSeccompAction::ScmpActTrace,
    ];
    match largest {
        Some(largest) if number > largest && !permissive.contains(&profile.default_action()) => {
            ENOSYS
        }
        _ => default,
    }
}

fn action() -> impl Strategy<Value = LinuxSeccompAction> {
    prop::sample::select(vec![
        LinuxSeccompAction::ScmpActAllow,
        LinuxSeccompAction::ScmpActErrno,
        LinuxSeccompAction::ScmpActKillProcess,
        LinuxSeccompAction::ScmpActKillThread,
        LinuxSeccompAction::ScmpActTrap,
        LinuxSeccompAction::ScmpActLog,
        LinuxSeccompAction::ScmpActTrace,
    ])
}

/// Numbers near each other in both words, so that comparisons meet equality.
fn word() -> impl Strategy<Value = u64> {
    let half = prop::sample::select(vec![
        0_u64,
        1,
        2,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
    ]);
    (half.clone(), half).prop_map(|(high, low)| high << 32 | low)
}

fn condition() -> impl Strategy<Value = LinuxSeccompArg> {
    let operator = prop::sample::select(vec![
        LinuxSeccompOperator::ScmpCmpNe,
        LinuxSeccompOperator::ScmpCmpLt,
        LinuxSeccompOperator::ScmpCmpLe,
        LinuxSeccompOperator::ScmpCmpEq,
        LinuxSeccompOperator::ScmpCmpGe,
        LinuxSeccompOperator::ScmpCmpGt,
        LinuxSeccompOperator::ScmpCmpMaskedEq,
    ]);
    (0_usize..3, operator, word(), word()).prop_map(|(index, operator, value, second)| {
        LinuxSeccompArgBuilder::default()
            .index(index)
            .op(operator)
            .value(value)
            .value_two(value & second)
            .build()
            .unwrap()
    })
}

/// Profiles over few calls, so that several rules meet on one, and over many, so that jumps become long.
fn profile() -> impl Strategy<Value = LinuxSeccomp> {
    let names = prop::sample::subsequence(
        vec![
            "read",
            "write",
            "open",
            "clone",
            "clone3",
            "socket",
            "personality",
            "ioctl",
            "execve",
            "getpid",
            "bpf",
            "mseal",
            "io_uring_setup",
            "socketcall",
            "chown32",
            "futex",
            "recvmsg",
            "preadv2",
            "waitpid",
            "no_such_call",
        ],
        1..12,
    );
    let rule = (
        names,
        action(),
        prop::collection::vec(condition(), 0..4),
        prop::option::of(1_u32..4096),
    );
    let architectures = prop::sample::subsequence(
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        0..=3,
    );
    (
        action(),
        prop::option::of(1_u32..4096),
        prop::collection::vec(rule, 0..40),
        architectures,
    )
        .prop_map(|(default, errno, rules, architectures)| {
            let rules: Vec<_> = rules
                .into_iter()
                .map(|(names, action, args, errno)| {
                    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
                    let mut rule = LinuxSyscallBuilder::default()
                        .names(names)
                        .action(action)
                        .args(args);
                    if let Some(errno) = errno {
                        rule = rule.errno_ret(errno);
                    }
                    rule.build().unwrap()
                })
                .collect();
            let mut profile = LinuxSeccompBuilder::default()
                .default_action(default)
                .architectures(architectures)
                .syscalls(rules);
            if let Some(errno) = errno {
                profile = profile.default_errno_ret(errno);
            }
            profile.build().unwrap()
        })
}

fn audit() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![AUDIT_X86_64, AUDIT_X86_64, AUDIT_I386, 0xc000_00b7])
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        0_u32..480,
        (0_u32..560).prop_map(|number| number | X32_BIT),
        Just(u32::MAX),
        any::<u32>()
    ]
}

proptest! {
    #[test]
    fn a_filter_decides_as_its_profile_reads(
        profile in profile(),
        x32 in any::<bool>(),
        calls in prop::collection::vec((audit(), number(), prop::array::uniform6(word())), 200),
    ) {
        let program = match compile::program(&Rules::new(&profile, x32).unwrap()) {
            Ok(program) => program,
            // Forty rules with many conditions can be too much for the kernel; that is said, and another test's matter.
            Err(error) => {
                prop_assert!(error.to_string().contains("4096"), "{}", error);
                return Ok(());
            }
        };
        for (audit, number, arguments) in calls {
            prop_assert_eq!(
                bpf::run(&program, audit, number, arguments),
                plainly(&profile, x32, audit, number, arguments),
                "call {} of {:#x} with {:x?}", number, audit, arguments
            );
        }
    }
}

fn default_capabilities() -> HashSet<Capability> {
    DEFAULT_CAPABILITIES.into_iter().collect()
}

#[test]
fn dockers_filter_decides_as_dockers_profile_reads() {
    for capabilities in [
        default_capabilities(),
        [Capability::SysAdmin, Capability::SysTime]
            .into_iter()
            .collect(),
    ] {
        let profile = docker_default(&capabilities);
        for x32 in [false, true] {
            let program = compiled(&profile, x32);
            for audit in [AUDIT_X86_64, AUDIT_I386, 0x4000_0028] {
                for number in (0..600).chain(X32_BIT..X32_BIT + 600).chain([u32::MAX]) {
                    for first in [0, 8, 40, 41, 0x2000_0000, 0x1_0000_0028, 0xffff_ffff] {
                        let arguments = [first, 0, 0, 0, 0, 0];
                        assert_eq!(
                            bpf::run(&program, audit, number, arguments),
                            plainly(&profile, x32, audit, number, arguments),
                            "call {number} of {audit:#x} with {first:#x}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn dockers_profile_is_what_docker_documents() {
    let program = compiled(&docker_default(&default_capabilities()), false);
    let run = |number: libc::c_long, first| {
        bpf::run(
            &program,
            AUDIT_X86_64,
            number as u32,
            [first, 0, 0, 0, 0, 0],
        )
    };
    assert_eq!(run(libc::SYS_read, 0), ALLOW);
    assert_eq!(
        run(libc::SYS_chroot, 0),
        ALLOW,
        "CAP_SYS_CHROOT is a default capability"
    );
    assert_eq!(run(libc::SYS_mount, 0), EPERM);
    assert_eq!(run(libc::SYS_bpf, 0), EPERM);
    assert_eq!(run(libc::SYS_io_uring_setup, 0), EPERM);
    assert_eq!(run(libc::SYS_clone3, 0), ENOSYS);
    assert_eq!(run(libc::SYS_clone, libc::CLONE_NEWUSER as u64), EPERM);
    assert_eq!(run(libc::SYS_clone, libc::CLONE_VM as u64), ALLOW);
    assert_eq!(run(libc::SYS_socket, libc::AF_VSOCK as u64), EPERM);
    assert_eq!(run(libc::SYS_socket, libc::AF_INET as u64), ALLOW);
    assert_eq!(run(libc::SYS_personality, 0x8), ALLOW);
    assert_eq!(
        run(libc::SYS_personality, 0x40000),
        EPERM,
        "no ADDR_NO_RANDOMIZE"
    );
    assert_eq!(run(500, 0), ENOSYS, "a call newer than the profile");
    let privileged = docker_default(&[Capability::SysAdmin].into_iter().collect());
    let program = compiled(&privileged, false);
    assert_eq!(
        bpf::run(&program, AUDIT_X86_64, libc::SYS_clone3 as u32, [0; 6]),
        ALLOW
    );
}

#[test]
fn dockers_filter_is_small() {
    // The kernel translates, checks and compiles every instruction at each start.
    assert!(compiled(&docker_default(&default_capabilities()), false).len() < 400);
}

#[test]
fn a_profile_beyond_the_kernels_bound_is_refused() {
    let names: Vec<String> = ["read", "write", "open", "close", "ioctl"]
        .map(str::to_owned)
        .to_vec();
    let rules: Vec<_> = (0..900)
        .map(|value| {
            let argument = LinuxSeccompArgBuilder::default()
                .index(0_usize)
                .value(value as u64)
                .op(LinuxSeccompOperator::ScmpCmpEq)
                .build()
                .unwrap();
            LinuxSyscallBuilder::default()
                .names(names.clone())
                .action(LinuxSeccompAction::ScmpActAllow)
                .args(vec![argument])
                .build()
                .unwrap()
        })
        .collect();
    let profile = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .syscalls(rules)
        .build()
        .unwrap();
    let error = compile::program(&Rules::new(&profile, false).unwrap()).unwrap_err();
    assert!(error.to_string().contains("4096"), "{error}");
}

#[test]
fn notification_cannot_be_the_default() {
    let profile = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActNotify)
        .build()
        .unwrap();
    assert!(
        super::compile(&profile)
            .unwrap_err()
            .to_string()
            .contains("SCMP_ACT_NOTIFY")
    );
}

/// Loads docker's filter in a process of its own and makes calls: each gives its errno (0 for success).
fn probe(calls: &[(libc::c_long, [libc::c_long; 3])]) -> Vec<i32> {
    let filter = super::compile(&docker_default(&default_capabilities())).unwrap();
    let mut ends = [-1; 2];
    // SAFETY: the array holds the two descriptors.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0);
    let [read, write] = ends;
    // SAFETY: the child makes system calls only and ends by `exit`.
    let child = unsafe {
        clone::clone3(0, None, libc::SIGCHLD, || {
            let loaded = credentials::set_no_new_privileges()
                .and_then(|()| credentials::load_filter(filter.program(), filter.flags()));
            if loaded.is_err() {
                process::exit(99);
            }
            for (number, [first, second, third]) in calls {
                let result = libc::syscall(*number, *first, *second, *third);
                let errno = if result < 0 {
                    *libc::__errno_location()
                } else {
                    0
                };
                libc::write(write, (&raw const errno).cast(), size_of::<i32>());
            }
            process::exit(0)
        })
    }
    .unwrap();
    // SAFETY: this process's copy of the writing end is used by nobody.
    unsafe { libc::close(write) };
    assert_eq!(
        process::wait(raw(&child.pidfd), true).unwrap(),
        Some(Ended::Exited(0))
    );
    let mut answers = vec![0_i32; calls.len()];
    let mut bytes = vec![0_u8; calls.len() * size_of::<i32>()];
    assert_eq!(
        crate::sys::file::read(read, &mut bytes).unwrap(),
        bytes.len()
    );
    for (answer, bytes) in answers.iter_mut().zip(bytes.chunks(4)) {
        *answer = i32::from_ne_bytes(bytes.try_into().unwrap());
    }
    crate::sys::file::close(read);
    answers
}

#[test]
fn the_kernel_answers_as_dockers_profile_reads() {
    let none = [0, 0, 0];
    let answers = probe(&[
        (libc::SYS_getpid, none),
        (libc::SYS_unshare, [libc::CLONE_NEWNS as i64, 0, 0]),
        (libc::SYS_clone3, none),
        (
            libc::SYS_socket,
            [libc::AF_VSOCK as i64, libc::SOCK_STREAM as i64, 0],
        ),
        (
            libc::SYS_socket,
            [libc::AF_UNIX as i64, libc::SOCK_STREAM as i64, 0],
        ),
        (libc::SYS_personality, [0xffff_ffff, 0, 0]),
        (libc::SYS_personality, [0x40000, 0, 0]),
        (libc::SYS_io_uring_setup, [1, 0, 0]),
        (500, none),
    ]);
    assert_eq!(
        answers,
        [
            0,
            libc::EPERM,
            libc::ENOSYS,
            libc::EPERM,
            0,
            0,
            libc::EPERM,
            libc::EPERM,
            libc::ENOSYS
        ]
    );
}
