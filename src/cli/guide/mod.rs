//! `fanfare help` prints help texts of commands and pages of the guide. `fanfare generate` writes
//! man pages and shell completions.

mod markdown;
mod roff;
mod terminal;

use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use fanfare::guide::{PAGES, Page, page};
use fanfare::sys::signals;
use signal_hook::consts::SIGINT;

use self::roff::Head;
use self::terminal::Terminal;
use super::Failure;
use super::args::{Arguments, GenerateArgs, HelpArgs, VERSION};

/// The maximum width of a page in a terminal, in columns.
const COLUMNS_MAX: usize = 100;
/// The program that shows a page if `PAGER` is not set.
const PAGER: &str = "less";
/// The options of less if `LESS` is not set. less then ends at once if the text fits on one screen,
/// and shows styles.
const LESS: &str = "FRX";

/// The pages that are also man pages: topic, name, section and summary.
const MAN_PAGES: [(&str, &str, &str, &str); 2] = [
    (
        "configuration",
        "fanfare.toml",
        "5",
        "the configuration of the push server fanfare",
    ),
    (
        "protocol",
        "fanfare-protocol",
        "7",
        "the protocol of the push server fanfare",
    ),
];

/// Prints the help text of a command, a page of the guide, or the list of all pages.
///
/// # Errors
/// Returns an error if there is neither a command nor a topic of this name, or if standard output
/// has failed.
pub(super) fn help(args: &HelpArgs) -> Result<(), Failure> {
    let mut program = Arguments::command();
    let Some(name) = &args.name else {
        return show(&program.render_help().to_string());
    };
    if name == "topics" {
        return print(&page_list());
    }
    program.build();
    if let Some(command) = program.find_subcommand_mut(name) {
        return show(&command.render_help().to_string());
    }
    let Some(page) = page(name) else {
        let message = format!(
            "`{}` is neither a command nor a topic; see `fanfare help topics`",
            name.escape_debug()
        );
        return Err(Failure::Usage(message));
    };
    let terminal = Terminal {
        columns: columns(),
        has_styles: io::stdout().is_terminal() && can_show_styles(),
    };
    show(&terminal.print(&markdown::parse(page.text)))
}

/// Returns one line for each page.
fn page_list() -> String {
    let lines = PAGES.iter().map(|page| {
        let Page { name, .. } = page;
        format!("  {name:<16} {}\n", page.title())
    });
    let lines: String = lines.collect();
    format!("Topics of the guide, for `fanfare help TOPIC`:\n{lines}")
}

fn columns() -> usize {
    let size = terminal_size::terminal_size();
    let columns = size.map_or(COLUMNS_MAX, |(width, _)| usize::from(width.0));
    columns.min(COLUMNS_MAX)
}

/// Shows a text in a pager if standard output is a terminal. Prints it otherwise, or if the pager
/// cannot be started.
fn show(text: &str) -> Result<(), Failure> {
    if io::stdout().is_terminal() && page_through(text).is_ok() {
        return Ok(());
    }
    print(text)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(Failure::of_output)
}

fn page_through(text: &str) -> io::Result<()> {
    let pager = std::env::var("PAGER").unwrap_or_default();
    let mut process = match pager.trim() {
        "" => Process::new(PAGER),
        command => {
            let mut shell = Process::new("sh");
            shell.args(["-c", command]);
            shell
        }
    };
    if std::env::var_os("LESS").is_none() {
        process.env("LESS", LESS);
    }
    let mut child = process.stdin(Stdio::piped()).spawn()?;
    // Control+C is for the pager. It must not end this program before the pager.
    let _ignored = signals::ignore(&[SIGINT]);
    if let Some(mut input) = child.stdin.take() {
        // A pager may end before it has read the whole text.
        let _written = input.write_all(text.as_bytes());
    }
    // The shell has status 127 if it does not find the pager.
    match child.wait()?.code() {
        Some(126 | 127) => Err(io::ErrorKind::NotFound.into()),
        _ => Ok(()),
    }
}

/// Whether the terminal and the pager show bold text (<https://no-color.org>).
fn can_show_styles() -> bool {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let less = variable("LESS");
    let shows_raw = less.is_empty() || less.contains(['R', 'r']);
    variable("NO_COLOR").is_empty() && variable("TERM") != "dumb" && shows_raw
}

/// Writes all man pages and shell completions below a directory.
///
/// # Errors
/// Returns an error if a file cannot be written.
pub(super) fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    let count = write_man_pages(&args.directory)? + write_completions(&args.directory)?;
    print(&format!("{count} files in {}\n", args.directory.display()))
}

fn write_man_pages(directory: &Path) -> anyhow::Result<usize> {
    let mut program = Arguments::command();
    program.build();
    let mut count = 0;
    let mut write = |name: &str, section: &str, text: &[u8]| {
        count += 1;
        let file = format!("man/man{section}/{name}.{section}");
        write_file(&directory.join(file), text)
    };
    write("fanfare", "1", &man_page(&program)?)?;
    for command in program.get_subcommands() {
        let name = format!("fanfare-{}", command.get_name());
        let command = command.clone().display_name(name.clone());
        write(&name, "1", &man_page(&command)?)?;
    }
    let source = format!("fanfare {VERSION}");
    for (guide_page, name, section, summary) in MAN_PAGES {
        let Some(page) = page(guide_page) else {
            debug_assert!(false, "there is no page {guide_page}");
            continue;
        };
        let head = Head {
            name,
            section,
            summary,
            source: &source,
        };
        let text = without_hyphenation(&roff::print(head, &markdown::parse(page.text)));
        write(name, section, text.as_bytes())?;
    }
    Ok(count)
}

fn man_page(command: &Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone()).source(format!("fanfare {VERSION}"));
    man.render(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).replace(".SH EXTRA", ".SH NOTES");
    text.push_str(".SH \"SEE ALSO\"\n\\fBfanfare\\fR(1), \\fBfanfare.toml\\fR(5), \\fBfanfare\\-protocol\\fR(7)\n");
    Ok(without_hyphenation(&text).into_bytes())
}

/// Switches hyphenation off, because a name that is broken at the end of a line cannot be copied.
fn without_hyphenation(page: &str) -> String {
    let lines = page.split_inclusive('\n');
    lines
        .flat_map(|line| {
            let is_title = line.starts_with(".TH ");
            [line, if is_title { ".nh\n" } else { "" }]
        })
        .collect()
}

fn write_completions(directory: &Path) -> anyhow::Result<usize> {
    let shells = [
        (Shell::Bash, "bash/fanfare"),
        (Shell::Fish, "fish/fanfare.fish"),
        (Shell::Zsh, "zsh/_fanfare"),
    ];
    for (shell, name) in shells {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "fanfare", &mut text);
        write_file(&directory.join("completions").join(name), &text)?;
    }
    Ok(shells.len())
}

fn write_file(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(context)?;
    }
    // An existing file may be a link to another file, or a FIFO.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(context),
        _ => fs::write(path, text).with_context(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn man_pages_are_made_of_pages_of_the_guide() {
        for (guide_page, ..) in MAN_PAGES {
            assert!(page(guide_page).is_some(), "{guide_page}");
        }
    }

    #[test]
    fn list_has_each_page_on_one_line() {
        let list = page_list();
        assert_eq!(list.lines().count(), PAGES.len() + 1);
        assert!(list.lines().all(|line| line.len() <= 100), "{list}");
    }
}
