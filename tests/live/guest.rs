//! The guest of `tests/guest/run`, whose kernel has what the host's may lack.

use std::path::Path;
use std::process::Command;

/// Whether this is the guest.
pub(crate) fn is_guest() -> bool {
    std::env::var_os("IN_GUEST").is_some()
}

/// Runs a program in a guest whose kernel has the module, and gives the lines that it printed. The
/// last says how it ended.
pub(crate) fn run_in_guest(module: &str, program: &Path, args: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/run");
    let output = Command::new(script)
        .arg(module)
        .arg(program)
        .args(args)
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    let lines = printed.lines().map(|line| line.trim_end().to_owned());
    let end = format!("the guest has ended with {}", output.status);
    lines.chain([end]).collect()
}
