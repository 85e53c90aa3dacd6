//! The memory functions of the C library, in baseline instructions.
//!
//! glibc picks its `memcpy` and friends when the program starts, by what CPUID shows, also in a static program. On
//! kvm_pvm CPUID shows AVX and the guest kernel does not keep its registers, and on any two arms the choice may differ.
//! Definitions in the program itself win over those in the static library, so every arm runs these.
//!
//! They are written in assembly because a compiler that sees a copying loop replaces it with a call of `memcpy`.

use std::arch::asm;
use std::ffi::{c_int, c_void};

/// # Safety
/// As C's `memcpy`: `n` bytes readable at `from`, writable at `to`, not overlapping.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, n: usize) -> *mut c_void {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI; only the named registers
    // and the destination change.
    unsafe {
        asm!(
            "mov rcx, rdx", "shr rcx, 3", "rep movsq",
            "mov rcx, rdx", "and rcx, 7", "rep movsb",
            inout("rdi") to => _, inout("rsi") from => _, in("rdx") n, out("rcx") _,
            options(nostack)
        );
    }
    to
}

/// # Safety
/// As C's `memmove`: `n` bytes readable at `from`, writable at `to`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, n: usize) -> *mut c_void {
    if (to.addr()).wrapping_sub(from.addr()) >= n {
        // SAFETY: `to` starts before `from` or beyond its end, so a forward copy reads nothing it has written.
        return unsafe { memcpy(to, from, n) };
    }
    // SAFETY: the caller vouches for both ranges. Copies backwards from the last byte and clears the direction flag
    // again, as the ABI wants it.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rdi") to.cast::<u8>().wrapping_add(n.wrapping_sub(1)) => _,
            inout("rsi") from.cast::<u8>().wrapping_add(n.wrapping_sub(1)) => _,
            inout("rcx") n => _,
            options(nostack)
        );
    }
    to
}

/// # Safety
/// As C's `memset`: `n` bytes writable at `to`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut c_void, byte: c_int, n: usize) -> *mut c_void {
    let word = u64::from(byte as u8).wrapping_mul(0x0101_0101_0101_0101);
    // SAFETY: the caller vouches for the range; only the named registers and the destination change.
    unsafe {
        asm!(
            "mov rcx, rdx", "shr rcx, 3", "rep stosq",
            "mov rcx, rdx", "and rcx, 7", "rep stosb",
            inout("rdi") to => _, in("rdx") n, in("rax") word, out("rcx") _,
            options(nostack)
        );
    }
    to
}

/// # Safety
/// As C's `memcmp`: `n` bytes readable at `a` and `b`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const c_void, b: *const c_void, n: usize) -> c_int {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    for i in 0..n {
        // SAFETY: i < n, and the caller vouches for n bytes at each.
        let (x, y) = unsafe { (*a.add(i), *b.add(i)) };
        if x != y {
            return c_int::from(x) - c_int::from(y);
        }
    }
    0
}

/// # Safety
/// As C's `bcmp`: `n` bytes readable at `a` and `b`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const c_void, b: *const c_void, n: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, n) }
}

/// # Safety
/// As C's `strlen`: `text` ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const std::ffi::c_char) -> usize {
    let mut n = 0;
    // SAFETY: the caller vouches that a NUL ends the string, so every byte up to it can be read. The volatile read
    // keeps the compiler from turning the loop into a call of strlen.
    while unsafe { text.add(n).read_volatile() } != 0 {
        n += 1;
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_moves_keep_every_byte() {
        for (from, to) in [(0usize, 3usize), (3, 0), (0, 9), (9, 0), (2, 2)] {
            for n in 0..40 {
                let mut bytes: Vec<u8> = (0..64).collect();
                let expected: Vec<u8> = bytes[from..from + n].to_vec();
                let p = bytes.as_mut_ptr();
                // SAFETY: from and to are at most 9 and n at most 39, within 64 bytes.
                unsafe { memmove(p.add(to).cast(), p.add(from).cast(), n) };
                assert_eq!(bytes[to..to + n], expected, "{from} → {to}, {n} bytes");
            }
        }
    }

    #[test]
    fn set_and_compare_handle_every_tail_length() {
        for n in 0..40usize {
            let mut bytes = [0u8; 48];
            // SAFETY: n is at most 39 of 48 bytes.
            unsafe { memset(bytes.as_mut_ptr().cast(), 0x5a, n) };
            assert!(bytes[..n].iter().all(|&b| b == 0x5a) && bytes[n..].iter().all(|&b| b == 0));
            let mut other = bytes;
            other[n] ^= 1;
            // SAFETY: both arrays have 48 bytes.
            unsafe {
                assert_eq!(memcmp(bytes.as_ptr().cast(), other.as_ptr().cast(), n), 0);
                assert_ne!(
                    memcmp(bytes.as_ptr().cast(), other.as_ptr().cast(), n + 1),
                    0
                );
            }
        }
    }
}
