//! Runs the fuzz targets on stable Rust, with every file of `tests/corpus` and mutations of these
//! files.
//!
//! The bodies are those of `tests/fuzz`. Each file is run unchanged. Then each target runs random
//! mutations for about a second. `FANFARE_FUZZ_SEED=7` repeats the mutations of a printed seed, and
//! `FANFARE_FUZZ_MS=60000` runs each target for a minute. A failing input is written to a file.
//! After finding the fault, add the file to the corpus under a name that describes the fault.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test may panic and print"
)]

#[path = "fuzz/bodies/mod.rs"]
mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fastrand::Rng;

use bodies::{Body, TARGETS};

/// The time for the mutations of each target, in milliseconds.
const MUTATIONS_MS: u64 = 1000;
/// The maximum length of a mutated input.
const BYTES_MAX: usize = 2000;
/// Texts that mutations insert: tokens of the parsers, and limits of numbers.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b" ",
    b":",
    b"*",
    b"0",
    b"-1",
    b"\"",
    b"{",
    b"[",
    b"\x88\x80\0\0\0\0",
    b"\x80\xfe\xff\xff",
    b"18446744073709551616",
    b"Host: h\r\n",
    b"since=first&last=2&",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files of a target's folder with their names, in order of the names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = root().join("tests/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let seeds = entries.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    let mut seeds: Vec<_> = seeds.collect();
    seeds.sort();
    seeds
}

/// Runs a body on bytes. If the body panics, reports the input, writes it to a file and returns
/// false.
fn survives(target: &str, body: Body, bytes: &[u8], whence: &str) -> bool {
    let has_survived = catch_unwind(AssertUnwindSafe(|| body(bytes))).is_ok();
    if !has_survived {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("finding-{target}"));
        fs::write(&path, bytes).unwrap();
        eprintln!(
            "{target}: {whence} fails; the bytes are in {}",
            path.display()
        );
    }
    has_survived
}

/// Runs every target in a thread of its own, and reports the names of the targets that fail.
fn attack_all(attack: impl Fn(&'static str, Body) -> bool + Sync) {
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (target, body) in TARGETS {
            let (attack, failed) = (&attack, &failed);
            scope.spawn(move || {
                if !attack(target, *body) {
                    failed.lock().unwrap().push(*target);
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "targets that fail: {failed:?}");
}

#[test]
fn corpus_breaks_nothing() {
    attack_all(|target, body| {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no corpus");
        let mut survivors = seeds.iter().filter(|(name, bytes)| {
            survives(
                target,
                body,
                bytes,
                &format!("tests/corpus/{target}/{name}"),
            )
        });
        survivors.by_ref().count() == seeds.len()
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn mutations_of_the_corpus_break_nothing() {
    let seed = number("FANFARE_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_millis(number("FANFARE_FUZZ_MS").unwrap_or(MUTATIONS_MS));
    eprintln!("FANFARE_FUZZ_SEED={seed}");
    attack_all(|target, body| {
        let corpus: Vec<Vec<u8>> = seeds(target).into_iter().map(|(_, bytes)| bytes).collect();
        let mut random = Rng::with_seed(seed);
        let end = Instant::now() + time;
        let mut count = 0_u64;
        while Instant::now() < end {
            let bytes = mutation(&corpus, &mut random);
            let whence = format!("mutation {count} of seed {seed}");
            if !survives(target, body, &bytes, &whence) {
                return false;
            }
            count += 1;
        }
        eprintln!("{target}: {count} mutations");
        true
    });
}

/// Returns a random file of the corpus with a few changes.
fn mutation(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = random.choice(corpus).cloned().unwrap_or_default();
    for _ in 0..random.u32(1..=5) {
        let at = random.usize(0..=bytes.len());
        let end = random.usize(at..=bytes.len().min(at + 20));
        let change: Vec<u8> = match random.u32(0..7) {
            0 => Vec::new(),
            1 => vec![random.u8(..)],
            2 => random.choice(WORDS).unwrap().to_vec(),
            3 => bytes.get(at..end).unwrap().repeat(2),
            4 => vec![random.u8(b' '..=b'~'); random.usize(1..40)],
            5 => random.choice(corpus).cloned().unwrap_or_default(),
            _ => {
                let other = random.choice(corpus).cloned().unwrap_or_default();
                let from = random.usize(0..=other.len());
                other.get(from..).unwrap().to_vec()
            }
        };
        let end = if random.bool() { at } else { end };
        bytes.splice(at..end, change);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

#[test]
fn targets_files_and_corpus_folders_match() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |folder: &str, is_folder: bool| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        let found = entries.filter(|path| path.is_dir() == is_folder);
        let stems = found.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
        stems.filter(|stem| !stem.starts_with('.')).collect()
    };
    assert_eq!(names("tests/corpus", true), listed);
    assert_eq!(names("tests/fuzz/targets", false), listed);
    let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
    for name in &listed {
        let line = format!("path = \"targets/{name}.rs\"");
        assert!(
            manifest.contains(&line),
            "tests/fuzz/Cargo.toml has no {line}"
        );
    }
}
