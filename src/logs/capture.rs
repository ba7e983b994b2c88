//! Captures what a call logs. For tests.

use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};

/// Returns the lines that this thread logs during the call.
pub(crate) fn logged(act: impl FnOnce()) -> String {
    let (lines, read) = channel();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || Sent(lines.clone()))
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    read.iter().collect()
}

struct Sent(Sender<String>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes).into_owned();
        self.0.send(line).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
