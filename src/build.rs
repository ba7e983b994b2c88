//! Build script: passes the commit to the program, for `fanfare --version`.
//!
//! Only release builds read the commit, because a new commit would compile every debug build again.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let mut commit = String::new();
    println!("cargo::rerun-if-changed=src/build.rs");
    // Unpacked sources may lie in a folder of another repository.
    let top = is_release.then(|| git(&["rev-parse", "--show-toplevel"]));
    let top = top.flatten().map(PathBuf::from);
    let is_own = top.is_some() && top == env::current_dir().ok();
    if is_own {
        watch_head();
        commit = git(&["log", "-1", "--format=%h, %cs"]).unwrap_or_default();
    }
    let description = match commit.is_empty() {
        true if is_release => "commit unknown",
        true => "debug build",
        false => &commit,
    };
    println!("cargo::rustc-env=BUILD_COMMIT={description}");
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=BUILD_TARGET={target}");
}

/// Runs this script again if `HEAD` refers to another commit. Only files that exist may be watched:
/// Cargo builds again each time if a watched file is missing.
fn watch_head() {
    let log = watched("logs/HEAD");
    // A repository without reflogs has only the files of `HEAD`, of its branch and of packed refs.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    let names = ["HEAD", &branch, "packed-refs"];
    let files = match log {
        Some(log) => vec![log],
        None => names.into_iter().filter_map(watched).collect(),
    };
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
}

/// Returns the path of a file in the repository's directory if the file exists.
fn watched(name: &str) -> Option<String> {
    let path = git(&["rev-parse", "--git-path", name])?;
    Path::new(&path).is_file().then_some(path)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
