//! `fanfare subscribe` over TLS and with tokens: which certificates it accepts, how it reports a
//! refusal, and that a reconnect uses a renewed token.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::support::secure::{Certificate, tls_addr};
use crate::support::{Feeder, Server, fanfare, within};

const TLS: &[&str] = &["--listen", "127.0.0.1:0 tls"];
const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// A URL of each transport, without its scheme and host.
const PATHS: [(&str, &str); 3] = [
    ("wss", "/ws?channel=a"),
    ("https", "/sse?channel=a"),
    ("https", "/poll?channel=a"),
];

/// A server with TLS that needs a token, and the files of its clients.
struct Rig {
    folder: TempDir,
    certificate: Certificate,
    server: Server,
    token: PathBuf,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(folder.path(), "own");
        let secret = folder.path().join("secret");
        fs::write(&secret, SECRET).unwrap();
        let auth = format!("[auth]\nkeys = [\"HS256 {}\"]\n", secret.display());
        let server = Server::with(&format!("{auth}{}", certificate.config()), TLS);
        let token = folder.path().join("token");
        let rig = Self {
            folder,
            certificate,
            server,
            token,
        };
        rig.renew("alice");
        rig
    }

    /// Replaces the token in the file by one for this subject, as a renewal does.
    fn renew(&self, subject: &str) {
        let new = self.token.with_extension("new");
        fs::write(&new, self.token_of(subject)).unwrap();
        fs::rename(new, &self.token).unwrap();
    }

    fn token_of(&self, subject: &str) -> String {
        let secret = self.folder.path().join("secret");
        let output = fanfare()
            .args(["token", "--subscribe", "a", "--sub", subject, "--key"])
            .arg(secret)
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    fn url(&self, (scheme, path): (&str, &str)) -> String {
        let port = tls_addr(&self.server).port();
        format!("{scheme}://localhost:{port}{path}")
    }

    /// Returns a subscriber that trusts the certificate and sends the token in the file.
    fn subscriber(&self, url: &str) -> Command {
        let mut command = subscriber(url, &["--token-file"]);
        command.arg(&self.token);
        command.arg("--cacert").arg(&self.certificate.path);
        command
    }

    /// Publishes until the subscriber has ended, and returns its output. A poll begins without a
    /// position, so a single publication might precede it.
    fn publish_until_end(&self, mut child: Child) -> Output {
        let mut feeder = Feeder::connect(&self.server.feed);
        within("the end of the subscriber", || {
            feeder.publish("a", 1);
            child.try_wait().unwrap()
        });
        child.wait_with_output().unwrap()
    }
}

fn subscriber(url: &str, flags: &[&str]) -> Command {
    let mut command = fanfare();
    command.args(["subscribe", url, "--count", "1", "--timeout", "30"]);
    command.args(flags);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Asserts that a subscriber has received a publication. Returns standard error.
fn received(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert_eq!(
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
    errors
}

/// Runs a subscriber that must fail without a second attempt. Returns standard error.
fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(!errors.contains("trying again"), "{errors}");
    errors
}

#[test]
fn subscriber_with_a_token_receives_over_tls_on_each_transport() {
    let rig = Rig::start();
    for target in PATHS {
        let child = rig.subscriber(&rig.url(target)).spawn().unwrap();
        let errors = received(&rig.publish_until_end(child));
        assert_eq!(errors, "");
        let token = rig.token_of("bob");
        let mut command = subscriber(&rig.url(target), &["--token", token.trim()]);
        command.arg("--cacert").arg(&rig.certificate.path);
        received(&rig.publish_until_end(command.spawn().unwrap()));
    }
}

#[test]
fn subscriber_trusts_the_authorities_of_the_system() {
    let rig = Rig::start();
    let mut command = subscriber(&rig.url(PATHS[0]), &["--token-file"]);
    command.arg(&rig.token);
    // The variable names the authorities of the system, as for OpenSSL.
    command.env("SSL_CERT_FILE", &rig.certificate.path);
    received(&rig.publish_until_end(command.spawn().unwrap()));
}

#[test]
fn insecure_subscriber_accepts_any_certificate_with_a_warning() {
    let rig = Rig::start();
    for target in PATHS {
        let mut command = subscriber(&rig.url(target), &["--insecure", "--token-file"]);
        command.arg(&rig.token);
        let errors = received(&rig.publish_until_end(command.spawn().unwrap()));
        assert!(errors.starts_with("warning: --insecure"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn subscriber_trusts_a_named_certificate_that_is_also_an_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
    // By default, this command makes certificates that are marked as authorities.
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=a"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-out"])
        .arg(&path)
        .arg("-keyout")
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let config = format!("[tls]\ncertificates = [{path:?}]\nkeys = [{key:?}]\n");
    let server = Server::with(&config, TLS);
    let port = tls_addr(&server).port();
    let with = |host: &str| {
        let mut command = subscriber(&format!("wss://{host}:{port}/ws?channel=a"), &[]);
        command.arg("--cacert").arg(&path);
        command
    };
    let child = with("localhost").spawn().unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    Feeder::connect(&server.feed).publish("a", 1);
    received(&child.wait_with_output().unwrap());
    let errors = fails(with("127.0.0.1"));
    assert!(errors.contains("is not valid: "), "{errors}");
}

#[test]
fn subscriber_refuses_wrong_certificates_and_plain_ports_at_once() {
    let rig = Rig::start();
    let folder = rig.folder.path();
    let stranger = Certificate::make(folder, "stranger");
    let trusting = |certificate: &Path, url: &str| {
        let mut command = subscriber(url, &["--cacert"]);
        command.arg(certificate);
        fails(command)
    };
    let other = Certificate::make_for(&["other.example"], folder, "other");
    let misnamed = Server::with(&other.config(), TLS);
    let wrong_port = tls_addr(&misnamed).port();
    for (scheme, path) in PATHS {
        let url = rig.url((scheme, path));
        let errors = trusting(&stranger.path, &url);
        assert!(errors.contains("from an unknown authority"), "{errors}");
        assert!(errors.contains("--cacert"), "{errors}");
        let url = format!("{scheme}://localhost:{wrong_port}{path}");
        let errors = trusting(&other.path, &url);
        assert!(errors.contains("other.example"), "{errors}");
        let url = format!("{scheme}://{}{path}", rig.server.addr);
        let errors = trusting(&rig.certificate.path, &url);
        assert!(errors.contains("does not speak TLS"), "{errors}");
        let plain = rig.url((scheme.strip_suffix('s').unwrap(), path));
        let errors = fails(subscriber(&plain, &[]));
        assert!(errors.contains("plain http on tls (400)"), "{errors}");
    }
}

#[test]
fn subscriber_does_not_repeat_a_refused_token() {
    let rig = Rig::start();
    fs::write(&rig.token, "x.y.z\n").unwrap();
    for target in PATHS {
        let errors = fails(rig.subscriber(&rig.url(target)));
        assert!(errors.contains("(401)"), "{errors}");
        assert!(!errors.contains("x.y.z"), "{errors}");
    }
    rig.renew("alice");
    for (scheme, path) in PATHS {
        let url = rig.url((scheme, &path.replace("=a", "=b")));
        let errors = fails(rig.subscriber(&url));
        assert!(errors.contains("not allowed"), "{errors}");
    }
}

#[test]
fn subscriber_reconnects_with_a_renewed_token() {
    let rig = Rig::start();
    for target in &PATHS[..2] {
        rig.renew("alice");
        let mut command = rig.subscriber(&rig.url(*target));
        let child = command.arg("--verbose").spawn().unwrap();
        rig.server.await_metric("fanfare_subscribers", 1.0);
        let token = fs::read_to_string(&rig.token).unwrap();
        rig.renew("bob");
        let mut feeder = Feeder::connect(&rig.server.feed);
        let mut disconnect_alice = || {
            feeder.send(&json!({
                "disconnect_sub": "alice", "code": 4002, "reason": "token_expired", "ack": true,
            }));
            feeder.answer()["conns"].clone()
        };
        let accepted = "fanfare_tokens_total{outcome=\"accepted\"}";
        let before = rig.server.metric(accepted);
        assert_eq!(disconnect_alice(), 1);
        // The new connection has the token that the file has now.
        rig.server.await_metric(accepted, before + 1.0);
        assert_eq!(disconnect_alice(), 0);
        let errors = received(&rig.publish_until_end(child));
        assert!(errors.contains("4002 (token_expired)"), "{errors}");
        assert!(!errors.contains(token.trim()), "{errors}");
        rig.server.await_metric("fanfare_subscribers", 0.0);
    }
    // The file still has the token of the connection that is closed.
    let child = rig.subscriber(&rig.url(PATHS[0])).spawn().unwrap();
    rig.server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&rig.server.feed);
    feeder.write("{\"disconnect_sub\":\"bob\",\"code\":4002,\"reason\":\"token_expired\"}\n");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
