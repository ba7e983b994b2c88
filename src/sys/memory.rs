//! Returns freed memory to the system, and turns off huge pages.

/// Turns off transparent huge pages for the whole process. A slot has a hundred bytes, and the
/// tables of one worker rarely fill a huge page. So half of each huge page would be empty.
///
/// Returns whether huge pages are off. If they stay on, the only effect is a higher use of memory.
#[must_use]
pub fn refuse_huge_pages() -> bool {
    rustix::thread::disable_transparent_huge_pages(true).is_ok()
}

/// Returns to the system the memory that the calling thread has freed. The call takes about a
/// millisecond. It has no effect in a program with another allocator.
pub fn give_back() {
    // SAFETY: the function has no preconditions. It works on the calling thread's heap.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
