//! Instructions of classic BPF, as seccomp filters use them (networking/filter.rst).

use libc::sock_filter;

/// `A = word at this offset of struct seccomp_data`
const LOAD: u16 = 0x20;
/// `A &= k`
const AND: u16 = 0x54;
/// `pc += k`
const JUMP: u16 = 0x05;
/// `pc += A == k ? jt : jf`
const JUMP_EQUAL: u16 = 0x15;
/// `pc += A > k ? jt : jf`
const JUMP_GREATER: u16 = 0x25;
/// `pc += A >= k ? jt : jf`
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
/// return k
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (uapi/linux/seccomp.h).
pub(super) const NUMBER: u32 = 0;
/// The architecture.
pub(super) const ARCHITECTURE: u32 = 4;

/// The low word of an argument; the high word follows it.
pub(super) const fn argument(index: u8) -> u32 {
    16 + 8 * index as u32
}

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

pub(super) const fn load(offset: u32) -> sock_filter {
    statement(LOAD, offset)
}

pub(super) const fn and(mask: u32) -> sock_filter {
    statement(AND, mask)
}

pub(super) const fn jump(distance: u32) -> sock_filter {
    statement(JUMP, distance)
}

pub(super) const fn answer(action: u32) -> sock_filter {
    statement(RETURN, action)
}

pub(super) const fn if_equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: JUMP_EQUAL,
        jt,
        jf,
        k,
    }
}

pub(super) const fn if_greater(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: JUMP_GREATER,
        jt,
        jf,
        k,
    }
}

pub(super) const fn if_greater_or_equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: JUMP_GREATER_OR_EQUAL,
        jt,
        jf,
        k,
    }
}

/// Runs a filter as the kernel does, for tests of filters on calls that must not be made.
#[cfg(test)]
pub(super) fn run(program: &[sock_filter], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => audit,
        16..64 => {
            let argument = arguments[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) {
                argument as u32
            } else {
                (argument >> 32) as u32
            }
        }
        _ => panic!("a load from offset {offset}"),
    };
    let mut accumulator = 0;
    let mut at = 0;
    // No instruction jumps backwards, so that this ends.
    loop {
        let step = program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            LOAD => accumulator = word(step.k),
            AND => accumulator &= step.k,
            JUMP => at += step.k as usize,
            JUMP_EQUAL => branch(accumulator == step.k),
            JUMP_GREATER => branch(accumulator > step.k),
            JUMP_GREATER_OR_EQUAL => branch(accumulator >= step.k),
            RETURN => return step.k,
            code => panic!("an instruction {code:#x}"),
        }
    }
}
