//! The browser module of `src/web` in Node and in a headless Chromium, against the real server.

use std::path::Path;
use std::process::Command;

/// Runs the tests of one file in `tests/peers/module`.
fn run(file: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers/module")
        .join(file);
    let output = Command::new("node")
        .arg("--test")
        .arg(script)
        .env("FANFARE", env!("CARGO_BIN_EXE_fanfare"))
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}{stderr}");
}

#[test]
fn module_delivers_over_each_transport_and_falls_back() {
    run("transports.test.mjs");
}

#[test]
fn module_resumes_after_losses() {
    run("loss.test.mjs");
}

#[test]
fn module_keeps_the_rules_of_tokens_codes_and_requests() {
    run("client.test.mjs");
}

#[test]
fn module_runs_in_a_browser() {
    run("browser.test.mjs");
}

#[test]
fn module_handles_answers_that_are_written_by_hand() {
    run("contract.test.mjs");
}
