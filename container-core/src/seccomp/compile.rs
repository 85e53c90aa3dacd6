//! From rules to instructions.
//!
//! Programs are put together from their end, for jumps go forwards only: whatever an instruction jumps to is there
//! already, and its distance is known.

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
    let mut program = Reversed::default();
    let mut otherwise = program.answer(rules.wrong_architecture);
    for table in rules.tables.iter().rev() {
        let root = program.tree(&table.spans);
        program.go_on_at(root);
        let body = program.push(load(NUMBER));
        otherwise = program.branch(body, otherwise, |body, otherwise| {
            if_equal(table.audit, body, otherwise)
        });
    }
    program.go_on_at(otherwise);
    program.push(load(ARCHITECTURE));
    let mut program = program.instructions;
    if program.len() > MAX_INSTRUCTIONS {
        let length = program.len();
        return Err(Error::invalid(
            "linux.seccomp",
            format!(
                "the profile takes {length} instructions, and the kernel's bound is {MAX_INSTRUCTIONS}"
            ),
        ));
    }
    program.reverse();
    Ok(program)
}

/// A place in a program that is there already, counted from the end of the program.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// A program from its end.
#[derive(Default)]
struct Reversed {
    instructions: Vec<sock_filter>,
    /// The last place where each action is returned.
    answers: Vec<(u32, Label)>,
}

impl Reversed {
    fn push(&mut self, instruction: sock_filter) -> Label {
        self.instructions.push(instruction);
        Label(self.instructions.len() - 1)
    }

    /// How many instructions lie between the next one to be pushed, with `between` more before it, and a label.
    fn distance(&self, to: Label, between: usize) -> usize {
        self.instructions.len() + between - to.0 - 1
    }

    /// A label for the same that a conditional jump reaches, which has one byte for the distance.
    fn near(&mut self, label: Label, between: usize) -> Label {
        if self.distance(label, between) <= usize::from(u8::MAX) {
            return label;
        }
        match self
            .answers
            .iter()
            .find(|(_, known)| *known == label)
            .map(|(action, _)| *action)
        {
            Some(action) => self.new_answer(action),
            None => {
                let distance = self.distance(label, 0) as u32;
                self.push(jump(distance))
            }
        }
    }

    fn new_answer(&mut self, action: u32) -> Label {
        let label = self.push(answer(action));
        self.answers.retain(|(known, _)| *known != action);
        self.answers.push((action, label));
        label
    }

    /// A place where an action is returned.
    fn answer(&mut self, action: u32) -> Label {
        match self
            .answers
            .iter()
            .find(|(known, _)| *known == action)
            .map(|(_, label)| *label)
        {
            Some(label) if self.distance(label, 1) <= usize::from(u8::MAX) => label,
            _ => self.new_answer(action),
        }
    }

    /// Makes a label the place where the program goes on after the next instruction to be pushed.
    fn go_on_at(&mut self, label: Label) {
        let distance = self.distance(label, 0) as u32;
        if distance > 0 {
            self.push(jump(distance));
        }
    }

    /// A conditional jump to either label.
    fn branch(&mut self, yes: Label, no: Label, make: impl FnOnce(u8, u8) -> sock_filter) -> Label {
        // One instruction may have to come between, for the other label.
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let instruction = make(self.distance(yes, 0) as u8, self.distance(no, 0) as u8);
        self.push(instruction)
    }

    /// Finds the span of the number in the accumulator by halving.
    fn tree(&mut self, spans: &[Span]) -> Label {
        match spans {
            [] => self.answer(0),
            [span] if span.decision.cases.is_empty() => self.answer(span.decision.otherwise),
            [span] => {
                let body = decide(&span.decision);
                self.instructions.extend(body.into_iter().rev());
                Label(self.instructions.len() - 1)
            }
            _ => {
                let (low, high) = spans.split_at(spans.len() / 2);
                let first = high.first().map_or(0, |span| span.first);
                let (high, low) = (self.tree(high), self.tree(low));
                self.branch(high, low, |high, low| if_greater_or_equal(first, high, low))
            }
        }
    }
}

/// The checks of a call's arguments, in their order.
fn decide(decision: &Decision) -> Vec<sock_filter> {
    let mut program = Vec::new();
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
                    step.jt = distance;
                } else {
                    step.jf = distance;
                }
            }
        }
        program.append(&mut body);
    }
    program.push(answer(decision.otherwise));
    program
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
