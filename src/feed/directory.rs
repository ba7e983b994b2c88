//! SHELL: whether a directory is there or can be made.
//!
//! Asked before anything is made, so that `fanfare check` finds what would stop a start and leaves
//! nothing behind.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Checks that this process can make files in a directory, or can make the directory.
pub(super) fn check(path: &Path) -> io::Result<()> {
    let mut nearest = path;
    loop {
        // The parent of a name alone is the current directory.
        let place = if nearest.as_os_str().is_empty() {
            Path::new(".")
        } else {
            nearest
        };
        match fs::metadata(place) {
            Ok(found) if found.is_dir() => {
                let access = Access::WRITE_OK | Access::EXEC_OK;
                return Ok(accessat(CWD, place, access, AtFlags::EACCESS)?);
            }
            Ok(_) => return Err(io::Error::from(rustix::io::Errno::NOTDIR)),
            // A link whose target is missing cannot be made a directory either.
            Err(error) if error.kind() != ErrorKind::NotFound || place.is_symlink() => {
                return Err(error);
            }
            Err(error) => nearest = nearest.parent().ok_or(error)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_there_or_can_be_made_and_nothing_is_made() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(place.path().join("nowhere"), &link).unwrap();
        for good in ["", "a", "a/b"] {
            check(&place.path().join(good)).unwrap();
        }
        check(Path::new("a/b")).unwrap();
        check(Path::new("")).unwrap();
        for bad in [&file, &file.join("a"), &link, &link.join("a")] {
            assert!(check(bad).is_err(), "{}", bad.display());
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }
}
