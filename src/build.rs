//! Build script: passes the commit to the program, for `fanfare --version`.
//!
//! Only release builds read the commit, because a new commit would compile every debug build again.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let mut commit = String::new();
    println!("cargo::rerun-if-changed=src/build.rs");
    // Unpacked sources may lie in a folder of another repository.
    let top = git(&["rev-parse", "--show-toplevel"]).map(PathBuf::from);
    let is_own = top.is_some() && top == env::current_dir().ok();
    if is_release
        && is_own
        && let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
    {
        println!("cargo::rerun-if-changed={log}");
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

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
