//! `fanfare doctor` on recorded hosts, on this machine, and on an empty tree.
//!
//! The recorded hosts are in `tests/hosts`, and its README describes them. Unit tests cover the
//! computations. These tests cover everything from reading the files to the exit status.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::fanfare;

/// The result of a run.
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

fn doctor(args: &[&str]) -> Ended {
    let output = fanfare().arg("doctor").args(args).output().unwrap();
    Ended {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn host(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    path.join(name).to_str().unwrap().to_owned()
}

fn examined(name: &str, args: &[&str]) -> Ended {
    let root = host(name);
    let all: Vec<&str> = [&["--root", &root, "--json"], args].concat();
    doctor(&all)
}

fn lines_that_lift(finding: &Value, name: &str) -> Vec<String> {
    let limits = finding["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["name"] == name).unwrap();
    let lifts = limit["lift"].as_array().unwrap();
    lifts
        .iter()
        .map(|lift| lift["line"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn each_recorded_host_has_the_bound_that_its_readme_names() {
    let readme = fs::read_to_string(host("README.md")).unwrap();
    let mut hosts = 0;
    for row in readme.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let ended = examined(cells[1], &[]);
        assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{}", cells[1]);
        assert_eq!(ended.json()["binds_first"], cells[3], "{}", cells[1]);
        hosts += 1;
    }
    let folders = fs::read_dir(host("")).unwrap();
    let folders = folders.filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(hosts, folders.count());
}

#[test]
fn each_recorded_host_holds_this_many_conns() {
    let expected = [
        ("debian-vm", 392_490, "shell on a host with systemd"),
        ("nofile-20000", 36_243, "Docker container"),
        ("docker-memory", 341_500, "Docker container"),
        ("kubernetes-pod", 151_119, "Kubernetes pod"),
        ("cgroup-v1", 0, "unit fanfare.service"),
        ("conntrack-full", 4_536, "shell on a host with systemd"),
        ("vps-512m", 21_555, "shell on a host with systemd"),
        ("tuned-2m", 8_381_888, "unit fanfare.service"),
    ];
    for (name, conns, context) in expected {
        let finding = examined(name, &[]).json();
        assert_eq!(finding["conns"], conns, "{name}");
        assert_eq!(finding["context"], context, "{name}");
    }
}

#[test]
fn target_decides_the_exit_status() {
    assert_eq!(examined("tuned-2m", &["--target", "2000000"]).status, 0);
    assert_eq!(examined("vps-512m", &["--target", "21555"]).status, 0);
    assert_eq!(examined("vps-512m", &["--target", "21556"]).status, 1);
    assert_eq!(doctor(&["--target", "none"]).status, 2);
    assert_eq!(doctor(&["--config", "/nonexistent.toml"]).status, 2);
}

#[test]
fn million_conns_with_small_descriptor_tables_need_more_workers() {
    let target = ["--target", "1000000"];
    let ended = examined("nofile-20000", &target);
    assert_eq!(ended.status, 1);
    let finding = ended.json();
    assert_eq!(finding["target"]["fits_with_workers"], 56);
    assert_eq!(
        finding["target"]["too_low"],
        serde_json::json!(["RLIMIT_NOFILE"])
    );
    let lines = lines_that_lift(&finding, "RLIMIT_NOFILE");
    let expected = [
        "--ulimit nofile=550912:550912",
        "fanfare serve --workers 56",
    ];
    assert_eq!(lines, expected);
    let more = examined(
        "nofile-20000",
        &[&target[..], &["--workers", "56"]].concat(),
    );
    assert_eq!(more.status, 0);
}

#[test]
fn missing_threads_for_workers_are_reported_first() {
    let finding = examined("cgroup-v1", &["--target", "1000"]).json();
    let lines = lines_that_lift(&finding, "cgroup pids");
    assert_eq!(lines, ["TasksMax=26", "fanfare serve --workers 2"]);
    let fewer = examined("cgroup-v1", &["--target", "1000", "--workers", "2"]);
    assert_eq!(fewer.status, 0);
}

#[test]
fn configuration_and_stalled_conns_are_part_of_the_estimate() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fanfare.toml");
    fs::write(&file, "workers = 3\n[limits]\nconns = 700\n").unwrap();
    let file = file.to_str().unwrap();
    let finding = examined("debian-vm", &["--config", file]).json();
    assert_eq!(
        (&finding["conns"], &finding["workers"]),
        (&636.into(), &3.into())
    );
    assert_eq!(finding["binds_first"], "limits.conns");
    let idle = examined("debian-vm", &["--stalled", "0"]).json();
    assert_eq!(idle["binds_first"], "memory");
    let all = examined("debian-vm", &["--stalled", "100"]).json();
    assert_eq!(all["bytes_per_conn"]["send_buffers"], 131_072);
}

#[test]
fn text_names_the_limit_the_line_and_what_is_unknown() {
    let root = host("docker-memory");
    let ended = doctor(&["--root", &root, "--target", "1000000"]);
    assert_eq!(ended.status, 1);
    for part in [
        "The target of 1,000,000 connections does not fit: 341,500 connections fit; \
         cgroup memory binds first.\n",
        "docker run:\n      --memory=5604m\n",
        "net.ipv4.tcp_mem        not known",
        "proc/sys/net/ipv4/tcp_mem\n",
    ] {
        assert!(
            ended.out.contains(part),
            "{part:?} is not in:\n{}",
            ended.out
        );
    }
}

#[test]
fn empty_tree_is_unknown_and_fits_no_target() {
    let empty = tempfile::tempdir().unwrap();
    let root = empty.path().to_str().unwrap();
    let ended = doctor(&["--root", root, "--json"]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    assert_eq!(ended.json()["conns"], Value::Null);
    let with_target = doctor(&["--root", root, "--target", "1"]);
    assert_eq!(with_target.status, 1);
    assert!(with_target.out.starts_with(
        "The target of 1 connection does not fit: the number that fits is not known."
    ));
}

#[test]
fn this_machine_gives_the_same_result_live_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().to_str().unwrap();
    let live = doctor(&["--record", record, "--json"]);
    assert_eq!((live.status, live.err.as_str()), (0, ""));
    let (live, copy) = (live.json(), doctor(&["--root", record, "--json"]).json());
    for key in [
        "conns",
        "binds_first",
        "context",
        "kernel",
        "workers",
        "limits",
        "read",
    ] {
        assert_eq!(live[key], copy[key], "{key}");
    }
    assert!(live["conns"].as_u64().unwrap() > 0);
}

#[test]
fn limits_are_read_from_the_given_process() {
    let script = "ulimit -n 300; exec sleep 60";
    let mut other = std::process::Command::new("sh")
        .args(["-c", script])
        .spawn()
        .unwrap();
    let pid = other.id().to_string();
    let finding = crate::support::within("the other process's limit", || {
        let finding = doctor(&["--pid", &pid, "--workers", "1", "--json"]).json();
        (finding["conns"] == 235).then_some(finding)
    });
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(finding["binds_first"], "RLIMIT_NOFILE");
}

#[test]
fn process_that_does_not_exist_is_an_error() {
    // systemctl prints 0 as the main process of a unit that does not run.
    let ended = doctor(&["--pid", "0", "--target", "1000"]);
    assert_eq!(ended.status, 1);
    assert!(ended.err.contains("there is no process 0"), "{}", ended.err);
}
