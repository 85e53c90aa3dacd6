//! Devices: a program of ours, asked by the kernel at every open and mknod (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::cgroup::devices::{Access, Kind, Rule};
use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result};
use crate::sys::{self, Errno};

/// `struct bpf_insn` (uapi/linux/bpf.h): registers share a byte, destination in the low half.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// Opcodes of the instructions used here (Documentation/bpf/standardization/instruction-set.rst).
mod op {
    /// `dst = *(u32 *)(src + offset)`
    pub(super) const LOAD_WORD: u8 = 0x61;
    /// `dst = src` (32 bits)
    pub(super) const MOVE: u8 = 0xbc;
    /// `dst = immediate` (64 bits)
    pub(super) const MOVE_IMMEDIATE: u8 = 0xb7;
    /// `dst &= immediate` (32 bits)
    pub(super) const AND_IMMEDIATE: u8 = 0x54;
    /// `dst >>= immediate` (32 bits)
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    /// jump if `dst == immediate` (64 bits)
    pub(super) const JUMP_EQUAL: u8 = 0x15;
    /// jump if `dst != immediate` (64 bits)
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x55;
    /// jump if `dst != src` (64 bits)
    pub(super) const JUMP_REGISTERS_DIFFER: u8 = 0x5d;
    /// return r0
    pub(super) const EXIT: u8 = 0x95;
}

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn instruction(
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
) -> Instruction {
    Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}

/// The program for a list of rules: the last that matches decides, so that it is asked first; what none matches is
/// allowed, as in a new cgroup of version 1.
///
/// The context holds the access and the type in one word, then major and minor (`struct bpf_cgroup_dev_ctx`).
pub(super) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(op::LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(op::MOVE, ACCESS, TYPE, 0, 0),
        instruction(op::AND_IMMEDIATE, TYPE, 0, 0, 0xffff),
        instruction(op::SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(op::LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(op::LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    let answer = |program: &mut Vec<Instruction>, allow: bool| {
        program.push(instruction(
            op::MOVE_IMMEDIATE,
            RESULT,
            0,
            0,
            i32::from(allow),
        ));
        program.push(instruction(op::EXIT, 0, 0, 0, 0));
    };
    for rule in rules.iter().rev() {
        let mut body = Vec::new();
        // Each test jumps past the answer when it fails; the distances are filled in at the end.
        match rule.kind {
            Kind::All => {}
            Kind::Block => body.push(instruction(op::JUMP_NOT_EQUAL, TYPE, 0, 0, 1)),
            Kind::Character => body.push(instruction(op::JUMP_NOT_EQUAL, TYPE, 0, 0, 2)),
        }
        if rule.access != Access::ALL {
            // r1, the context, is not needed any more. Granting takes all accesses asked for, denying any of them.
            body.push(instruction(op::MOVE, CONTEXT, ACCESS, 0, 0));
            body.push(instruction(
                op::AND_IMMEDIATE,
                CONTEXT,
                0,
                0,
                i32::from(rule.access.bits()),
            ));
            body.push(if rule.allow {
                instruction(op::JUMP_REGISTERS_DIFFER, CONTEXT, ACCESS, 0, 0)
            } else {
                instruction(op::JUMP_EQUAL, CONTEXT, 0, 0, 0)
            });
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number {
                // Numbers have at most 20 bits (MINORBITS, linux/kdev_t.h), so that sign extension cannot bite.
                body.push(instruction(
                    op::JUMP_NOT_EQUAL,
                    register,
                    0,
                    0,
                    number as i32,
                ));
            }
        }
        let unconditional = body.is_empty();
        answer(&mut body, rule.allow);
        let end = body.len();
        for (at, step) in body.iter_mut().enumerate() {
            if matches!(
                step.code,
                op::JUMP_EQUAL | op::JUMP_NOT_EQUAL | op::JUMP_REGISTERS_DIFFER
            ) {
                step.offset = (end - at - 1) as i16;
            }
        }
        program.extend(body);
        if unconditional {
            // Nothing behind it can be reached, which the kernel's verifier would refuse.
            return program;
        }
    }
    answer(&mut program, true);
    program
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C, align(8))]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The head of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C, align(8))]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads a program.
pub(super) fn load(program: &[Instruction]) -> sys::Result<OwnedFd> {
    let attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        // No helper that would ask for another licence is called.
        license: c"MIT".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: the attributes point at instructions and text that outlive the call, with their true lengths.
    let fd = sys::check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<LoadAttributes>(),
        )
    })?;
    // SAFETY: the call has just made the descriptor (close-on-exec, as all of bpf(2)).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Puts the rules in force. They go with the cgroup.
pub(in crate::cgroup) fn apply(directory: &Directory, rules: &[Rule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let failed = |doing| move |errno: Errno| Error::DeviceProgram { doing, errno };
    let program = load(&program(rules)).map_err(failed("load"))?;
    let attributes = AttachAttributes {
        target: directory.fd().as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes are as long as we say.
    sys::check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attributes,
            size_of::<AttachAttributes>(),
        )
    })
    .map(drop)
    .map_err(failed("attach"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxResources, LinuxResourcesBuilder};
    use proptest::prelude::*;

    use super::*;
    use crate::cgroup::{detect, devices};
    use crate::sys::process::Ended;
    use crate::sys::{clone, file, process, raw};

    /// Runs a program as the kernel does.
    fn run(program: &[Instruction], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let step = program[at];
            at += 1;
            let (to, from) = (
                usize::from(step.registers & 15),
                usize::from(step.registers >> 4),
            );
            let immediate = i64::from(step.immediate) as u64;
            let jumps = match step.code {
                op::LOAD_WORD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = u64::from(context[step.offset as usize / 4]);
                    false
                }
                op::MOVE => {
                    registers[to] = registers[from] & 0xffff_ffff;
                    false
                }
                op::MOVE_IMMEDIATE => {
                    registers[to] = immediate;
                    false
                }
                op::AND_IMMEDIATE => {
                    registers[to] = registers[to] & immediate & 0xffff_ffff;
                    false
                }
                op::SHIFT_RIGHT => {
                    registers[to] = (registers[to] & 0xffff_ffff) >> step.immediate;
                    false
                }
                op::JUMP_EQUAL => registers[to] == immediate,
                op::JUMP_NOT_EQUAL => registers[to] != immediate,
                op::JUMP_REGISTERS_DIFFER => registers[to] != registers[from],
                op::EXIT => return registers[0] == 1,
                code => panic!("an instruction {code:#x}"),
            };
            if jumps {
                at += step.offset as usize;
            }
        }
    }

    /// The rules read plainly: the last that matches decides.
    fn plainly(rules: &[Rule], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let matches = |rule: &&Rule| {
            (rule.kind == Kind::All || (rule.kind == Kind::Block) == (kind == 1))
                && rule.major.is_none_or(|number| number == major)
                && rule.minor.is_none_or(|number| number == minor)
                && if rule.allow {
                    access & !rule.access.bits() == 0
                } else {
                    access & rule.access.bits() != 0
                }
        };
        rules
            .iter()
            .rev()
            .find(matches)
            .is_none_or(|rule| rule.allow)
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let access = prop::sample::select(vec!["r", "w", "m", "rw", "rm", "wm", "rwm"]);
        let number = || prop::option::of(0_u32..3);
        let kind = prop::sample::select(vec![Kind::All, Kind::Block, Kind::Character]);
        (any::<bool>(), kind, number(), number(), access).prop_map(
            |(allow, kind, major, minor, access)| Rule {
                allow,
                kind,
                major,
                minor,
                access: Access::parse(access).unwrap(),
            },
        )
    }

    fn dockers_rules() -> Vec<Rule> {
        let deny = LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()
            .unwrap();
        let resources: LinuxResources = LinuxResourcesBuilder::default()
            .devices(vec![deny])
            .build()
            .unwrap();
        devices::rules(&resources).unwrap()
    }

    /// Why programs cannot be loaded here, said aloud.
    fn cannot_load() -> bool {
        let refused = load(&program(&[])).err();
        if let Some(errno) = refused {
            eprintln!("skipped: bpf(2) says {errno}");
        }
        refused.is_some()
    }

    proptest! {
        #[test]
        fn a_program_decides_as_its_rules_read(rules in prop::collection::vec(rule(), 0..12)) {
            let program = program(&rules);
            for kind in [1, 2] {
                for access in 1..=7 {
                    for (major, minor) in [(0, 0), (0, 1), (1, 0), (2, 2), (136, 7)] {
                        prop_assert_eq!(
                            run(&program, kind, access, major, minor),
                            plainly(&rules, kind, access, major, minor)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_kernels_verifier_takes_every_program() {
        if cannot_load() {
            return;
        }
        load(&program(&dockers_rules())).unwrap();
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        runner
            .run(&prop::collection::vec(rule(), 0..12), |rules| {
                prop_assert!(load(&program(&rules)).is_ok(), "{:?}", rules);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn the_kernel_keeps_the_rules() {
        let Some(top) = detect().unwrap().v2() else {
            eprintln!("skipped: this host has no unified hierarchy");
            return;
        };
        if cannot_load() {
            return;
        }
        let path = Path::new("plimsoll").join(format!("devices-{}", std::process::id()));
        let directory = Directory::make(top, &path, |_| Ok(())).unwrap();
        apply(&directory, &dockers_rules()).unwrap();
        // SAFETY: the child makes system calls only and ends by `exit`.
        let child = unsafe {
            clone::clone3(0, Some(directory.fd().as_raw_fd()), libc::SIGCHLD, || {
                let open = |path| {
                    file::openat(libc::AT_FDCWD, path, libc::O_RDONLY | libc::O_NONBLOCK, 0).err()
                };
                let answers = [
                    open(c"/dev/null"),
                    open(c"/dev/urandom"),
                    open(c"/dev/kmsg"),
                ];
                process::exit(i32::from(answers != [None, None, Some(Errno(libc::EPERM))]))
            })
        }
        .unwrap();
        let ended = process::wait(raw(&child.pidfd), true).unwrap();
        std::fs::remove_dir(directory.path()).unwrap();
        assert_eq!(ended, Some(Ended::Exited(0)));
    }
}
