//! Looks up a group by its name in the system's databases.
//!
//! The module is used once at the start, for the feed's socket. The call blocks, because the
//! database may be a directory service.

use std::io;

use nix::errno::Errno;
use nix::unistd::Group;

/// Returns the id of the group with this name. A decimal number is used as the id itself. Returns
/// `None` if the group does not exist.
///
/// # Errors
/// Returns the error of `getgrnam_r(3)` if the database cannot be read.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    match Group::from_name(name) {
        Ok(group) => Ok(group.map(|group| group.gid.as_raw())),
        // Some databases report a missing group with these errors (getgrnam_r(3)).
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.into()),
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
