//! SHELL: this module reads and writes the non-blocking socket of one feeder.
//!
//! The kernel reports each change of readiness once, so a readiness flag stays set until a call
//! would block. The socket reads into the caller's buffer and writes the bytes of an
//! [`AnswerQueue`]. The socket does not interpret the bytes.

use std::io::{self, ErrorKind, IoSliceMut, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, RecvMsg, ReturnFlags, recvmsg};

use super::answer_queue::AnswerQueue;
use crate::config::limits::CONSUMER_PIECE_BYTES;
use crate::sys::peer::PeerProcess;
use crate::sys::unacknowledged::unacknowledged_bytes;

/// A connected stream with its readiness flags.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a report of its own")]
pub(super) struct Socket {
    stream: UnixStream,
    /// The process at the other end; `None` if the kernel does not report it.
    pub(super) peer: Option<PeerProcess>,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// Whether epoll reports free space in this socket's send buffer.
    /// [`super::feeder::Feeder::awaits_room`] determines when this is necessary.
    pub(super) is_room_reported: bool,
    /// Whether the peer has shut down its sending side. The last read then returns no bytes.
    pub(super) is_read_closed: bool,
    /// Whether the peer has closed its reading side.
    pub(super) is_hung_up: bool,
    /// The amount of data that the peer had not read at the last update, in bytes of kernel memory.
    unread: u32,
    /// The total amount of data that the peer has read until the last update, in bytes of kernel
    /// memory.
    read_by_peer: u64,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// The number of bytes that were read.
    Bytes(usize),
    /// The read would block.
    Drained,
    /// The peer has shut down its sending side.
    End,
    /// The connection has failed.
    Failed,
}

impl Socket {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let peer = PeerProcess::of(&stream).ok();
        Ok(Self {
            stream,
            peer,
            // The first read and the first write are tried without waiting for the poll to report
            // readiness.
            is_readable: true,
            is_writable: true,
            is_room_reported: false,
            is_read_closed: false,
            is_hung_up: false,
            unread: 0,
            read_by_peer: 0,
        })
    }

    /// Returns the id of the peer's process, if the kernel reports it.
    pub(super) fn pid(&self) -> Option<i32> {
        self.peer?.pid
    }

    /// Reads once. A read that does not fill the buffer has drained the socket (epoll(7)), and the
    /// kernel reports bytes that arrive later. The exception is a read that ends early because the
    /// bytes carry descriptors. The kernel then closes the descriptors and sets `MSG_CTRUNC`
    /// (recvmsg(2)).
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> ReadOutcome {
        let room = buffer.len();
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            let mut no_descriptors = RecvAncillaryBuffer::default();
            let flags = RecvFlags::empty();
            match recvmsg(&self.stream, &mut slices, &mut no_descriptors, flags) {
                Ok(RecvMsg { bytes: 0, .. }) => {
                    self.is_readable = false;
                    return ReadOutcome::End;
                }
                Ok(RecvMsg { bytes, flags, .. }) => {
                    let may_have_ended_early = flags.contains(ReturnFlags::CTRUNC);
                    self.is_readable = bytes == room || self.is_read_closed || may_have_ended_early;
                    return ReadOutcome::Bytes(bytes);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.is_readable = false;
                    return ReadOutcome::Drained;
                }
                Err(_) => return ReadOutcome::Failed,
            }
        }
    }

    /// Writes unsent answers, at most `piece_bytes` per call, until the kernel's buffer is full.
    pub(super) fn write(&mut self, answers: &mut AnswerQueue, piece_bytes: usize) {
        while self.is_writable && !answers.unsent().is_empty() {
            let unsent = answers.unsent();
            let piece = unsent.get(..piece_bytes).unwrap_or(unsent);
            match self.stream.write(piece) {
                Ok(bytes) => answers.advance(bytes),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => self.is_writable = false,
                    // The peer reads no more answers. This socket may still have unread bytes from
                    // the peer.
                    _ => {
                        answers.abandon();
                        self.is_hung_up = true;
                    }
                },
            }
        }
    }

    /// Writes to a consumer, and updates the amount of data that the consumer has read.
    pub(super) fn write_to_consumer(&mut self, answers: &mut AnswerQueue) {
        if answers.unsent().is_empty() {
            return;
        }
        self.update_unread();
        self.write(answers, CONSUMER_PIECE_BYTES);
        self.unread = unacknowledged_bytes(self.stream.as_fd());
    }

    /// Updates and returns the amount of data that the peer has not read, in bytes of kernel
    /// memory.
    pub(super) fn update_unread(&mut self) -> u32 {
        let unread = unacknowledged_bytes(self.stream.as_fd());
        if unread < self.unread {
            self.read_by_peer += u64::from(self.unread - unread);
            // The socket is marked as writable here, because the kernel reports free space only
            // when three quarters of its buffer are free.
            self.is_writable = true;
        }
        self.unread = unread;
        unread
    }

    /// Returns the total amount of data that the peer has read until the last update, in bytes of
    /// kernel memory.
    pub(super) fn read_by_peer(&self) -> u64 {
        self.read_by_peer
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    fn pair() -> (UnixStream, Socket) {
        let (peer, stream) = UnixStream::pair().unwrap();
        (peer, Socket::new(stream).unwrap())
    }

    #[test]
    fn read_that_leaves_room_is_the_last_until_more_is_reported() {
        let (mut peer, mut socket) = pair();
        let mut buffer = [0; 8];
        peer.write_all(b"0123456789").unwrap();
        assert_eq!(socket.read(&mut buffer), ReadOutcome::Bytes(8));
        assert!(socket.is_readable);
        assert_eq!(socket.read(&mut buffer), ReadOutcome::Bytes(2));
        assert!(!socket.is_readable);
        // The kernel may have reported the end of the stream together with the bytes.
        peer.write_all(b"0").unwrap();
        drop(peer);
        socket.is_read_closed = true;
        assert_eq!(socket.read(&mut buffer), ReadOutcome::Bytes(1));
        assert!(socket.is_readable);
        assert_eq!(socket.read(&mut buffer), ReadOutcome::End);
    }

    #[test]
    fn bytes_after_passed_descriptors_are_read_without_another_report() {
        let (mut peer, mut socket) = pair();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut passed = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.stream.as_fd()];
        assert!(passed.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let slices = [IoSlice::new(b"one")];
        sendmsg(&peer, &slices, &mut passed, SendFlags::empty()).unwrap();
        peer.write_all(b"two").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(socket.read(&mut buffer), ReadOutcome::Bytes(3));
        assert!(socket.is_readable);
        assert_eq!(socket.read(&mut buffer), ReadOutcome::Bytes(3));
        assert_eq!(&buffer[..3], b"two");
        assert!(!socket.is_readable);
    }
}
