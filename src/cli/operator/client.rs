//! Sends requests to the operator's socket and reads the answers.
//!
//! One connection serves one request. All steps share one deadline, so that a server that is
//! stopped or overloaded cannot hold the command.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use super::super::Failure;
use super::args::SocketArgs;
use super::text::escape;
use fanfare::config::file;
use fanfare::operator;
use fanfare::operator::answer::ErrorAnswer;
use fanfare::operator::request::Request;

/// The time for one exchange, if nothing else is said. The server waits at most a second for its
/// workers, three times for some requests.
const PATIENCE: Duration = Duration::from_secs(15);
/// The maximum length of an answer, in bytes. A full list of connections has about a megabyte.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The operator's socket of the packaged service, used if the default path does not exist.
const SERVICE_SOCKET: &str = "/run/fanfare/feed.sock.admin";

/// The reason why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The server has closed the connection.
    #[error("the server closed the connection without a complete answer; its log has the reason")]
    Closed,
    /// The connection cannot be made, or it has failed.
    #[error("{error}")]
    Failed {
        /// The error of the system.
        error: io::Error,
    },
    /// Nothing listens at the path.
    #[error(
        "no server listens there ({error}); start `fanfare serve`, or name another socket with \
         --socket or FANFARE_ADMIN_SOCKET"
    )]
    NoServer {
        /// The error of the system.
        error: io::Error,
    },
    /// The answer is not an answer to the request.
    #[error(
        "the answer is not one that fanfare {} understands; use the program of the server's \
         version ({problem})",
        env!("CARGO_PKG_VERSION")
    )]
    NotUnderstood {
        /// What is wrong with the answer.
        problem: String,
    },
    /// The user may not use the socket.
    #[error("permission denied; run the command as root or as the server's user")]
    PermissionDenied,
    /// The server has answered with an error, which can have several lines.
    #[error("the server answered: {0}")]
    Refused(String),
    /// There was no answer in time.
    #[error("no answer within {} s; the server is stopped or overloaded", patience.as_secs())]
    TimedOut {
        /// The time for which the client has waited.
        patience: Duration,
    },
}

impl ClientError {
    fn new(error: io::Error, patience: Duration) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::NoServer { error },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            // The kernel reports a socket's time-out as `WouldBlock`.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut { patience },
            _ => Self::Failed { error },
        }
    }
}

/// An answer of the server.
#[derive(Debug)]
pub(super) struct Answer<T> {
    /// The content.
    pub(super) content: T,
    /// The line as the server sent it. It can have keys that this version does not know.
    pub(super) line: String,
}

/// The path of an operator's socket.
#[derive(Clone, Debug)]
pub(super) struct Client {
    path: PathBuf,
    patience: Duration,
}

impl Client {
    /// Finds the socket. The flag and its variable have priority, then the feed that `FANFARE_FEED`
    /// names, the default feed and the service.
    ///
    /// # Errors
    /// Returns a usage error if the variable says that the server has no such socket.
    pub(super) fn new(args: &SocketArgs) -> Result<Self, Failure> {
        let feed = std::env::var_os("FANFARE_FEED").filter(|path| !path.is_empty());
        let path = match &args.socket {
            Some(path) if path.as_os_str() == "off" => {
                return Err(Failure::Usage(String::from(
                    "the operator's socket is off; name a socket with --socket",
                )));
            }
            Some(path) => path.clone(),
            None => match feed {
                Some(feed) => operator::default_path(Path::new(&feed)),
                None => default_path(&file::default_feed_path(), Path::new(SERVICE_SOCKET)),
            },
        };
        Ok(Self::at(path, PATIENCE))
    }

    fn at(path: PathBuf, patience: Duration) -> Self {
        Self { path, patience }
    }

    /// Waits longer for the answer, because the request takes long.
    pub(super) fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns the path of the socket, for messages.
    pub(super) fn path(&self) -> String {
        escape(&self.path.to_string_lossy())
    }

    /// Sends a request and returns the answer. The error names the socket.
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<Answer<T>, Failure> {
        self.try_ask(request).map_err(|error| self.failure(error))
    }

    /// Returns the failure of the command for an error.
    pub(super) fn failure(&self, error: ClientError) -> Failure {
        Failure::Running(match error {
            ClientError::Refused(_) => anyhow::Error::new(error),
            _ => anyhow::Error::new(error).context(format!("operator's socket {}", self.path())),
        })
    }

    /// Sends a request and returns the answer.
    pub(super) fn try_ask<T: DeserializeOwned>(
        &self,
        request: &Request,
    ) -> Result<Answer<T>, ClientError> {
        let mut line = serde_json::to_string(request).map_err(|error| ClientError::Failed {
            error: error.into(),
        })?;
        line.push('\n');
        let answer = self.exchange(&line);
        parse(answer.map_err(|error| ClientError::new(error, self.patience))?)
    }

    /// Sends a line and returns everything that the server sends.
    fn exchange(&self, line: &str) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + self.patience;
        let mut stream = connect(&self.path, left(deadline)?)?;
        stream.set_write_timeout(Some(left(deadline)?))?;
        let sent = stream.write_all(line.as_bytes());
        // A server that refuses the connection answers before it has read the request.
        let mut answer = Vec::new();
        let received = receive(&stream, deadline, &mut answer);
        if answer.is_empty() {
            sent?;
        }
        received?;
        Ok(answer)
    }
}

/// Returns the path of the socket beside the default feed, or else the service's path, if only that
/// exists. A socket of another user does not count: the default feed can be below `/tmp`.
fn default_path(feed: &Path, service: &Path) -> PathBuf {
    let own = operator::default_path(feed);
    let user = rustix::process::geteuid().as_raw();
    let is_ours = own.metadata().is_ok_and(|file| file.uid() == user);
    if !is_ours && service.exists() {
        return service.to_path_buf();
    }
    own
}

/// Connects with a time limit: a connection to a Unix socket waits while the backlog is full.
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Reads until the server closes the connection, or until the end of the line.
fn receive(stream: &UnixStream, deadline: Instant, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut limited = stream.take(ANSWER_BYTES_MAX);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let count = match limited.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let received = fanfare::certain::take(&buffer, count);
        answer.extend_from_slice(received);
        if count == 0 || received.contains(&b'\n') {
            return Ok(());
        }
    }
}

/// Returns the time until a deadline, or `TimedOut` if the deadline has passed.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn parse<T: DeserializeOwned>(answer: Vec<u8>) -> Result<Answer<T>, ClientError> {
    let not_understood = |problem: String| ClientError::NotUnderstood {
        problem: escape(&problem),
    };
    let text = String::from_utf8(answer).map_err(|error| not_understood(error.to_string()))?;
    let Some((line, _)) = text.split_once('\n') else {
        return Err(ClientError::Closed);
    };
    if let Ok(ErrorAnswer { error }) = serde_json::from_str(line) {
        let lines: Vec<String> = error.lines().map(escape).collect();
        return Err(ClientError::Refused(lines.join("\n")));
    }
    let content = serde_json::from_str(line).map_err(|error| not_understood(error.to_string()))?;
    Ok(Answer {
        content,
        line: String::from(line),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use fanfare::operator::answer::{LogLevelAnswer, WorkersAnswer};
    use fanfare::operator::request::{Empty, LogLevelRequest};

    /// Serves one connection: reads a line, calls `answer` with it, and ends.
    fn served(
        answer: impl FnOnce(&mut UnixStream, &str) + Send + 'static,
    ) -> (Client, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed.sock.admin");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            answer(&mut stream, &line);
        });
        (Client::at(path, Duration::from_secs(20)), folder)
    }

    fn error_of(answer: &'static [u8]) -> String {
        let (client, _folder) = served(move |stream, _| stream.write_all(answer).unwrap());
        let asked = client.ask::<WorkersAnswer>(&Request::Workers(Empty {}));
        format!("{:#}", asked.unwrap_err())
    }

    #[test]
    fn request_is_one_line_and_so_is_the_answer() {
        let (client, _folder) = served(|stream, line| {
            assert_eq!(line, "{\"log_level\":{\"level\":\"debug\"}}\n");
            // Keys of a newer version are ignored, but kept for `--json`.
            let answer = b"{\"level\":\"debug\",\"until\":7}\n";
            let (first, second) = answer.split_at(5);
            stream.write_all(first).unwrap();
            stream.write_all(second).unwrap();
        });
        let request = Request::LogLevel(LogLevelRequest {
            level: Some("debug".to_owned()),
        });
        let answer: Answer<LogLevelAnswer> = client.ask(&request).unwrap();
        assert_eq!(answer.content.level, "debug");
        assert_eq!(answer.line, "{\"level\":\"debug\",\"until\":7}");
    }

    #[test]
    fn closed_connection_is_named() {
        for answer in ["", "{", "{\"workers\":[]}"] {
            let error = error_of(answer.as_bytes());
            assert!(error.contains("feed.sock.admin: "), "{error}");
            assert!(error.contains("closed the connection"), "{error}");
        }
    }

    #[test]
    fn answer_of_another_version_is_named() {
        for answer in [
            "hello\n",
            "{\"conns\":[]}\n",
            "[]\n",
            "\n",
            "{\"workers\":[{}]}\n",
        ] {
            let error = error_of(answer.as_bytes());
            assert!(error.contains("the server's version"), "{answer}: {error}");
        }
        assert!(error_of(b"\xff\xfe\n").contains("the server's version"));
        let shown = error_of("{\"\u{1b}[2J\":".as_bytes());
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn error_of_the_server_is_passed_on() {
        let error = error_of(b"{\"error\":\"limit is 0, but must be 1 to 1000\"}\n");
        assert_eq!(
            error,
            "the server answered: limit is 0, but must be 1 to 1000"
        );
    }

    #[test]
    fn refusal_before_the_request_is_read_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"error\":\"too many\"}\n").unwrap();
        });
        let client = Client::at(path, Duration::from_secs(20));
        let error = client.ask::<WorkersAnswer>(&Request::Workers(Empty {}));
        assert!(error.unwrap_err().to_string().ends_with(": too many"));
    }

    #[test]
    fn silent_server_is_given_up_after_the_deadline() {
        let (mut client, _folder) = served(|stream, _| {
            stream.write_all(b"{").unwrap();
            // The client closes the connection.
            let _ended = stream.read(&mut [0]);
        });
        client.patience = Duration::from_millis(50);
        let error = client.try_ask::<WorkersAnswer>(&Request::Workers(Empty {}));
        assert!(
            matches!(error, Err(ClientError::TimedOut { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn full_backlog_is_given_up_after_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let waiting = [0; 4].map(|_| connect(&path, Duration::from_millis(20)).ok());
        assert!(waiting.iter().any(Option::is_none), "{waiting:?}");
        let client = Client::at(path, Duration::from_millis(20));
        let error = client.try_ask::<WorkersAnswer>(&Request::Workers(Empty {}));
        assert!(
            matches!(error, Err(ClientError::TimedOut { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn missing_server_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin");
        let client = Client::at(path.clone(), PATIENCE);
        let error = || {
            let asked = client.ask::<WorkersAnswer>(&Request::Workers(Empty {}));
            format!("{:#}", asked.unwrap_err())
        };
        assert!(error().contains("no server listens there"), "{}", error());
        drop(UnixListener::bind(&path).unwrap());
        assert!(error().contains("no server listens there"), "{}", error());
    }

    #[test]
    fn default_path_is_beside_the_feed_unless_only_the_service_exists() {
        let folder = tempfile::tempdir().unwrap();
        let (feed, service) = (folder.path().join("f"), folder.path().join("s"));
        let own = folder.path().join("f.admin");
        assert_eq!(default_path(&feed, &service), own);
        std::fs::write(&service, "").unwrap();
        assert_eq!(default_path(&feed, &service), service);
        std::fs::write(&own, "").unwrap();
        assert_eq!(default_path(&feed, &service), own);
    }

    #[test]
    fn socket_that_is_off_is_a_usage_error() {
        let args = SocketArgs {
            socket: Some("off".into()),
        };
        assert!(matches!(Client::new(&args), Err(Failure::Usage(_))));
    }
}
