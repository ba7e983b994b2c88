//! Tests of `tuning/apply` and `tuning/revert` on a copy of `/proc/sys`.
//!
//! The scripts are run unchanged. Their environment refers to a temporary folder, so no setting of
//! this machine changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

struct Host(TempDir);

impl Host {
    fn new(keys: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::create_dir(host.path("sys")).unwrap();
        for (key, value) in keys {
            host.set(key, value);
        }
        fs::write(host.path("meminfo"), "MemTotal:  33554432 kB\n").unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, key: &str) -> PathBuf {
        self.path("sys").join(key.replace('.', "/"))
    }

    fn set(&self, key: &str, value: &str) {
        let path = self.key(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }

    fn get(&self, key: &str) -> String {
        fs::read_to_string(self.key(key)).unwrap()
    }

    fn config(&self, text: &str) -> String {
        fs::write(self.path("wanted.conf"), text).unwrap();
        self.path("wanted.conf").to_str().unwrap().to_owned()
    }

    fn state(&self) -> PathBuf {
        self.path("var/state")
    }

    /// Runs a script. Returns its status, and its standard output and standard error together.
    fn run(&self, script: &str, args: &[&str]) -> (i32, String) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
        let output = Command::new(folder.join(script))
            .args(args)
            .env("TUNING_ROOT", self.path("sys"))
            .env("TUNING_STATE", self.state())
            .env("TUNING_MEMINFO", self.path("meminfo"))
            .output()
            .unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(printed).unwrap(),
        )
    }
}

const TCP_MEM: &str = "94146\t125530\t188292\n";

#[test]
fn revert_restores_the_values_from_before_two_applies() {
    let host = Host::new(&[
        ("fs.nr_open", "1048576\n"),
        ("net.ipv4.tcp_mem", TCP_MEM),
        ("vm.swappiness", "60\n"),
    ]);
    let first = host.run("apply", &[]);
    assert_eq!(first.0, 0, "{}", first.1);
    assert_eq!(host.get("fs.nr_open"), "2097152\n");
    assert_eq!(host.get("net.ipv4.tcp_mem"), "1572864 2097152 3145728\n");
    let second = host.run("apply", &[]);
    assert!(
        second.0 == 0 && second.1.contains("\n0 set, 3 as wanted, "),
        "{}",
        second.1
    );
    let back = host.run("revert", &[]);
    assert_eq!(back.0, 0, "{}", back.1);
    assert_eq!(host.get("fs.nr_open"), "1048576\n");
    assert_eq!(host.get("net.ipv4.tcp_mem"), "94146 125530 188292\n");
    assert_eq!(host.get("vm.swappiness"), "60\n");
    assert!(!host.state().exists());
    assert_eq!(host.run("revert", &[]).0, 0);
}

#[test]
fn oldest_value_is_kept_when_another_file_is_applied() {
    let host = Host::new(&[("vm.swappiness", "60\n"), ("vm.other", "1\n")]);
    host.run("apply", &[&host.config("vm.swappiness = 10\n")]);
    host.run(
        "apply",
        &[&host.config("vm.swappiness = 5\nvm.other = 2\n")],
    );
    assert_eq!(host.get("vm.swappiness"), "5\n");
    assert_eq!(host.run("revert", &[]).0, 0);
    assert_eq!(
        (host.get("vm.swappiness"), host.get("vm.other")),
        ("60\n".into(), "1\n".into())
    );
}

#[test]
fn dry_run_changes_nothing() {
    let host = Host::new(&[("vm.swappiness", "60\n")]);
    let (status, printed) = host.run("apply", &["--dry-run"]);
    assert_eq!(status, 0);
    assert!(
        printed.contains("would set: vm.swappiness = 10 (now 60)\n"),
        "{printed}"
    );
    assert_eq!(host.get("vm.swappiness"), "60\n");
    assert!(!host.state().exists());
}

#[test]
fn missing_keys_are_reported_and_skipped() {
    let host = Host::new(&[("vm.swappiness", "60\n")]);
    let (status, printed) = host.run("apply", &[]);
    assert_eq!(status, 0);
    assert!(printed.contains("not on this kernel, left out: net.netfilter.nf_conntrack_max\n"));
    assert!(
        printed.contains("set: vm.swappiness = 10 (was 60)\n"),
        "{printed}"
    );
}

#[test]
fn higher_values_are_kept_and_excessive_ones_skipped() {
    let host = Host::new(&[
        ("fs.file-max", "9223372036854775807\n"),
        ("net.core.somaxconn", "65535\n"),
        ("net.ipv4.tcp_mem", TCP_MEM),
        ("vm.min_free_kbytes", "8000\n"),
    ]);
    fs::write(host.path("meminfo"), "MemTotal:  524288 kB\n").unwrap();
    let (status, printed) = host.run("apply", &[]);
    assert_eq!(status, 0, "{printed}");
    assert_eq!(host.get("fs.file-max"), "9223372036854775807\n");
    assert_eq!(host.get("net.core.somaxconn"), "65535\n");
    assert_eq!(host.get("net.ipv4.tcp_mem"), TCP_MEM);
    assert_eq!(host.get("vm.min_free_kbytes"), "8000\n");
    assert!(printed.contains("too much for the memory of this host, left out: net.ipv4.tcp_mem"));
}

/// The key, the value before, the value in the file, and the value after.
const MERGED: &[(&str, &str, &str, &str)] = &[
    // The values have several numbers. Each number is compared separately.
    (
        "net.ipv4.tcp_rmem",
        "4096\t131072\t6291456\n",
        "4096 16384 1048576",
        "4096\t131072\t6291456\n",
    ),
    (
        "net.ipv4.tcp_wmem",
        "4096\t16384\t4194304\n",
        "8192 16384 1048576",
        "8192 16384 4194304\n",
    ),
    (
        "net.ipv4.tcp_mem",
        "1\t9223372036854775807\t9223372036854775807\n",
        "1572864 2097152 3145728",
        "1572864 9223372036854775807 9223372036854775807\n",
    ),
    (
        "net.ipv4.tcp_rmem",
        "4096 131072 6291456\n",
        "5000",
        "5000 131072 6291456\n",
    ),
    // A range of ports is widened at both ends.
    (
        "net.ipv4.ip_local_port_range",
        "32768\t60999\n",
        "10240 65535",
        "10240 65535\n",
    ),
    (
        "net.ipv4.ip_local_port_range",
        "1024\t60999\n",
        "10240 65535",
        "1024 65535\n",
    ),
    (
        "net.ipv4.ip_local_port_range",
        "1024\t65535\n",
        "10240 65000",
        "1024\t65535\n",
    ),
    // Values that mean "no limit".
    ("fs.file-max", "-1\n", "4194304", "-1\n"),
    ("kernel.threads-max", "max\n", "4194304", "max\n"),
    ("fs.nr_open", "unlimited\n", "2097152", "unlimited\n"),
    // Numbers too large for shell arithmetic.
    (
        "fs.file-max",
        "18446744073709551615\n",
        "4194304",
        "18446744073709551615\n",
    ),
    (
        "fs.file-max",
        "18446744073709551614\n",
        "18446744073709551615",
        "18446744073709551615\n",
    ),
    ("fs.file-max", "99999\n", "0000100000", "0000100000\n"),
    ("fs.file-max", "100000\n", "0000099999", "100000\n"),
    ("net.core.somaxconn", "08192\n", "4096", "08192\n"),
    (
        "net.ipv4.tcp_mem",
        TCP_MEM,
        "1 2 18446744073709551615",
        TCP_MEM,
    ),
    // The file of this repository would lower `tcp_notsent_lowat`. It does not contain `rmem_max`.
    (
        "net.ipv4.tcp_notsent_lowat",
        "4294967295\n",
        "16384",
        "4294967295\n",
    ),
    ("net.core.rmem_max", "212992\n", "65536", "212992\n"),
    // Times, weights and modes are set to the value in the file.
    ("net.ipv4.tcp_fin_timeout", "60\n", "30", "30\n"),
    (
        "net.netfilter.nf_conntrack_tcp_timeout_established",
        "432000\n",
        "1800",
        "1800\n",
    ),
    ("net.ipv4.tcp_tw_reuse", "2\n", "1", "1\n"),
    ("net.ipv4.tcp_keepalive_time", "7200\n", "300", "300\n"),
];

#[test]
fn values_of_no_kind_are_lowered() {
    for (key, old, wanted, expected) in MERGED.iter().copied() {
        let host = Host::new(&[(key, old)]);
        let file = host.config(&format!("{key} = {wanted}\n"));
        let dry = host.run("apply", &["--dry-run", &file]);
        assert_eq!(
            (dry.0, host.get(key).as_str()),
            (0, old),
            "{key}: {}",
            dry.1
        );
        assert_eq!(
            dry.1.contains("would set"),
            old != expected,
            "{key}: {}",
            dry.1
        );
        for _ in 0..2 {
            let (status, printed) = host.run("apply", &[&file]);
            assert_eq!(status, 0, "{key}: {printed}");
            assert_eq!(host.get(key), expected, "{key}: {printed}");
        }
        assert_eq!(host.run("revert", &[]).0, 0);
        assert_eq!(
            host.get(key).split_whitespace().collect::<Vec<_>>(),
            old.split_whitespace().collect::<Vec<_>>()
        );
    }
}

#[test]
fn key_that_cannot_be_set_is_reported_and_the_others_are_set() {
    let host = Host::new(&[("vm.swappiness", "60\n")]);
    // Not even root may write to this file.
    symlink("/proc/sys/kernel/cap_last_cap", host.path("sys/vm/fixed")).unwrap();
    let (status, printed) = host.run(
        "apply",
        &[&host.config("vm.fixed = 1\nvm.swappiness = 10\n")],
    );
    assert_eq!(status, 1);
    assert!(
        printed.contains("could not be set: vm.fixed = 1 (still "),
        "{printed}"
    );
    assert_eq!(host.get("vm.swappiness"), "10\n");
    assert_eq!(host.run("revert", &[]).0, 0);
    assert_eq!(host.get("vm.swappiness"), "60\n");
}

#[test]
fn value_that_cannot_be_restored_is_reported_and_kept_for_another_revert() {
    let host = Host::new(&[("vm.swappiness", "60\n"), ("vm.fixed", "1\n")]);
    host.run(
        "apply",
        &[&host.config("vm.fixed = 2\nvm.swappiness = 10\n")],
    );
    fs::remove_file(host.key("vm.fixed")).unwrap();
    symlink("/proc/sys/kernel/cap_last_cap", host.key("vm.fixed")).unwrap();
    let (status, printed) = host.run("revert", &[]);
    assert_eq!(status, 1);
    assert!(
        printed.contains("could not be set back: vm.fixed = 1 (still "),
        "{printed}"
    );
    assert_eq!(host.get("vm.swappiness"), "60\n");
    assert_eq!(fs::read_to_string(host.state()).unwrap(), "vm.fixed = 1\n");
}

#[test]
fn malformed_file_sets_nothing() {
    for bad in [
        "vm.swappiness = 10\nnonsense\n",
        "vm.swappiness = 10\nvm.x = $(id)\n",
        "vm.swappiness = 10\nvm...etc = 1\n",
        "vm.swappiness = 10\n/etc/x = 1\n",
        "vm.swappiness = 10\nvm.x =\n",
    ] {
        let host = Host::new(&[("vm.swappiness", "60\n")]);
        let (status, printed) = host.run("apply", &[&host.config(bad)]);
        assert!(
            status == 1 && printed.contains("nothing was set"),
            "{bad:?}: {printed}"
        );
        assert_eq!(host.get("vm.swappiness"), "60\n");
        assert!(!host.state().exists());
    }
}

#[test]
fn damaged_state_reverts_nothing() {
    let host = Host::new(&[("vm.swappiness", "10\n")]);
    fs::create_dir_all(host.state().parent().unwrap()).unwrap();
    fs::write(host.state(), "vm.swappiness = 60\nvm.x = y\n").unwrap();
    let (status, printed) = host.run("revert", &[]);
    assert!(
        status == 1 && printed.contains("is damaged at: vm.x = y"),
        "{printed}"
    );
    assert_eq!(host.get("vm.swappiness"), "10\n");
}
