//! A program that stands in front of the server: nginx or `HAProxy`, until it is let go of.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::within;

#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    pub(crate) addr: SocketAddr,
    _folder: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// With a whole configuration for the address where it listens.
    pub(crate) fn haproxy(config: impl FnOnce(SocketAddr) -> String) -> Self {
        Self::start("haproxy", &["-db", "-f"], |_home, addr| config(addr))
    }

    /// With what stands in `http`, for the address where it listens.
    pub(crate) fn nginx(http: impl FnOnce(SocketAddr) -> String) -> Self {
        Self::start("nginx", &["-c"], |home, addr| {
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {home}/{kind};\n"))
                .concat();
            format!(
                "daemon off; master_process off; pid {home}/pid; error_log {home}/log;\n\
                 events {{}}\nhttp {{\naccess_log off;\n{temporary}{}}}\n",
                http(addr)
            )
        })
    }

    fn start(
        program: &str,
        flags: &[&str],
        config: impl FnOnce(&str, SocketAddr) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addr = free_address();
        let home = folder.path().to_str().unwrap();
        let file = folder.path().join("proxy.conf");
        fs::write(&file, config(home, addr)).unwrap();
        let program = format!("/usr/sbin/{program}");
        let child = Command::new(&program)
            .args(flags)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr.txt")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; run tests/run"));
        within("the proxy", || TcpStream::connect(addr).ok());
        Self {
            child,
            addr,
            _folder: folder,
        }
    }
}

/// Of a host that is this process's own: a proxy cannot be told to choose its port, and whoever
/// runs these tests beside us must not take the one that was free.
fn free_address() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 128 | high, middle, low);
    let listener = TcpListener::bind((host, 0)).unwrap();
    listener.local_addr().unwrap()
}
