//! Looks up a group by its name in the system's databases.
//!
//! Called once at start, for the feed's socket. Blocks, since the database may be a directory
//! service.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// The largest buffer for a group's entry, in bytes. The entry includes the names of all members.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// The id of the group with this name. A decimal number is taken as the id itself. `None` if there
/// is no such group.
///
/// # Errors
/// Returns the error of `getgrnam_r(3)` if the database cannot be read.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    let mut bytes = 1024;
    loop {
        match look_up(&name, bytes) {
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && bytes < ENTRY_BYTES_MAX => {
                bytes *= 4;
            }
            found => return found,
        }
    }
}

fn look_up(name: &CString, bytes: usize) -> io::Result<Option<u32>> {
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut room = vec![0; bytes];
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is valid for the call, `room` has the given length, and the name ends
    // with a zero byte.
    let status = unsafe {
        libc::getgrnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            room.as_mut_ptr(),
            room.len(),
            &raw mut found,
        )
    };
    match status {
        0 if found.is_null() => Ok(None),
        // SAFETY: the call has succeeded and found an entry, so it has written it.
        0 => Ok(Some(unsafe { entry.assume_init() }.gr_gid)),
        libc::ENOENT | libc::ESRCH => Ok(None),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_found_by_name_and_by_number() {
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("17").unwrap(), Some(17));
    }

    #[test]
    fn group_that_does_not_exist_is_none() {
        assert_eq!(group_id("no such group").unwrap(), None);
        assert_eq!(group_id("a\0b").unwrap(), None);
    }
}
