//! Memory that nobody needs any more, and pages that are larger than what is in them.

/// Asks the kernel for small pages only, in the whole process. A slot is a hundred bytes and the
/// tables of one worker rarely fill a huge page, so that half of each would be empty.
///
/// True if it has worked; otherwise the process takes more memory and is as good.
#[must_use]
pub fn refuse_huge_pages() -> bool {
    rustix::thread::disable_transparent_huge_pages(true).is_ok()
}

/// Gives back to the system what the calling thread has freed. Takes time in the order of a
/// millisecond. Without effect in a program with another allocator.
pub fn give_back() {
    // SAFETY: the function has no preconditions; it works on the calling thread's own heap.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
