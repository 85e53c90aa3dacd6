//! From rules to instructions.

use libc::sock_filter;

use super::bpf::{
    ARCHITECTURE, NUMBER, and, answer, argument, if_equal, if_greater, if_greater_or_equal, jump,
    load,
};
use super::rules::{Case, Condition, Decision, Operator, Rules, Span};
use crate::error::{Error, Result};

/// The kernel's bound on a filter (BPF_MAXINSNS, uapi/linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

/// The program for a set of rules.
pub(super) fn program(rules: &Rules) -> Result<Vec<sock_filter>> {
    let mut program = vec![load(ARCHITECTURE)];
    for table in &rules.tables {
        let mut body = vec![load(NUMBER)];
        tree(&mut body, &table.spans);
        // Past the body when the architecture is another one.
        program.push(if_equal(table.audit, 1, 0));
        program.push(jump(body.len() as u32));
        program.append(&mut body);
    }
    program.push(answer(rules.wrong_architecture));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::invalid(
            "linux.seccomp",
            format!(
                "the profile takes {} instructions, and the kernel's bound is {MAX_INSTRUCTIONS}",
                program.len()
            ),
        ));
    }
    Ok(program)
}

/// Finds the span of the number in the accumulator by halving.
fn tree(program: &mut Vec<sock_filter>, spans: &[Span]) {
    match spans {
        [] => {}
        [span] => decide(program, &span.decision),
        _ => {
            let (low, high) = spans.split_at(spans.len() / 2);
            let mut below = Vec::new();
            tree(&mut below, low);
            let first = high.first().map_or(0, |span| span.first);
            match u8::try_from(below.len()) {
                Ok(distance) => program.push(if_greater_or_equal(first, distance, 0)),
                // A conditional jump reaches 255 instructions.
                Err(_) => {
                    program.push(if_greater_or_equal(first, 0, 1));
                    program.push(jump(below.len() as u32));
                }
            }
            program.append(&mut below);
            tree(program, high);
        }
    }
}

fn decide(program: &mut Vec<sock_filter>, decision: &Decision) {
    for Case { conditions, action } in &decision.cases {
        let mut body = Vec::new();
        let mut to_next = Vec::new();
        for condition in conditions {
            check(&mut body, &mut to_next, condition);
        }
        body.push(answer(*action));
        // Six conditions of at most six instructions: every distance fits a byte.
        let end = body.len();
        for Unmet { at, when } in to_next {
            let distance = (end - at - 1) as u8;
            if let Some(step) = body.get_mut(at) {
                if when {
                    step.jt = distance
                } else {
                    step.jf = distance
                }
            }
        }
        program.append(&mut body);
    }
    program.push(answer(decision.otherwise));
}

/// A jump that leaves the case because a condition does not hold: where it is, and on which outcome it jumps.
struct Unmet {
    at: usize,
    when: bool,
}

/// Compares an argument, high word first. What holds falls through to the end.
fn check(body: &mut Vec<sock_filter>, to_next: &mut Vec<Unmet>, condition: &Condition) {
    let low_at = argument(condition.argument);
    let high_at = low_at + 4;
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    let mut leave_if = |body: &mut Vec<sock_filter>, step: sock_filter, when: bool| {
        to_next.push(Unmet {
            at: body.len(),
            when,
        });
        body.push(step);
    };
    match condition.operator {
        Operator::Equal => {
            body.push(load(high_at));
            leave_if(body, if_equal(high, 0, 0), false);
            body.push(load(low_at));
            leave_if(body, if_equal(low, 0, 0), false);
        }
        Operator::NotEqual => {
            body.push(load(high_at));
            // Different already: past the low word.
            body.push(if_equal(high, 0, 2));
            body.push(load(low_at));
            leave_if(body, if_equal(low, 0, 0), true);
        }
        Operator::Greater | Operator::GreaterOrEqual => {
            body.push(load(high_at));
            body.push(if_greater(high, 3, 0));
            leave_if(body, if_equal(high, 0, 0), false);
            body.push(load(low_at));
            let step = match condition.operator {
                Operator::Greater => if_greater(low, 0, 0),
                _ => if_greater_or_equal(low, 0, 0),
            };
            leave_if(body, step, false);
        }
        Operator::Less | Operator::LessOrEqual => {
            body.push(load(high_at));
            leave_if(body, if_greater(high, 0, 0), true);
            // Less already: past the low word.
            body.push(if_equal(high, 0, 2));
            body.push(load(low_at));
            let step = match condition.operator {
                Operator::Less => if_greater_or_equal(low, 0, 0),
                _ => if_greater(low, 0, 0),
            };
            leave_if(body, step, true);
        }
        Operator::MaskedEqual(mask) => {
            for (at, mask, value) in [
                (high_at, (mask >> 32) as u32, high),
                (low_at, mask as u32, low),
            ] {
                if mask == 0 && value == 0 {
                    continue;
                }
                body.push(load(at));
                if mask != u32::MAX {
                    body.push(and(mask));
                }
                leave_if(body, if_equal(value, 0, 0), false);
            }
        }
    }
}
