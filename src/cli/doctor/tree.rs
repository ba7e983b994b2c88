//! SHELL: this module reads a host's `/proc` and `/sys` below a root directory.
//!
//! Only this file of `doctor` accesses the file system. So the files of a recorded host are read
//! exactly like the files of this host. [`Tree`] keeps the notes for the report. A note has the
//! name of a value and the value, or no value if it could not be read. No read fails with an error:
//! a file that is missing or cannot be parsed is an unknown value. The callers are
//! [`super::facts`], [`super::cgroup`] and [`super::context`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The maximum number of bytes read from a file. `smaps` is longer than this, but only its first
/// entry is used.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// An entry of the report: the name of a value, and the value if it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The path of the file below the root. If the value is one line of the file, a colon and the
    /// name of the line follow.
    pub(super) name: String,
    /// The value; `None` if it could not be read.
    pub(super) value: Option<String>,
}

/// The `/proc` and `/sys` files of a host.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Name of the examined process's directory in `/proc`.
    process: String,
    read: RefCell<BTreeMap<String, String>>,
    notes: RefCell<Vec<Note>>,
}

impl Tree {
    /// Makes the tree of the files below a directory. The examined process is `pid`, or this
    /// process.
    pub(super) fn new(root: &Path, pid: Option<u32>) -> Self {
        Self {
            root: root.to_path_buf(),
            process: pid.map_or_else(|| String::from("self"), |pid| pid.to_string()),
            read: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    /// Whether the examined process exists.
    pub(super) fn has_process(&self) -> bool {
        self.process_text("limits").is_some()
    }

    /// Reads a file without listing it in the report.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.root.join(path)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.read.borrow_mut().insert(path.to_owned(), text.clone());
        Some(text)
    }

    /// Reads a file of the examined process without listing it in the report.
    pub(super) fn process_text(&self, name: &str) -> Option<String> {
        self.text(&format!("proc/{}/{name}", self.process))
    }

    /// Parses a file that every host has. The report lists the file, even if it is missing.
    pub(super) fn expect<T>(&self, path: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(path);
        let parsed = text.as_deref().and_then(parse);
        let value = text.filter(|_| parsed.is_some());
        self.note(path, value.as_deref());
        parsed
    }

    /// Parses a file that only some hosts have. The report lists the file only if it exists.
    pub(super) fn probe<T>(&self, path: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.exists(path).then(|| self.expect(path, parse))?
    }

    /// Adds a value and its name to the report.
    pub(super) fn note(&self, name: &str, value: Option<&str>) {
        let value = value.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        let name = name.to_owned();
        self.notes.borrow_mut().push(Note { name, value });
    }

    /// Whether the path exists.
    pub(super) fn exists(&self, path: &str) -> bool {
        let there = self.root.join(path).exists();
        if there && !self.root.join(path).is_dir() {
            // A recorded copy must contain every file whose existence was tested. If the file
            // itself is never read, the copy contains an empty file.
            let mut read = self.read.borrow_mut();
            read.entry(path.to_owned()).or_default();
        }
        there
    }

    /// Returns the names in a directory, sorted. The list is empty if the directory does not exist.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Returns all notes, in the order in which they were added.
    pub(super) fn into_notes(self) -> Vec<Note> {
        self.notes.into_inner()
    }

    /// Copies all files that have been read to another directory, which can then be examined on
    /// another machine.
    pub(super) fn record(&self, folder: &Path) -> io::Result<()> {
        let own = format!("proc/{}/", self.process);
        for (path, text) in self.read.borrow().iter() {
            let path = path
                .strip_prefix(&own)
                .map_or_else(|| path.clone(), |name| format!("proc/self/{name}"));
            let target = folder.join(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(target, text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<u64> {
        text.trim().parse().ok()
    }

    #[test]
    fn expected_file_is_noted_even_if_it_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("good"), "1\t2\n").unwrap();
        fs::write(folder.path().join("bad"), [0xff, 0xfe]).unwrap();
        let tree = Tree::new(folder.path(), None);
        assert_eq!(tree.expect("good", |text| Some(text.len())), Some(4));
        assert_eq!(tree.expect("bad", number), None);
        assert_eq!(tree.expect("missing", number), None);
        assert_eq!(tree.probe("missing too", number), None);
        let notes = tree.into_notes();
        let values: Vec<Option<&str>> = notes.iter().map(|note| note.value.as_deref()).collect();
        assert_eq!(values, [Some("1 2"), None, None]);
    }

    #[test]
    fn long_file_is_read_in_part() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("long"), "a".repeat(1_000_000)).unwrap();
        let tree = Tree::new(folder.path(), None);
        let bytes = u64::try_from(tree.text("long").unwrap().len()).unwrap();
        assert_eq!(bytes, FILE_BYTES_MAX);
    }

    #[test]
    fn record_of_a_process_has_the_same_content_as_its_tree() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("proc/7")).unwrap();
        fs::write(from.path().join("proc/7/limits"), "l").unwrap();
        fs::write(from.path().join(".dockerenv"), "").unwrap();
        let tree = Tree::new(from.path(), Some(7));
        assert_eq!(tree.process_text("limits").as_deref(), Some("l"));
        assert!(tree.exists(".dockerenv") && !tree.exists("run"));
        tree.record(to.path()).unwrap();
        let copy = Tree::new(to.path(), None);
        assert_eq!(copy.process_text("limits").as_deref(), Some("l"));
        assert!(copy.exists(".dockerenv"));
    }
}
