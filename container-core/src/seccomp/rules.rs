//! A profile taken apart: for each architecture, what is to be decided for each number of a call.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::syscalls::{Call, X32_BIT};
use crate::error::{Error, Result};

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386` of uapi/linux/audit.h.
pub(super) const AUDIT_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_I386: u32 = 0x4000_0003;

/// `SECCOMP_RET_KILL_THREAD`: what libseccomp answers to a call of an architecture that the profile does not list.
const WRONG_ARCHITECTURE: u32 = 0;
/// `SECCOMP_RET_ERRNO` with ENOSYS.
const NO_SUCH_CALL: u32 = 0x0005_0000 | libc::ENOSYS as u32;
/// MAX_ERRNO of linux/err.h.
const MAX_ERRNO: u32 = 4095;

/// A comparison of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub(super) argument: u8,
    pub(super) operator: Operator,
    pub(super) value: u64,
}

/// How an argument is compared, as 64 unsigned bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The argument's bits under this mask are the value.
    MaskedEqual(u64),
}

/// An action that is taken when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// What is decided for a call: the first case that holds, or else the last action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) cases: Vec<Case>,
    pub(super) otherwise: u32,
}

impl Decision {
    fn plain(action: u32) -> Self {
        Self {
            cases: Vec::new(),
            otherwise: action,
        }
    }
}

/// All calls from a number up to the next span's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u32,
    pub(super) decision: Decision,
}

/// What is decided for the calls of one of the kernel's architectures; spans cover all numbers from 0.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) audit: u32,
    pub(super) spans: Vec<Span>,
}

/// A whole profile.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) tables: Vec<Table>,
    pub(super) wrong_architecture: u32,
}

/// The number of an action, as the kernel takes it.
pub(super) fn action(field: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    if let Some(errno) = errno.filter(|errno| *errno > MAX_ERRNO) {
        return Err(Error::invalid(
            field,
            format!("errnoRet {errno} is above the kernel's largest, {MAX_ERRNO}"),
        ));
    }
    Ok(match action {
        // The tracer's message; libseccomp's default is 0 as well as runc's is EPERM.
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace => {
            action.as_u32(Some(errno.unwrap_or(libc::EPERM as u32)))
        }
        other => other.as_u32(None),
    })
}

fn condition(field: &str, argument: &LinuxSeccompArg) -> Result<Condition> {
    let index = u8::try_from(argument.index())
        .ok()
        .filter(|index| *index < 6);
    let index = index.ok_or_else(|| {
        Error::invalid(field, format!("there is no argument {}", argument.index()))
    })?;
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Operator::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Operator::GreaterOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            Operator::MaskedEqual(argument.value()),
            argument.value_two().unwrap_or(0),
        ),
    };
    Ok(Condition {
        argument: index,
        operator,
        value,
    })
}

/// The cases of a rule. All its conditions must hold, unless two are about the same argument: then any one suffices
/// (so runc and crun read it, since libseccomp knows no other way).
fn cases(field: &str, rule: &LinuxSyscall, action: u32) -> Result<Vec<Case>> {
    let conditions = rule
        .args()
        .iter()
        .flatten()
        .map(|argument| condition(field, argument))
        .collect::<Result<Vec<_>>>()?;
    let mut seen = 0_u8;
    let mut repeated = false;
    for condition in &conditions {
        repeated |= seen & (1 << condition.argument) != 0;
        seen |= 1 << condition.argument;
    }
    Ok(if repeated {
        conditions
            .into_iter()
            .map(|condition| Case {
                conditions: vec![condition],
                action,
            })
            .collect()
    } else {
        vec![Case { conditions, action }]
    })
}

impl Rules {
    /// `x32` says whether the running kernel has that architecture.
    pub(super) fn new(profile: &LinuxSeccomp, x32: bool) -> Result<Self> {
        if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
            return Err(Error::invalid(
                "linux.seccomp.defaultAction",
                "SCMP_ACT_NOTIFY cannot be the default: handing the descriptor over would itself wait for an answer",
            ));
        }
        let default = action(
            "linux.seccomp.defaultAction",
            profile.default_action(),
            profile.default_errno_ret(),
        )?;
        // A filter that lets everything pass lets unknown calls pass too. Any other answers ENOSYS to calls that are
        // newer than the profile, so that programs fall back to what they did before (runc does so since 1.0).
        let permissive = matches!(
            profile.default_action(),
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        );
        let newer = if permissive { default } else { NO_SUCH_CALL };
        let listed = |wanted: Arch| {
            profile
                .architectures()
                .iter()
                .flatten()
                .any(|listed| *listed == wanted)
        };

        let with_x32 = x32 && listed(Arch::ScmpArchX32);
        let with_i386 = listed(Arch::ScmpArchX86);
        let mut x86_64 = Builder::new(default);
        let mut i386 = Builder::new(default);
        let mut x32_calls = Builder::new(default);
        let mut all_cases = Vec::new();
        let mut hint = 0;
        for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
            let field = format!("linux.seccomp.syscalls[{index}]");
            all_cases.push(cases(
                &field,
                rule,
                action(&field, rule.action(), rule.errno_ret())?,
            )?);
            for name in rule.names() {
                // A name that no architecture knows is of another one, or of a newer kernel: nothing can call it here.
                let Some(call) = Call::named(name, &mut hint) else {
                    continue;
                };
                x86_64.add(call.x86_64(), index);
                if with_i386 {
                    i386.add(call.i386(), index);
                }
                if with_x32 {
                    x32_calls.add(call.x32(), index);
                }
            }
        }

        let mut native = x86_64.spans(&all_cases, 0, newer);
        if with_x32 {
            for span in x32_calls.spans(&all_cases, X32_BIT, newer) {
                push(&mut native, span.first, span.decision);
            }
        } else if listed(Arch::ScmpArchX32) {
            // What the kernel would say itself; half the filter is saved.
            push(&mut native, X32_BIT, Decision::plain(NO_SUCH_CALL));
        } else {
            push(&mut native, X32_BIT, Decision::plain(WRONG_ARCHITECTURE));
        }
        // A tracer that skips a call sets its number to -1: no reason to kill (libseccomp makes the same exception).
        push(&mut native, u32::MAX, Decision::plain(default));
        let mut tables = vec![Table {
            audit: AUDIT_X86_64,
            spans: native,
        }];
        if with_i386 {
            tables.push(Table {
                audit: AUDIT_I386,
                spans: i386.spans(&all_cases, 0, newer),
            });
        }
        Ok(Self {
            tables,
            wrong_architecture: WRONG_ARCHITECTURE,
        })
    }
}

/// Collects the rules of one table: numbers of calls, each with the index of a rule.
struct Builder {
    default: u32,
    calls: Vec<(u32, usize)>,
}

impl Builder {
    fn new(default: u32) -> Self {
        Self {
            default,
            calls: Vec::with_capacity(512),
        }
    }

    fn add(&mut self, number: Option<u32>, rule: usize) {
        if let Some(number) = number {
            self.calls.push((number, rule));
        }
    }

    /// The spans from `start` on: the calls in the order of their numbers, and the default between them.
    fn spans(mut self, cases: &[Vec<Case>], start: u32, newer: u32) -> Vec<Span> {
        // The rules for one call keep their order, which decides.
        self.calls.sort_unstable();
        let mut spans = Vec::with_capacity(self.calls.len() + 1);
        let mut next = start;
        for calls in self.calls.chunk_by(|one, other| one.0 == other.0) {
            let Some((number, _)) = calls.first().copied() else {
                continue;
            };
            if number > next {
                push(&mut spans, next, Decision::plain(self.default));
            }
            let cases = calls
                .iter()
                .filter_map(|(_, rule)| cases.get(*rule))
                .flatten();
            push(&mut spans, number, decide(cases, self.default));
            next = number + 1;
        }
        push(
            &mut spans,
            next,
            Decision::plain(if next == start { self.default } else { newer }),
        );
        spans
    }
}

/// Adds a span, unless it decides as the one before it does.
fn push(spans: &mut Vec<Span>, first: u32, decision: Decision) {
    if spans.last().is_none_or(|last| last.decision != decision) {
        spans.push(Span { first, decision });
    }
}

/// The decision of several cases: one without conditions ends the list, and the last ones are not needed when they
/// decide as the rest does.
fn decide<'a>(cases: impl Iterator<Item = &'a Case>, default: u32) -> Decision {
    let mut decision = Decision::plain(default);
    for case in cases {
        if case.conditions.is_empty() {
            decision.otherwise = case.action;
            break;
        }
        decision.cases.push(case.clone());
    }
    while decision
        .cases
        .last()
        .is_some_and(|case| case.action == decision.otherwise)
    {
        decision.cases.pop();
    }
    decision
}
