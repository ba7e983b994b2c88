//! A guest whose kernel has what the host's may lack: user-mode Linux, with the host's own file
//! system as its root. Needs no privilege and no hypervisor.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// Set in the guest.
const IN_GUEST: &str = "FANFARE_GUEST";

/// Time for everything that runs in a guest, which has one processor and pays dearly for calls to
/// its system.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether this is the guest.
pub(crate) fn is_guest() -> bool {
    std::env::var_os(IN_GUEST).is_some()
}

/// Runs a program in a guest whose kernel has the module, and gives the lines that it printed. The
/// last says how it ended.
pub(crate) fn run_in_guest(module: &str, program: &Path, args: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let init = folder.path().join("init");
    fs::write(&init, script(module, program, args)).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let mut guest = Command::new("linux.uml")
        .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw"])
        .args(["mem=768M", "quiet", "con=null", "con0=null,fd:1"])
        .arg(format!("init={}", init.display()))
        // Its memory is a file; where shared memory is, there may be room for little.
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.path().join("stderr")).unwrap())
        .process_group(0)
        .spawn()
        .expect("linux.uml, of the Debian package user-mode-linux");
    let stdout = BufReader::new(guest.stdout.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            drop(sender.send(line.trim_end().to_owned()));
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => lines.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let group = Pid::from_child(&guest);
                let killed = rustix::process::kill_process_group(group, Signal::KILL);
                killed.unwrap();
                lines.push(format!("the guest is not done after {PATIENCE:?}"));
                break;
            }
        }
    }
    let status = guest.wait().unwrap();
    reader.join().unwrap();
    lines.push(fs::read_to_string(folder.path().join("stderr")).unwrap());
    lines.push(format!("the guest has ended with {status}"));
    lines
}

/// What the guest does first and last. Modules are found by a detour, since nobody has put them
/// where the guest's kernel looks for them.
fn script(module: &str, program: &Path, args: &[&str]) -> String {
    let repository = env!("CARGO_MANIFEST_DIR");
    let path = std::env::var("PATH").unwrap_or_default();
    let program = program.display();
    let args = args.join(" ");
    format!(
        r#"#!/bin/sh
export PATH='{path}:/usr/sbin:/sbin' TMPDIR=/run/tmp {IN_GUEST}=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p "$TMPDIR" /run/root/lib
ln -s /usr/lib/uml/modules /run/root/lib/modules
printf '#!/bin/sh\nexec modprobe -d /run/root "$@"\n' >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
ip link set lo up
/run/modprobe {module}
cd '{repository}'
'{program}' {args} 2>&1
echo "the guest's program has ended with $?"
echo o >/proc/sysrq-trigger
sleep 60
"#
    )
}
