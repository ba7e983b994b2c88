//! A reverse proxy in front of the server. A test writes the proxy's configuration, or uses one of
//! the recipes in `systemd/proxies`. The proxy runs until it is dropped.
//!
//! A recipe is used unchanged, except for its two addresses: `:80` is replaced by a free address
//! and `127.0.0.1:8080` by the server's. The parts of a distribution's main file are added around
//! the recipe: the modules to load, writable paths, and compression of everything.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::within;

/// The longest time that a proxy may need to end after SIGTERM.
const END_TIME: Duration = Duration::from_secs(5);
const HAPROXY: &str = "/usr/sbin/haproxy";
const NGINX: &str = "/usr/sbin/nginx";

#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    pub(crate) addr: SocketAddr,
    folder: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // On SIGTERM, proxies end their child processes. On SIGKILL, the child processes would
        // stay.
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = kill_process(pid.unwrap(), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < END_TIME && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            for name in ["stderr.txt", "log"] {
                let text = fs::read_to_string(self.folder.path().join(name));
                eprintln!(
                    "-- the proxy wrote to {name}:\n{}",
                    text.unwrap_or_default()
                );
            }
        }
    }
}

/// A file of `systemd/proxies`, and the part of the file that is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    Apache,
    Caddy,
    Haproxy,
    HaproxyTcp,
    Lighttpd,
    Nginx,
    Squid,
    Varnish,
}

impl Recipe {
    pub(crate) const ALL: [Self; 8] = [
        Self::Apache,
        Self::Caddy,
        Self::Haproxy,
        Self::HaproxyTcp,
        Self::Lighttpd,
        Self::Nginx,
        Self::Squid,
        Self::Varnish,
    ];

    /// Returns the name of the file.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Apache => "apache.conf",
            Self::Caddy => "Caddyfile",
            Self::Haproxy | Self::HaproxyTcp => "haproxy.cfg",
            Self::Lighttpd => "lighttpd.conf",
            Self::Nginx => "nginx.conf",
            Self::Squid => "squid.conf",
            Self::Varnish => "varnish.vcl",
        }
    }

    /// Returns the file with some parts replaced. Each part must be in the file.
    pub(crate) fn text(self, parts: &[(&str, &str)]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/proxies");
        let mut text = fs::read_to_string(path.join(self.file())).unwrap();
        for (part, other) in parts {
            assert!(text.contains(part), "{self:?} has no {part}");
            text = text.replace(part, other);
        }
        text
    }

    fn program(self) -> &'static str {
        match self {
            Self::Apache => "/usr/sbin/apache2",
            Self::Caddy => "/usr/bin/caddy",
            Self::Haproxy | Self::HaproxyTcp => HAPROXY,
            Self::Lighttpd => "/usr/sbin/lighttpd",
            Self::Nginx => NGINX,
            Self::Squid => "/usr/sbin/squid",
            Self::Varnish => "/usr/sbin/varnishd",
        }
    }

    /// Runs the proxy in front of a server. `proxied` is the server's listener that expects a PROXY
    /// header.
    pub(crate) fn start(self, server: SocketAddr, proxied: SocketAddr) -> Proxy {
        Proxy::start(self.program(), |home, addr| {
            let to = (&server.to_string()[..], &proxied.to_string()[..]);
            let config = match self {
                Self::Haproxy | Self::HaproxyTcp => self.haproxy(home, addr, to),
                Self::Squid | Self::Varnish | Self::Lighttpd => self.apart(home, addr, server),
                Self::Apache | Self::Caddy | Self::Nginx => self.whole(home, addr, to.0),
            };
            self.arguments(home, addr, &write(home, &config))
        })
    }

    fn arguments(self, home: &str, addr: SocketAddr, file: &str) -> Vec<String> {
        let (at, name) = (addr.to_string(), format!("fanfare{}", addr.port()));
        let folder = format!("{home}/varnish");
        match self {
            Self::Apache => args(&["-DFOREGROUND", "-f", file]),
            Self::Caddy => args(&["run", "--adapter", "caddyfile", "--config", file]),
            Self::Haproxy | Self::HaproxyTcp => args(&["-db", "-f", file]),
            Self::Lighttpd => args(&["-D", "-f", file]),
            Self::Nginx => args(&["-c", file]),
            // The name identifies Squid's shared memory.
            Self::Squid => args(&["-N", "-n", &name, "-f", file]),
            Self::Varnish => {
                let fixed = "-F -j none -T none -s malloc,16m -p pipe_timeout=130";
                let mut all: Vec<_> = fixed.split(' ').map(str::to_owned).collect();
                all.extend(args(&["-a", &at, "-n", &folder, "-f", file]));
                all
            }
        }
    }

    /// Returns the recipe of `haproxy`, which has two frontends. The frontend that is not tested
    /// listens on a Unix socket.
    fn haproxy(self, home: &str, addr: SocketAddr, (to, proxied): (&str, &str)) -> String {
        let (own, other) = (format!("bind {addr}"), format!("bind unix@{home}/other"));
        let (web, tcp) = match self {
            Self::HaproxyTcp => (other, own),
            _ => (own, other),
        };
        self.text(&[
            ("bind :80", &web),
            ("bind :443", &tcp),
            ("127.0.0.1:8080", to),
            ("127.0.0.1:8081", proxied),
        ])
    }

    /// Returns a proxy configuration that has the server's address in the form `host:port`.
    fn whole(self, home: &str, addr: SocketAddr, to: &str) -> String {
        let server = ("127.0.0.1:8080", to);
        if self == Self::Nginx {
            let listen = format!("listen {addr};");
            let recipe = self.text(&[("listen 80;", &listen), server]);
            let gzip = "gzip on;\ngzip_types text/event-stream;\n";
            return nginx_main(home, &format!("{gzip}{recipe}"));
        }
        if self == Self::Caddy {
            let site = format!(":{} {{\n    bind {}\n", addr.port(), addr.ip());
            let recipe = self.text(&[(":80 {", &site), server]);
            return format!("{{\n    admin off\n}}\n{recipe}");
        }
        let host = format!("<VirtualHost {addr}>");
        let recipe = self.text(&[("<VirtualHost *:80>", &host), server]);
        let modules = [
            "mpm_event",
            "authz_core",
            "env",
            "filter",
            "deflate",
            "proxy",
            "proxy_http",
        ];
        let modules = modules.map(|name| {
            format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
        });
        format!(
            "ServerRoot {home}\nDefaultRuntimeDir {home}\nPidFile {home}/pid\n\
             ErrorLog {home}/log\nServerName localhost\nUser www-data\nGroup www-data\n\
             Listen {addr}\n{}AddOutputFilterByType DEFLATE text/event-stream\n{recipe}",
            modules.concat()
        )
    }

    /// Returns a recipe that names the server's host and port separately.
    fn apart(self, home: &str, addr: SocketAddr, server: SocketAddr) -> String {
        let (ip, port) = (server.ip(), server.port());
        if self == Self::Varnish {
            let (host, port) = (format!("host = \"{ip}\""), format!("port = \"{port}\""));
            return self.text(&[("host = \"127.0.0.1\"", &host), ("port = \"8080\"", &port)]);
        }
        if self == Self::Squid {
            let listen = format!("http_port {addr}");
            let parent = format!("{ip} parent {port}");
            let parts = [
                ("http_port 80", &listen[..]),
                ("127.0.0.1 parent 8080", &parent),
            ];
            // Squid changes to another user if it is started as root.
            fs::set_permissions(home, fs::Permissions::from_mode(0o777)).unwrap();
            return format!(
                "pid_filename none\naccess_log none\ncache_log {home}/log\n\
                 coredump_dir {home}\nvisible_hostname localhost\npinger_enable off\n\
                 shutdown_lifetime 0 seconds\n{}",
                self.text(&parts)
            );
        }
        let from = "\"host\" => \"127.0.0.1\", \"port\" => 8080";
        let host = format!("\"host\" => \"{ip}\", \"port\" => {port}");
        format!(
            "server.document-root = \"{home}\"\nserver.errorlog = \"{home}/log\"\n\
             server.bind = \"{}\"\nserver.port = {}\n{}",
            addr.ip(),
            addr.port(),
            self.text(&[(from, &host)])
        )
    }
}

impl Proxy {
    /// Starts `haproxy` with a complete configuration for the address where the proxy listens.
    pub(crate) fn haproxy(config: impl FnOnce(SocketAddr) -> String) -> Self {
        Self::start(HAPROXY, |home, addr| {
            args(&["-db", "-f", &write(home, &config(addr))])
        })
    }

    /// Starts nginx with the content of the `http` block for the address where the proxy listens.
    pub(crate) fn nginx(http: impl FnOnce(SocketAddr) -> String) -> Self {
        Self::start(NGINX, |home, addr| {
            args(&["-c", &write(home, &nginx_main(home, &http(addr)))])
        })
    }

    /// Starts a program. The arguments depend on its folder and on the address where the proxy
    /// listens.
    fn start(program: &str, arguments: impl FnOnce(&str, SocketAddr) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addr = free_address();
        let home = folder.path().to_str().unwrap();
        let child = Command::new(program)
            .args(arguments(home, addr))
            .current_dir(home)
            // Caddy stores its data in this folder.
            .env("HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr.txt")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; run tests/run"));
        let proxy = Self {
            child,
            addr,
            folder,
        };
        within("the proxy", || TcpStream::connect(addr).ok());
        proxy
    }
}

/// Returns a main configuration of nginx around an `http` block.
fn nginx_main(home: &str, http: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {home}/{kind};\n"))
        .concat();
    format!(
        "daemon off; master_process off; pid {home}/pid; error_log {home}/log;\n\
         events {{}}\nhttp {{\naccess_log off;\n{temporary}{http}}}\n"
    )
}

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Writes the configuration and returns its path.
fn write(home: &str, config: &str) -> String {
    let path = format!("{home}/proxy.conf");
    fs::write(&path, config).unwrap();
    path
}

/// Returns a free port, because a proxy cannot choose a port by itself. The loopback address
/// depends on this process's id, so another run of these tests cannot use the port before the proxy
/// listens.
fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 128 | high, middle, low);
    loop {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        // Another test of this process may have received the same port for a proxy that does not
        // listen yet.
        if GIVEN.lock().unwrap().insert(addr.port()) {
            return addr;
        }
    }
}
