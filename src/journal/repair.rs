//! SHELL: this module truncates the store's write-ahead log at a hole that the store does not
//! accept.
//!
//! The store accepts a log that ends early, but refuses a log with a hole. A power failure leaves a
//! hole if a later page was written and an earlier page was not. This module does not parse the
//! log. The store opens if the log is truncated before the hole, and refuses a log that is
//! truncated after the hole. So a binary search finds the hole. During the search, the store's
//! directory contains a copy of the whole log, so a killed process loses nothing. The mark, a file
//! outside the store, shows whether records were lost.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::certain;

use super::engine::EngineError;
use super::files::find_logs;

/// The name of the copy of the whole log. The copy exists during the search for the hole.
const WHOLE: &str = "torn";

/// The outcome of opening a store.
#[derive(Debug)]
pub(super) enum Opened<T> {
    Whole(T),
    Torn(EngineError),
}

/// Opens a store. Truncates the store's newest log if necessary, and then also returns the number
/// of bytes that were cut off.
pub(super) fn open<T>(
    store: &Path,
    try_open: impl Fn() -> Result<Opened<T>, EngineError>,
) -> Result<(T, Option<u64>), EngineError> {
    let whole = store.join(WHOLE);
    let Some(log) = newest_log(store)? else {
        return Ok((require_intact(try_open()?)?, None));
    };
    if whole.try_exists()? {
        fs::rename(&whole, &log)?;
    }
    let refusal = match try_open()? {
        Opened::Whole(opened) => return Ok((opened, None)),
        Opened::Torn(refusal) => refusal,
    };
    let bytes = fs::read(&log)?;
    write(&store.join("torn.new"), &bytes)?;
    fs::rename(store.join("torn.new"), &whole)?;
    let Some(cut) = find_cut(&log, &bytes, &try_open)? else {
        fs::rename(&whole, &log)?;
        return Err(refusal);
    };
    let kept = certain::take(&bytes, cut);
    let bytes = bytes.len() - kept.len();
    tracing::warn!(
        bytes,
        "the journal's log had a hole and was truncated there"
    );
    write(&log, kept)?;
    fs::remove_file(&whole)?;
    Ok((require_intact(try_open()?)?, Some(bytes as u64)))
}

fn require_intact<T>(opened: Opened<T>) -> Result<T, EngineError> {
    match opened {
        Opened::Whole(opened) => Ok(opened),
        Opened::Torn(refusal) => Err(refusal),
    }
}

/// Returns the greatest length to which the log can be truncated so that the store opens. Returns
/// `None` if the store does not even open with an empty log.
fn find_cut<T>(
    log: &Path,
    bytes: &[u8],
    try_open: impl Fn() -> Result<Opened<T>, EngineError>,
) -> Result<Option<usize>, EngineError> {
    let opens = |length: usize| {
        write(log, certain::take(bytes, length))?;
        Ok::<_, EngineError>(matches!(try_open()?, Opened::Whole(_)))
    };
    if !opens(0)? {
        return Ok(None);
    }
    let (mut good, mut bad) = (0, bytes.len());
    while bad - good > 1 {
        let middle = usize::midpoint(good, bad);
        if opens(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(Some(good))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

/// Returns the newest log. Only this log can have a hole (a page that was not written), because all
/// older logs were synced before the store began it.
fn newest_log(store: &Path) -> Result<Option<PathBuf>, EngineError> {
    let newest = find_logs(store)?
        .into_iter()
        .max_by_key(|(number, _)| *number);
    Ok(newest.map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for a real store. Refuses a log that contains the byte `!`.
    fn try_open(log: &Path) -> Result<Opened<Vec<u8>>, EngineError> {
        let bytes = fs::read(log)?;
        Ok(match bytes.contains(&b'!') {
            true => Opened::Torn(EngineError::Damaged(String::from("a hole"))),
            false => Opened::Whole(bytes),
        })
    }

    #[test]
    fn newest_log_is_truncated_before_the_first_hole() {
        for (text, kept) in [
            ("abc", "abc"),
            ("abc!def", "abc"),
            ("!", ""),
            ("ab!c!", "ab"),
            ("abcdefg!", "abcdefg"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("10.jnl");
            fs::write(folder.path().join("9.jnl"), "!").unwrap();
            fs::write(&log, text).unwrap();
            let (opened, cut) = open(folder.path(), || try_open(&log)).unwrap();
            assert_eq!(opened, kept.as_bytes(), "{text}");
            let lost = (text.len() - kept.len()) as u64;
            assert_eq!(cut, (lost > 0).then_some(lost));
            assert_eq!(fs::read(&log).unwrap(), kept.as_bytes());
            assert!(!folder.path().join(WHOLE).exists());
        }
    }

    #[test]
    fn log_is_restored_if_truncating_it_does_not_help() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.jnl");
        fs::write(&log, "abc").unwrap();
        let torn = || {
            Ok(Opened::Torn::<()>(EngineError::Damaged(String::from(
                "a table",
            ))))
        };
        let refused = open(folder.path(), torn).unwrap_err();
        assert!(matches!(refused, EngineError::Damaged(_)), "{refused}");
        assert_eq!(fs::read(&log).unwrap(), b"abc");
    }

    #[test]
    fn interrupted_search_starts_over_with_the_whole_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.jnl");
        fs::write(&log, "a").unwrap();
        fs::write(folder.path().join(WHOLE), "abc!d").unwrap();
        let (opened, _) = open(folder.path(), || try_open(&log)).unwrap();
        assert_eq!(opened, b"abc");
    }
}
