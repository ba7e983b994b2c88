//! Restarts behind nginx, with the recipe of `systemd/proxies`: no `EventSource` ends.
//!
//! The other tests of proxies are in `proxy_recipes`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Lines, Process, Recipe, dependency};

/// Simulates a service manager: it keeps the listening socket open and restarts the server.
struct Manager {
    process: Lines,
    pid: String,
    addr: SocketAddr,
}

impl Manager {
    fn start(folder: &Path) -> Self {
        let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/activation.py");
        let process = Lines::run(
            Command::new("python3")
                .arg(launcher)
                .arg("--again")
                .arg(folder)
                .arg(env!("CARGO_BIN_EXE_fanfare"))
                .args(["serve", "--workers", "2", "--listen", "127.0.0.1:1"]),
        );
        let mut manager = Self {
            process,
            pid: String::new(),
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        manager.await_start();
        manager
    }

    fn await_start(&mut self) {
        let started: Value = serde_json::from_str(&self.process.until("{\"pid\"")).unwrap();
        self.pid = started["pid"].to_string();
        let port = u16::try_from(started["tcp"].as_u64().unwrap()).unwrap();
        self.addr.set_port(port);
        self.process.until("fanfare ");
    }

    /// Ends the server with a signal, and waits until the next server is ready. Returns the exit
    /// status of the first server.
    fn restart(&mut self, signal: &str) -> i64 {
        Process(self.pid.parse().unwrap()).signal(signal);
        let ended = self.process.until("{\"ended\"");
        let ended: Value = serde_json::from_str(&ended).unwrap();
        self.await_start();
        ended["ended"].as_i64().unwrap()
    }
}

/// If no process listens, the proxy answers 502, which ends an `EventSource` permanently. With the
/// socket unit a listener is always open. So no client receives a 502, even if its stream
/// reconnects before the next server has started.
#[test]
fn restarts_behind_nginx_end_no_event_source() {
    const ORIGINS: u64 = 10;
    let folder = tempfile::tempdir().unwrap();
    let mut manager = Manager::start(folder.path());
    let proxy = Recipe::Nginx.start(manager.addr, manager.addr);
    let profile = folder.path().join("profile");
    let mut browser = Lines::run(
        Command::new("node")
            .arg(dependency("node").join("browser_restart.mjs"))
            .args(["/usr/bin/chromium", &format!("http://{}/", proxy.addr)])
            .arg(&profile)
            .args([&ORIGINS.to_string(), "2"]),
    );
    assert_eq!(browser.json()["open"], 6 * ORIGINS);
    for (signal, status) in [("TERM", 0), ("KILL", -9)] {
        assert_eq!(manager.restart(signal), status);
        let expected = json!({"reopened": 6 * ORIGINS, "stopped": 0});
        assert_eq!(browser.json(), expected, "after {signal}");
    }
    assert!(browser.wait().success(), "{}", browser.stderr());
}
