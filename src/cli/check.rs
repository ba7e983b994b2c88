//! `fanfare check`: validates a configuration, and the files and directories that it names.
//!
//! A file is checked without the environment, because a variable of this machine could hide a
//! problem that the file has on another machine. Without a file, the environment is checked on top
//! of the defaults. The check changes nothing.

use std::io::Write;

use super::args::CheckArgs;
use super::{Failure, print_error};
use fanfare::config::Retention;
use fanfare::config::file::{self, Overrides};
use fanfare::server;

/// Checks the configuration, and prints a line on standard output if there is no problem.
pub(super) fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let flags = Overrides::default();
    let loaded = match &args.file {
        Some(path) => file::load(Some(path), std::iter::empty(), &flags)?,
        None => file::load(None, file::process_environment(), &flags)?,
    };
    let loaded = loaded.with_feed_path();
    for warning in &loaded.warnings {
        print_error(&format!("warning: {warning}"));
    }
    server::check(&loaded.config).map_err(|found| loaded.origins.locate(found))?;
    let written = match &args.file {
        Some(path) => writeln!(out, "ok: {}", path.display()),
        None => writeln!(out, "ok: environment and defaults"),
    };
    written.map_err(Failure::of_output)?;
    for namespace in &loaded.config.namespace {
        let rules = rules(&loaded.config.retention_in(namespace));
        writeln!(out, "namespace {}: {rules}", namespace.pattern).map_err(Failure::of_output)?;
    }
    Ok(())
}

/// Returns the limits on the log of a namespace's channels as text. Values that the namespace does
/// not set are those of the global configuration.
fn rules(retention: &Retention) -> String {
    let Retention {
        entries,
        bytes,
        age_ms,
        overflow,
    } = retention;
    let overflow = overflow.as_str();
    format!("{entries} publications, {bytes} bytes, {age_ms} ms, {overflow}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn check(text: &str) -> (Result<(), Failure>, String, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fanfare.toml");
        std::fs::write(&path, text).unwrap();
        let mut out = Vec::new();
        let file = Some(path.clone());
        let ended = run(&CheckArgs { file }, &mut out);
        (ended, String::from_utf8(out).unwrap(), path)
    }

    #[test]
    fn check_prints_the_name_of_a_valid_file() {
        let (ended, out, path) = check("workers = 1\n");
        assert!(ended.is_ok());
        assert_eq!(out, format!("ok: {}\n", path.display()));
    }

    #[test]
    fn check_prints_the_rules_of_each_namespace() {
        let text = "[log]\nage_ms = 9000\n[[namespace]]\nmatch = \"prices:*\"\nlog_entries = 1\n";
        let (ended, out, _) = check(text);
        assert!(ended.is_ok());
        let line = out.lines().nth(1).unwrap();
        assert_eq!(
            line,
            "namespace prices:*: 1 publications, 67108864 bytes, 9000 ms, skip"
        );
    }

    #[test]
    fn check_lists_every_problem_of_a_file() {
        let (ended, out, path) = check("workers = true\ncolour = 1\n");
        let failure = ended.unwrap_err();
        assert!(matches!(failure, Failure::Config(_)));
        let text = failure.to_string();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains(&format!("{}:1: workers: ", path.display())));
        assert!(text.contains(&format!("{}:2: colour: ", path.display())));
        assert_eq!(out, "");
    }
}
