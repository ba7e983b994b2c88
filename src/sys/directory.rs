//! SHELL: this module checks whether a directory exists or can be created, and whether another user
//! could replace it.
//!
//! The checks run before anything is created. So `fanfare check` finds every problem that would
//! prevent a start, and changes nothing.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Checks that this process can create files in a directory, or can create the directory.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    let mut nearest = path;
    loop {
        // If the path is a plain name, its parent is the current directory.
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
            // If a link's target is missing, no directory can be created at the link's path.
            Err(error) if error.kind() != ErrorKind::NotFound || place.is_symlink() => {
                return Err(error);
            }
            Err(error) => nearest = nearest.parent().ok_or(error)?,
        }
    }
}

/// Returns the first part of a directory's path that another user owns or can replace. Returns
/// `None` if only this user and root can replace parts of the path. Missing parts are ignored.
pub(crate) fn replaceable_part(path: &Path) -> io::Result<Option<PathBuf>> {
    let absolute = std::path::absolute(path)?;
    // `absolute` may contain symbolic links. `real` contains the targets of these links.
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => absolute.clone(),
        outcome => outcome?,
    };
    for part in absolute.ancestors().chain(real.ancestors()) {
        match fs::symlink_metadata(part) {
            Ok(found) if is_safe(&found, rustix::process::geteuid().as_raw()) => {}
            Ok(_) => return Ok(Some(part.to_path_buf())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether only root and this user can change a directory or a link. In a sticky directory, other
/// users can create files but cannot replace files of another user.
fn is_safe(found: &Metadata, uid: u32) -> bool {
    let is_closed = found.is_symlink() || found.mode() & 0o022 == 0 || found.mode() & 0o1000 != 0;
    [0, uid].contains(&found.uid()) && is_closed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn directory_that_others_can_replace_is_found() {
        let place = tempfile::tempdir().unwrap();
        let open = place.path().join("open");
        let inner = open.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&inner, &link).unwrap();
        let set_mode = |mode| {
            fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (mode, is_safe) in [
            (0o755, true),
            (0o775, false),
            (0o777, false),
            (0o1777, true),
        ] {
            set_mode(mode);
            for path in [&open, &inner, &link, &inner.join("missing/../missing")] {
                let found = replaceable_part(path).unwrap();
                let expected = (!is_safe).then_some(&open);
                assert_eq!(found.as_ref(), expected, "{mode:o} {}", path.display());
            }
        }
        let uid = rustix::process::geteuid().as_raw();
        let found = fs::symlink_metadata(&inner).unwrap();
        assert!(is_safe(&found, uid));
        let link = fs::symlink_metadata(&link).unwrap();
        assert!(is_safe(&link, uid));
        // For a different user, a directory is not safe unless this user or root owns it.
        assert_eq!(
            is_safe(&found, uid + 1) || is_safe(&link, uid + 1),
            uid == 0
        );
    }

    #[test]
    fn directory_exists_or_can_be_created_and_nothing_is_created() {
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
