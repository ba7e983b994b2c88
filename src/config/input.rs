//! SHELL: this module reads a file that the operator names: a configuration, a certificate, a key.
//!
//! A FIFO works like a file, so that a secret does not need to be stored on a disk. A FIFO that
//! does not end times out, however slowly its writer writes. An endless device exceeds the size
//! limit. So neither can block a start or a reload. One [`InputReader`] limits the wait for all its
//! files together.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::limits::{INPUT_BYTES, INPUT_WAIT_MS};

/// The size of the read buffer, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Reads files. The wait for all of them together is limited.
#[derive(Clone, Copy, Debug)]
pub struct InputReader {
    deadline: Instant,
    /// The time from the creation of the reader to the deadline.
    wait: Duration,
}

impl Default for InputReader {
    fn default() -> Self {
        Self::new(Duration::from_millis(INPUT_WAIT_MS))
    }
}

impl InputReader {
    fn new(wait: Duration) -> Self {
        Self {
            deadline: Instant::now() + wait,
            wait,
        }
    }

    /// Reads the whole content of a file.
    ///
    /// # Errors
    /// Returns [`ErrorKind::TimedOut`] if the file is a FIFO that has not ended [`INPUT_WAIT_MS`]
    /// after the creation of this reader, [`ErrorKind::FileTooLarge`] if the input exceeds
    /// [`INPUT_BYTES`], or the error of a system call.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_until(path, *self)
    }
}

/// Reads the whole content of a file.
///
/// # Errors
/// Returns an error of [`InputReader::read`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    InputReader::default().read(path)
}

/// Reads the whole content of a file as text.
///
/// # Errors
/// Returns [`ErrorKind::InvalidData`] if the content is not UTF-8, or an error of [`read`].
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| {
        let error = error.utf8_error();
        io::Error::new(ErrorKind::InvalidData, error)
    })
}

fn read_until(path: &Path, limit: InputReader) -> io::Result<Vec<u8>> {
    let mut options = File::options();
    options.read(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let mut file = options.open(path)?;
    let mut content = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        // A FIFO without a writer appears to be empty. So the poll waits until a writer has opened
        // the FIFO.
        await_input(&file, limit)?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(content),
            Ok(bytes) => content.extend(buffer.iter().take(bytes)),
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
            Err(error) => return Err(error),
        }
        if content.len() > INPUT_BYTES {
            let message = format!("it has more than {INPUT_BYTES} bytes");
            return Err(io::Error::new(ErrorKind::FileTooLarge, message));
        }
    }
}

/// Waits until input is available or the file ends. A regular file never waits, so it can be read
/// after the deadline, too.
fn await_input(file: &File, limit: InputReader) -> io::Result<()> {
    loop {
        let left = limit.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut waiting = [PollFd::new(file, PollFlags::IN)];
        match poll(&mut waiting, Some(&timeout)) {
            Ok(0) => {
                let seconds = limit.wait.as_secs();
                let message = format!(
                    "it did not end within {seconds} s: a FIFO needs a process that writes to it \
                     and closes it"
                );
                return Err(io::Error::new(ErrorKind::TimedOut, message));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::path::PathBuf;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn fifo(place: &Path) -> PathBuf {
        let path = place.join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    #[test]
    fn files_are_read_to_their_end() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        for length in [0, 1, READ_BYTES, 3 * READ_BYTES + 1] {
            let content = vec![b'a'; length];
            fs::write(&path, &content).unwrap();
            assert!(read(&path).unwrap() == content, "{length}");
        }
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        let directory = read(place.path()).unwrap_err();
        assert_eq!(directory.kind(), ErrorKind::IsADirectory);
    }

    #[test]
    fn fifo_is_read_until_its_writer_closes_it() {
        let place = tempfile::tempdir().unwrap();
        let path = fifo(place.path());
        let content = vec![b'a'; 3 * READ_BYTES];
        let (to_write, written) = (path.clone(), content.clone());
        let writer = thread::spawn(move || {
            let mut file = File::options().write(true).open(to_write).unwrap();
            for part in written.chunks(1000) {
                file.write_all(part).unwrap();
            }
        });
        assert!(read(&path).unwrap() == content);
        writer.join().unwrap();
        // The shell's process substitution passes such a path, for example `/dev/fd/63`.
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"secret").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(read(Path::new(&path)).unwrap(), b"secret");
    }

    #[test]
    fn silent_or_endless_input_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let path = fifo(place.path());
        let read_briefly = |path| InputReader::new(Duration::from_millis(20)).read(path);
        let silent = read_briefly(&path).unwrap_err();
        assert_eq!(silent.kind(), ErrorKind::TimedOut);
        // The FIFO now has a writer, but the writer does not write.
        let _writer = File::options().read(true).write(true).open(&path).unwrap();
        let silent = read_briefly(&path).unwrap_err();
        assert_eq!(silent.kind(), ErrorKind::TimedOut);
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(endless.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn writer_that_is_never_silent_for_long_times_out() {
        let place = tempfile::tempdir().unwrap();
        let path = fifo(place.path());
        let mut writer = File::options().read(true).write(true).open(&path).unwrap();
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let drip = thread::spawn(move || {
            let step = Duration::from_millis(5);
            while stopped.recv_timeout(step) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                writer.write_all(b"a").unwrap();
            }
        });
        let reader = InputReader::new(Duration::from_millis(100));
        let slow = reader.read(&path).unwrap_err();
        assert_eq!(slow.kind(), ErrorKind::TimedOut);
        drop(stop);
        drip.join().unwrap();
        // The time of this reader is used up. It does not wait for the next FIFO, but it still
        // reads a file.
        let begun = Instant::now();
        let next = InputReader::read(&reader, &path);
        assert!(next.is_err() && begun.elapsed() < Duration::from_secs(5));
        let file = place.path().join("file");
        fs::write(&file, b"secret").unwrap();
        assert_eq!(reader.read(&file).unwrap(), b"secret");
    }
}
