//! Counts the heap bytes of each thread. Fuzz targets use the count to check the memory limit of a
//! state machine.
//!
//! This module wraps the system's allocator for the whole program. It counts per thread, because
//! tests run in parallel. A target drops a state machine and reads how many bytes that freed.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with a count of bytes.
#[derive(Debug)]
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn change(added: usize, removed: usize) {
    // The count may wrap, because a thread may free memory that another thread has allocated. In a
    // thread that is ending, the count may no longer exist, and the change is ignored.
    let _gone = LIVE.try_with(|live| {
        live.set(live.get().wrapping_add(added).wrapping_sub(removed));
    });
}

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(layout.size(), 0);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`, and `System` has the same
        // contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        change(0, layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`, and `System` has the same
        // contract.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        change(size, layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`, and `System` has the same
        // contract.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// Drops a value. Returns the number of bytes that were freed.
pub fn held_by<T>(owner: T) -> usize {
    let before = LIVE.get();
    drop(owner);
    before.wrapping_sub(LIVE.get())
}
