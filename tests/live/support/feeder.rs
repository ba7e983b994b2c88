//! A feeder: a client of the feed's Unix socket that publishes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::PATIENCE;

/// One connection to the feed.
#[derive(Debug)]
pub(crate) struct Feeder(BufReader<UnixStream>);

impl Feeder {
    /// Connects to the feed's socket.
    pub(crate) fn connect(feed: &Path) -> Self {
        let stream = UnixStream::connect(feed).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends text unchanged.
    pub(crate) fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Reads the next answer.
    pub(crate) fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }

    /// Sends a publication without waiting for the answer.
    pub(crate) fn send(&mut self, publication: &Value) {
        self.write(&format!("{publication}\n"));
    }

    /// Publishes and waits for the acknowledgement. Returns the id.
    pub(crate) fn publish(&mut self, channel: &str, data: impl Into<Value>) -> String {
        self.send(&json!({"channel": channel, "data": data.into(), "ack": true}));
        let answer = self.answer();
        assert_eq!(answer["ok"], true, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Reads and discards one line.
    pub(crate) fn skip_line(&mut self) {
        self.0.skip_until(b'\n').unwrap();
    }

    /// Fills a buffer directly from the socket, without the line reader.
    pub(crate) fn take_bytes(&mut self, bytes: &mut [u8]) {
        assert!(self.0.buffer().is_empty(), "lines are read ahead");
        self.0.get_mut().read_exact(bytes).unwrap();
    }

    /// Tries to read one byte from the socket. Returns false if no byte was read.
    pub(crate) fn try_take_byte(&mut self) -> bool {
        self.0.get_mut().read(&mut [0]).is_ok_and(|count| count > 0)
    }

    /// Whether the server has closed the connection.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}
