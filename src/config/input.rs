//! SHELL: this module reads a file that the operator names: a configuration, a certificate, a key.
//!
//! A FIFO works like a file, so that a secret does not need to be stored on a disk. A silent FIFO
//! times out, and an endless device exceeds the size limit. So neither can block a start or a
//! reload.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::limits::{INPUT_BYTES, INPUT_PAUSE_MS};

/// The size of the read buffer, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Reads the whole content of a file.
///
/// # Errors
/// Returns [`ErrorKind::TimedOut`] if no input arrives for [`INPUT_PAUSE_MS`],
/// [`ErrorKind::FileTooLarge`] if the input exceeds [`INPUT_BYTES`], or the error of a system call.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_within(path, Duration::from_millis(INPUT_PAUSE_MS))
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

fn read_within(path: &Path, pause: Duration) -> io::Result<Vec<u8>> {
    let mut options = File::options();
    options.read(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let mut file = options.open(path)?;
    let mut content = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        // A FIFO without a writer appears to be empty. So the poll waits until a writer has opened
        // the FIFO.
        await_input(&file, pause)?;
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

/// Waits until input is available or the file ends.
fn await_input(file: &File, pause: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(pause).map_err(io::Error::other)?;
    loop {
        let mut waiting = [PollFd::new(file, PollFlags::IN)];
        match poll(&mut waiting, Some(&timeout)) {
            Ok(0) => {
                let message = format!("nothing was written to it for {} s", pause.as_secs());
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
        let pause = Duration::from_millis(20);
        let silent = read_within(&path, pause).unwrap_err();
        assert_eq!(silent.kind(), ErrorKind::TimedOut);
        // The FIFO now has a writer, but the writer does not write.
        let _writer = File::options().read(true).write(true).open(&path).unwrap();
        let silent = read_within(&path, pause).unwrap_err();
        assert_eq!(silent.kind(), ErrorKind::TimedOut);
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(endless.kind(), ErrorKind::FileTooLarge);
    }
}
