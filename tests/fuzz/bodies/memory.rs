//! Counts the bytes that this thread has on the heap, so that a body can hold a machine to a bound.
//!
//! Wraps the system's allocator for the whole program; the count is a thread's own, since tests run
//! side by side. Used by measuring what dropping a machine gives back.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator with a count.
#[derive(Debug)]
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn change(added: usize, removed: usize) {
    // Memory may be freed by another thread than the one that took it, and after a thread's end.
    let _gone = LIVE.try_with(|live| {
        live.set(live.get().wrapping_add(added).wrapping_sub(removed));
    });
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(layout.size(), 0);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        change(0, layout.size());
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        change(size, layout.size());
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// The bytes that dropping this gives back.
pub fn held_by<T>(owner: T) -> usize {
    let before = LIVE.get();
    drop(owner);
    before.wrapping_sub(LIVE.get())
}
