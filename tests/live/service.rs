//! The service manager's protocol: notifications, the watchdog, and inherited sockets.
//!
//! The test simulates the manager, with a datagram socket for notifications and a launcher that
//! passes listening sockets as descriptors 3 and 4. tests/systemd/run tests the same with a real
//! systemd.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Feeder, Lines, PATIENCE, Process, Raw, Socket, within};

/// A server with inherited sockets, and the socket for its notifications.
struct Service {
    process: Lines,
    _folder: TempDir,
    notices: UnixDatagram,
    addr: SocketAddr,
    feed: PathBuf,
    pid: String,
}

impl Service {
    fn start(environment: &[(&str, &OsStr)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let notify = folder.path().join("notify.sock");
        let notices = UnixDatagram::bind(&notify).unwrap();
        Self::notifying(notices, notify.as_os_str(), folder, environment)
    }

    fn notifying(
        notices: UnixDatagram,
        notify: &OsStr,
        folder: TempDir,
        environment: &[(&str, &OsStr)],
    ) -> Self {
        notices.set_read_timeout(Some(PATIENCE)).unwrap();
        let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/activation.py");
        let mut process = Lines::run(
            Command::new("python3")
                .arg(launcher)
                .arg(folder.path())
                .arg(env!("CARGO_BIN_EXE_fanfare"))
                .args(["serve", "--workers", "2", "--admin", "127.0.0.1:0"])
                .args([
                    "--listen",
                    "127.0.0.1:1",
                    "--feed",
                    "/nonexistent/feed.sock",
                ])
                .env("NOTIFY_SOCKET", notify)
                .env("FANFARE_DRAIN_WINDOW_MS", "500")
                .envs(environment.iter().copied()),
        );
        let started: Value = serde_json::from_str(&process.next().unwrap()).unwrap();
        let port = u16::try_from(started["tcp"].as_u64().unwrap()).unwrap();
        Self {
            process,
            notices,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            feed: folder.path().join("handed.sock"),
            _folder: folder,
            pid: started["pid"].to_string(),
        }
    }

    fn notice(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.notices.recv(&mut bytes).expect("no notice");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn ready(&mut self) -> String {
        let line = self.process.next().unwrap();
        assert_eq!(self.notice(), format!("READY=1\nSTATUS={line}\n"));
        line
    }

    fn signal(&self, name: &str) {
        Process(self.pid.parse().unwrap()).signal(name);
    }
}

#[test]
fn manager_is_notified_of_ready_with_the_status_and_of_stopping() {
    let mut service = Service::start(&[]);
    let line = service.ready();
    assert!(line.starts_with("fanfare ") && line.contains(" ready: http://"));
    service.signal("TERM");
    let notice = service.notice();
    assert!(notice.starts_with("STOPPING=1\nSTATUS="), "{notice}");
    assert!(service.process.wait().success());
}

#[test]
fn abstract_notify_socket_gets_ready_and_the_watchdog() {
    let name = format!("fanfare-test-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    let notices = UnixDatagram::bind_addr(&address).unwrap();
    let notify = format!("@{name}");
    let environment = [("WATCHDOG_USEC", OsStr::new("300000"))];
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::notifying(notices, OsStr::new(&notify), folder, &environment);
    service.ready();
    for _ in 0..2 {
        assert_eq!(service.notice(), "WATCHDOG=1\n");
    }
    service.signal("TERM");
    assert!(service.process.wait().success());
}

#[test]
fn watchdog_is_notified_while_all_workers_turn() {
    let mut service = Service::start(&[("WATCHDOG_USEC", OsStr::new("300000"))]);
    service.ready();
    for _ in 0..5 {
        assert_eq!(service.notice(), "WATCHDOG=1\n");
    }
}

#[test]
fn watchdog_is_notified_while_signals_arrive_all_the_time() {
    let mut service = Service::start(&[("WATCHDOG_USEC", OsStr::new("900000"))]);
    service.ready();
    let pid = service.pid.parse().ok().and_then(Pid::from_raw).unwrap();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    let sender = thread::spawn(move || {
        // The pause between two signals is much shorter than the pause between two notifications.
        let pause = Duration::from_millis(5);
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            kill_process(pid, Signal::USR1).unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(service.notice(), "WATCHDOG=1\n");
    }
    drop(stop);
    sender.join().unwrap();
}

#[test]
fn watchdog_of_another_process_is_not_notified() {
    let environment = [("WATCHDOG_USEC", "30000"), ("WATCHDOG_PID", "1")];
    let environment = environment.map(|(name, value)| (name, OsStr::new(value)));
    let mut service = Service::start(&environment);
    service.ready();
    // The test waits for twenty times the interval between two watchdog notifications.
    let wait = Duration::from_millis(200);
    service.notices.set_read_timeout(Some(wait)).unwrap();
    assert!(service.notices.recv(&mut [0]).is_err());
    service.notices.set_read_timeout(Some(PATIENCE)).unwrap();
    service.signal("TERM");
    assert!(service.notice().starts_with("STOPPING=1\n"));
}

#[test]
fn inherited_sockets_replace_those_of_the_configuration() {
    let mut service = Service::start(&[]);
    let line = service.ready();
    assert!(
        line.contains(&format!("http://{} ", service.addr)),
        "{line}"
    );
    assert!(!line.contains("127.0.0.1:1 "), "{line}");
    let mut printed = String::new();
    within("both warnings", || {
        printed += &service.process.stderr();
        let parts = [
            "WARN",
            "`listen` names it: 127.0.0.1:1. ",
            "and not on /nonexistent/feed.sock",
        ];
        parts
            .iter()
            .all(|part| printed.contains(part))
            .then_some(())
    });
    // There are so many connections that each of the two workers has some of them.
    let mut sockets: Vec<Socket> = (0..8)
        .map(|_| Socket::subscribed(service.addr, "channel=a"))
        .collect();
    let id = Feeder::connect(&service.feed).publish("a", 1);
    for socket in &mut sockets {
        assert_eq!(socket.publication()["id"], id.as_str());
    }
}

#[test]
fn inherited_tls_socket_without_a_certificate_stops_the_start_with_status_2() {
    let environment = [("ACTIVATION_NAMES", OsStr::new("tls:b"))];
    let mut service = Service::start(&environment);
    assert_eq!(service.process.wait().code(), Some(2));
    let mut printed = String::new();
    within("the error", || {
        printed += &service.process.stderr();
        let place = "default: tls.certificates: is empty, but a socket unit";
        printed.contains(place).then_some(())
    });
}

#[test]
fn wrong_number_of_socket_names_stops_the_start() {
    let mut service = Service::start(&[("ACTIVATION_NAMES", OsStr::new("tls"))]);
    assert_eq!(service.process.wait().code(), Some(1));
    let mut service = Service::start(&[("ACTIVATION_NAMES", OsStr::new(""))]);
    service.ready();
}

#[test]
fn sockets_for_another_process_and_an_unknown_notify_socket_do_not_stop_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Lines::run(
        crate::support::fanfare()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "off",
                "--feed",
            ])
            .arg(folder.path().join("feed.sock"))
            .envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "1")])
            .envs([
                ("WATCHDOG_USEC", "30000"),
                ("NOTIFY_SOCKET", "vsock:2:1234"),
            ]),
    );
    let ready = process.next().unwrap();
    assert!(ready.contains(" ready: http://127.0.0.1:"), "{ready}");
    let mut printed = String::new();
    within("a warning", || {
        printed += &process.stderr();
        printed
            .contains("NOTIFY_SOCKET=\"vsock:2:1234\"")
            .then_some(())
    });
    assert_eq!(printed.matches("WARN").count(), 1, "{printed}");
}

#[test]
fn removed_inherited_feed_is_reported_and_not_bound_again() {
    let mut service = Service::start(&[]);
    let line = service.ready();
    let (_, admin) = line.split_once("admin=http://").unwrap();
    let admin: SocketAddr = admin.split(' ').next().unwrap().parse().unwrap();
    let mut connected = Feeder::connect(&service.feed);
    connected.publish("a", 0);
    let aside = service.feed.with_extension("aside");
    std::fs::rename(&service.feed, &aside).unwrap();
    let reason = within("/readyz 503", || {
        let answer = Raw::get(admin, "/readyz");
        (answer.status == 503).then(|| answer.body_text().to_owned())
    });
    let printed = format!("the feed's socket {}, which", service.feed.display());
    assert!(
        reason.contains(&printed) && reason.contains("restart its socket unit"),
        "{reason}"
    );
    let mut log = String::new();
    within("the reason in the log", || {
        log += &service.process.stderr();
        log.contains(&printed).then_some(())
    });
    assert!(!service.feed.exists());
    connected.publish("a", 1);
    std::fs::rename(&aside, &service.feed).unwrap();
    within("/readyz 200", || {
        (Raw::get(admin, "/readyz").status == 200).then_some(())
    });
}

#[test]
fn inherited_feed_is_left_for_the_next_server() {
    let mut service = Service::start(&[]);
    service.ready();
    service.signal("TERM");
    assert!(service.process.wait().success());
    assert!(service.feed.exists());
    // A service manager would keep the sockets open. Here the launcher has replaced itself with the
    // server, so no process listens after the server's end.
    assert!(TcpStream::connect(service.addr).is_err());
    assert!(UnixStream::connect(&service.feed).is_err());
}
