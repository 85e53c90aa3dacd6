//! What a program without a C library needs of its own: its first instruction, a heap, and the functions that the compiler
//! expects to find.
//!
//! For the programs that run inside a microVM, where each byte that is copied and each system call that is made counts: see
//! `guest-agent`. A program calls [`program!`] with its main function and [`heap::Heap`] as its allocator, links with the
//! arguments that its build script gives, and is built with panic = "abort".
#![no_std]

#[cfg(test)]
extern crate alloc;

pub mod errno;
pub mod heap;

/// Ends the process.
pub fn exit(code: i32) -> ! {
    /// exit_group(2) on x86-64.
    const EXIT_GROUP: usize = 231;
    // SAFETY: the call takes a number and does not return.
    unsafe {
        core::arch::asm!("syscall", in("rax") EXIT_GROUP, in("rdi") code, options(noreturn, nostack));
    }
}

/// Defines `_start`, which calls `$main: extern "C" fn(stack: *const usize) -> !` with the stack as the kernel made it
/// (the number of arguments, the arguments, a null pointer, the environment, a null pointer, ...), and the functions of the
/// C library that the compiler calls by itself.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// Where the kernel begins.
        ///
        /// # Safety
        /// For the kernel alone to jump to, on a new stack.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn _start() -> ! {
            ::core::arch::naked_asm!(
                "xor ebp, ebp",
                "mov rdi, rsp",
                "and rsp, -16",
                "call {main}",
                "ud2",
                main = sym $main,
            )
        }

        /// memcpy(3).
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
            // SAFETY: the caller promises both ranges; the direction flag is clear by the calling convention.
            unsafe {
                ::core::arch::asm!(
                    "rep movsq",
                    "mov ecx, {rest:e}",
                    "rep movsb",
                    rest = in(reg) count & 7,
                    inout("rcx") count >> 3 => _,
                    inout("rdi") to => _,
                    inout("rsi") from => _,
                    options(nostack, preserves_flags),
                );
            }
            to
        }

        /// memmove(3).
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
            if to.addr().wrapping_sub(from.addr()) >= count {
                // SAFETY: copying upwards never reads what it has written: `to` is below `from`, or beyond its end.
                return unsafe { memcpy(to, from, count) };
            }
            // SAFETY: the caller promises both ranges; downwards from the last byte, and the direction flag is cleared again.
            unsafe {
                ::core::arch::asm!(
                    "std",
                    "rep movsb",
                    "cld",
                    inout("rcx") count => _,
                    inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                    inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
                    options(nostack),
                );
            }
            to
        }

        /// memset(3).
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
            let eight = u64::from(byte as u8) * 0x0101_0101_0101_0101;
            // SAFETY: the caller promises the range; the direction flag is clear by the calling convention.
            unsafe {
                ::core::arch::asm!(
                    "rep stosq",
                    "mov ecx, {rest:e}",
                    "rep stosb",
                    rest = in(reg) count & 7,
                    inout("rcx") count >> 3 => _,
                    inout("rdi") to => _,
                    in("rax") eight,
                    options(nostack, preserves_flags),
                );
            }
            to
        }

        /// memcmp(3).
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
            for place in 0..count {
                // SAFETY: the caller promises both ranges. Volatile, so that the loop is not made into a call of memcmp.
                let (a, b) = unsafe {
                    (
                        left.add(place).read_volatile(),
                        right.add(place).read_volatile(),
                    )
                };
                if a != b {
                    return i32::from(a) - i32::from(b);
                }
            }
            0
        }

        /// bcmp(3).
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
            // SAFETY: as the caller promises.
            unsafe { memcmp(left, right, count) }
        }

        /// strlen(3).
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn strlen(string: *const u8) -> usize {
            let mut length = 0;
            // SAFETY: the caller promises a byte of zero. Volatile, so that the loop is not made into a call of strlen.
            while unsafe { string.add(length).read_volatile() } != 0 {
                length += 1;
            }
            length
        }

        /// Named by code of the standard library that was compiled to unwind. The program is compiled to abort, so that nothing
        /// calls it.
        #[unsafe(no_mangle)]
        pub extern "C" fn rust_eh_personality() {}

        /// As [`rust_eh_personality`].
        #[unsafe(no_mangle)]
        pub extern "C" fn _Unwind_Resume() -> ! {
            loop {}
        }
    };
}
