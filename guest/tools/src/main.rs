//! The program itself: its first instruction and its end.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::panic::PanicInfo;

use guest_freestanding::exit;
use guest_freestanding::heap::Heap;

// SAFETY: the program is one thread, and this is its only heap.
#[global_allocator]
static HEAP: Heap = unsafe { Heap::new() };

guest_freestanding::program!(main);

extern "C" fn main(stack: *const usize) -> ! {
    let mut arguments: Vec<&[u8]> = Vec::new();
    // SAFETY: the stack is as the kernel made it: the number of arguments, then as many pointers to strings that end in a zero
    // byte and stay where they are.
    unsafe {
        let count = stack.read();
        for place in 1..=count {
            let argument = stack.add(place).cast::<*const c_char>().read();
            arguments.push(CStr::from_ptr(argument).to_bytes());
        }
    }
    exit(guest_tools::run(arguments.get(1..).unwrap_or_default()))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    guest_tools::complain(&info.to_string());
    exit(guest_tools::FAILED)
}
