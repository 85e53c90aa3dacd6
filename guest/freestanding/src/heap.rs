//! The heap of a program that is one thread and lives briefly: powers of two, each with a list of what was freed.
//!
//! What is given out for the first time is zero already and is not touched, since every page that is touched costs the
//! guest's kernel a fault and a page's clearing.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::ptr::null_mut;

/// The smallest piece, which holds a list's link.
const LEAST: usize = 16;
/// Sizes from 2^0 up to 2^31 bytes; beyond that nothing is given.
const CLASSES: usize = 32;
/// Memory that is part of the program: enough for a usual run.
const FIRST: usize = 256 << 10;
/// How much is asked of the kernel at least when that is used up.
const MORE: usize = 1 << 20;

/// The allocator. There may be only one thread.
pub struct Heap(UnsafeCell<State>);

#[repr(align(4096))]
struct Arena(UnsafeCell<[u8; FIRST]>);

// SAFETY: the program is one thread. (A child that shares the memory runs while the parent stands still.)
unsafe impl Sync for Heap {}
// SAFETY: as above; only `Heap` refers to it.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; FIRST]));

struct State {
    free: [*mut u8; CLASSES],
    /// Memory that nobody has had yet, zero: where it begins and how much it is.
    fresh: *mut u8,
    left: usize,
    begun: bool,
}

impl Heap {
    /// An empty heap.
    ///
    /// # Safety
    /// The program must be one thread, and this its only heap, since all share one first piece of memory.
    pub const unsafe fn new() -> Self {
        Self(UnsafeCell::new(State {
            free: [null_mut(); CLASSES],
            fresh: null_mut(),
            left: 0,
            begun: false,
        }))
    }
}

impl State {
    /// A piece of `1 << class` bytes, and whether it is all zero.
    fn take(&mut self, class: usize) -> (*mut u8, bool) {
        let Some(free) = self.free.get_mut(class) else {
            return (null_mut(), false);
        };
        let reused = *free;
        if !reused.is_null() {
            // SAFETY: a piece in a list is unused memory of at least LEAST bytes, aligned, and begins with the link.
            *free = unsafe { reused.cast::<*mut u8>().read() };
            return (reused, false);
        }
        let size = 1usize << class;
        // Every piece is aligned to its own size, up to a page, which is what every chunk is aligned to.
        let padding = self.fresh.align_offset(size.min(4096));
        if self.left < size.saturating_add(padding) {
            if !self.more(size) {
                return (null_mut(), false);
            }
            return self.take(class);
        }
        // SAFETY: `fresh` has `left` bytes after it, of which `padding + size` are taken here.
        unsafe {
            let piece = self.fresh.add(padding);
            self.fresh = piece.add(size);
            self.left -= padding + size;
            (piece, true)
        }
    }

    /// Begins a new chunk, and forgets what is left of the last.
    fn more(&mut self, size: usize) -> bool {
        if !self.begun && size <= FIRST {
            self.begun = true;
            self.fresh = ARENA.0.get().cast();
            self.left = FIRST;
            return true;
        }
        let length = size.max(MORE);
        match map(length) {
            Some(address) => {
                self.fresh = address;
                self.left = length;
                true
            }
            None => false,
        }
    }
}

/// Asks the kernel for memory: zero, and aligned to a page.
fn map(length: usize) -> Option<*mut u8> {
    /// Linux's numbers on x86-64: mmap(2), and what it takes.
    const MMAP: isize = 9;
    const READ_WRITE: usize = 1 | 2;
    const PRIVATE_ANONYMOUS: usize = 2 | 0x20;
    let result: isize;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists. The registers are
    // x86-64's for system calls: rcx and r11 are overwritten, everything else is kept.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") MMAP => result,
            in("rdi") 0,
            in("rsi") length,
            in("rdx") READ_WRITE,
            in("r10") PRIVATE_ANONYMOUS,
            in("r8") usize::MAX,
            in("r9") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // Errors are the last page of numbers: MAX_ERRNO in include/linux/err.h.
    (!(-4095..0).contains(&result)).then_some(result as *mut u8)
}

/// Which power of two holds this; alignments beyond a page are not given.
fn class(layout: Layout) -> Option<usize> {
    let size = layout
        .size()
        .max(layout.align())
        .max(LEAST)
        .checked_next_power_of_two()?;
    (layout.align() <= 4096).then_some(size.trailing_zeros() as usize)
}

// SAFETY: pieces are disjoint, at least as large and as aligned as asked, and stay where they are until freed.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, and nothing below calls back into the heap.
        let state = unsafe { &mut *self.0.get() };
        class(layout).map_or(null_mut(), |class| state.take(class).0)
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: one thread, and nothing below calls back into the heap.
        let state = unsafe { &mut *self.0.get() };
        if let Some(free) = class(layout).and_then(|class| state.free.get_mut(class)) {
            // SAFETY: the caller gives the piece up, and it is at least LEAST bytes, aligned to at least as much.
            unsafe { piece.cast::<*mut u8>().write(*free) };
            *free = piece;
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, and nothing below calls back into the heap.
        let state = unsafe { &mut *self.0.get() };
        let Some(class) = class(layout) else {
            return null_mut();
        };
        let (piece, zero) = state.take(class);
        if !piece.is_null() && !zero {
            // SAFETY: the piece has at least this many bytes.
            unsafe { piece.write_bytes(0, layout.size()) };
        }
        piece
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, does not overflow.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if class(layout) == class(larger) {
            return piece;
        }
        // SAFETY: a fresh piece and the caller's are disjoint, and both have the smaller of the two sizes.
        unsafe {
            let moved = self.alloc(larger);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(piece, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn pieces_are_aligned_disjoint_zeroed_and_used_again() {
        // SAFETY: the only heap of this kind in the tests' process, used by this thread only.
        let heap = unsafe { Heap::new() };
        let layouts = [
            (1, 1),
            (16, 8),
            (17, 16),
            (100, 64),
            (4096, 4096),
            (70_000, 8),
            (600_000, 16),
        ];
        let mut pieces: Vec<(usize, usize, Layout)> = Vec::new();
        for round in 0..3 {
            for (size, align) in layouts {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the layout is not empty.
                let piece = unsafe { heap.alloc_zeroed(layout) };
                assert!(!piece.is_null());
                assert_eq!(piece.addr() % align, 0);
                // SAFETY: the piece has `size` bytes.
                let bytes = unsafe { core::slice::from_raw_parts_mut(piece, size) };
                assert!(
                    bytes.iter().all(|byte| *byte == 0),
                    "round {round}, {size} bytes"
                );
                bytes.fill(0xaa);
                for (start, end, _) in &pieces {
                    assert!(piece.addr() >= *end || piece.addr() + size <= *start);
                }
                pieces.push((piece.addr(), piece.addr() + size, layout));
            }
            if round == 1 {
                for (start, _, layout) in pieces.drain(..) {
                    // SAFETY: every piece came from this heap with this layout.
                    unsafe { heap.dealloc(start as *mut u8, layout) };
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_given_is_null() {
        assert_eq!(class(Layout::from_size_align(16, 8192).unwrap()), None);
        let huge = Layout::from_size_align(isize::MAX as usize - 4095, 1).unwrap();
        assert!(class(huge).is_none_or(|class| class >= CLASSES));
    }
}
