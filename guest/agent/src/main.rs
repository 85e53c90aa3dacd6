//! The program itself: its first instruction and its end.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::ToString;
use core::panic::PanicInfo;

use guest_freestanding::heap::Heap;

// SAFETY: the agent is one thread, and this is its only heap.
#[global_allocator]
static HEAP: Heap = unsafe { Heap::new() };

guest_freestanding::program!(main);

extern "C" fn main(_stack: *const usize) -> ! {
    guest_agent::run(guest_agent::now());
    guest_agent::reset()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    guest_agent::complain(&info.to_string());
    guest_agent::reset()
}
