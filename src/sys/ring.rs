//! Makes many sends with one system call: a ring shared with the kernel (`io_uring(7)`).
//!
//! A [`Ring`] belongs to one thread; no other thread may use it. A send never blocks: it has the
//! result of a non-blocking `sendmsg(2)`. [`Ring::send`] returns only after the kernel has
//! completed every entry that it has accepted. So the buffers only need to live until the call
//! returns. The module does not depend on conns and keeps no data between two calls. The worker's
//! network is the only caller.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::certain;

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

/// The flags of a send: it does not block, and it returns an error instead of causing SIGPIPE.
const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// One send: the bytes for one socket.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// The socket to send to.
    pub socket: BorrowedFd<'a>,
    /// The bytes to send, in at least one slice.
    pub slices: &'a [IoSlice<'a>],
}

/// The ring of one thread.
pub struct Ring {
    ring: IoUring,
    sends_max: usize,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("sends_max", &self.sends_max)
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Creates a ring for at most `sends_max` sends at a time. Only the calling thread can use the
    /// ring.
    ///
    /// # Errors
    /// Returns the error of `io_uring_setup(2)`. Linux before 6.1 lacks the modes that are used
    /// here, and most containers forbid the call.
    pub fn new(sends_max: u16) -> io::Result<Self> {
        // With `single_issuer`, only this thread may submit entries. With `defer_taskrun`, the
        // kernel completes entries only inside the calls of this thread.
        let ring = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(sends_max.into())?;
        Ok(Self {
            ring,
            sends_max: sends_max.into(),
        })
    }

    /// Makes the sends. Stores the result of each `sendmsg(2)` in `results`, in the order of
    /// `sends`.
    ///
    /// # Errors
    /// Returns the error of `io_uring_enter(2)`. After an error, the ring cannot be used. The
    /// result `None` means that the send was not made.
    pub fn send(
        &mut self,
        sends: &[Send<'_>],
        results: &mut Vec<Option<io::Result<usize>>>,
    ) -> io::Result<()> {
        results.clear();
        results.resize_with(sends.len(), || None);
        let parts = sends.chunks(self.sends_max);
        for (sends, results) in parts.zip(results.chunks_mut(self.sends_max)) {
            self.send_part(sends, results)?;
        }
        Ok(())
    }

    fn send_part(
        &mut self,
        sends: &[Send<'_>],
        results: &mut [Option<io::Result<usize>>],
    ) -> io::Result<()> {
        let headers: Vec<libc::msghdr> = match sends.iter().all(|send| send.slices.len() == 1) {
            true => Vec::new(),
            false => sends.iter().map(|send| header(send.slices)).collect(),
        };
        for (number, send) in sends.iter().enumerate() {
            let entry = entry(send, headers.get(number)).user_data(number as u64);
            // SAFETY: socket, slices and headers outlive this call. `complete` returns only after
            // the kernel has completed all entries that it has accepted. The other entries exist
            // only in the ring, which the caller drops after an error.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            debug_assert!(pushed.is_ok(), "a part is no longer than the ring");
        }
        self.complete(results)
    }

    /// Submits the entries of the ring and collects their results.
    fn complete(&mut self, results: &mut [Option<io::Result<usize>>]) -> io::Result<()> {
        let pushed = self.ring.submission().len();
        let mut completed = 0;
        loop {
            let submitted = self.ring.submit_and_wait(pushed - completed);
            for completion in self.ring.completion() {
                completed += 1;
                let result = usize::try_from(completion.result())
                    .map_err(|_negative| io::Error::from_raw_os_error(-completion.result()));
                let place = results.get_mut(certain::to_usize(completion.user_data()));
                debug_assert!(place.is_some(), "user data is an index into the results");
                if let Some(place) = place {
                    *place = Some(result);
                }
            }
            if completed == pushed {
                return Ok(());
            }
            let taken = pushed - self.ring.submission().len();
            match submitted {
                Err(error) if error.kind() != io::ErrorKind::Interrupted && completed == taken => {
                    return Err(error);
                }
                // The kernel still uses the buffers of the entries that it has accepted. So this
                // loop must wait for those entries.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

fn header(slices: &[IoSlice<'_>]) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        // An `IoSlice` has the layout of an `iovec`, as its documentation guarantees. The kernel
        // only reads the slices.
        msg_iov: slices.as_ptr().cast::<libc::iovec>().cast_mut(),
        msg_iovlen: slices.len(),
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn entry(send: &Send<'_>, header: Option<&libc::msghdr>) -> Entry {
    let socket = types::Fd(send.socket.as_raw_fd());
    match (send.slices, header) {
        ([slice], _) => {
            // An entry sends at most `u32::MAX` bytes. The caller sends the rest of a longer slice
            // with its next send.
            let length = u32::try_from(slice.len()).unwrap_or(u32::MAX);
            let send = opcode::Send::new(socket, slice.as_ptr(), length);
            send.flags(FLAGS).build()
        }
        (_, Some(header)) => {
            let send = opcode::SendMsg::new(socket, header);
            send.flags(FLAGS.cast_unsigned()).build()
        }
        (_, None) => {
            debug_assert!(false, "a send of several slices has a header");
            opcode::Nop::new().build()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Returns `None` if the system has no `io_uring`, as in most containers.
    fn ring(sends_max: u16) -> Option<Ring> {
        Ring::new(sends_max).ok()
    }

    fn send(ring: &mut Ring, sends: &[Send<'_>]) -> Vec<io::Result<usize>> {
        let mut answers = Vec::new();
        ring.send(sends, &mut answers).unwrap();
        answers.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn more_sends_than_the_ring_holds_all_have_results_in_order() {
        let Some(mut ring) = ring(4) else { return };
        let pairs: Vec<_> = (0..11).map(|_| UnixStream::pair().unwrap()).collect();
        let texts: Vec<String> = (0..11).map(|n| "x".repeat(n + 1)).collect();
        let slices: Vec<_> = texts
            .iter()
            .map(|text| [IoSlice::new(b"<"), IoSlice::new(text.as_bytes())])
            .collect();
        let sends: Vec<_> = pairs
            .iter()
            .zip(&slices)
            .enumerate()
            .map(|(number, ((socket, _), slices))| Send {
                socket: socket.as_fd(),
                // Every third send has one slice. The other sends have two slices.
                slices: if number % 3 == 0 {
                    &slices[1..]
                } else {
                    &slices[..]
                },
            })
            .collect();
        let answers = send(&mut ring, &sends);
        for (number, (_, reader)) in pairs.iter().enumerate() {
            let mut reader = reader;
            let wanted = if number % 3 == 0 {
                texts[number].clone()
            } else {
                format!("<{}", texts[number])
            };
            assert_eq!(*answers[number].as_ref().unwrap(), wanted.len());
            let mut got = vec![0; wanted.len()];
            reader.read_exact(&mut got).unwrap();
            assert_eq!(got, wanted.as_bytes());
        }
    }

    #[test]
    fn send_to_a_full_blocking_socket_does_not_wait() {
        let Some(mut ring) = ring(8) else { return };
        let (full, _reader) = UnixStream::pair().unwrap();
        let (free, mut reader) = UnixStream::pair().unwrap();
        let much = vec![b'x'; 1 << 24];
        let (much, little) = ([IoSlice::new(&much)], [IoSlice::new(b"y")]);
        let to = |socket, slices| Send { socket, slices };
        let sends = [
            to(full.as_fd(), &much[..]),
            to(full.as_fd(), &little[..]),
            to(free.as_fd(), &little[..]),
        ];
        let answers = send(&mut ring, &sends);
        assert!((1..1 << 24).contains(answers[0].as_ref().unwrap()));
        let blocked = answers[1].as_ref().unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(*answers[2].as_ref().unwrap(), 1);
        let mut got = [0];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"y");
    }

    #[test]
    fn send_to_a_closed_peer_is_an_error_and_not_a_signal() {
        let Some(mut ring) = ring(8) else { return };
        let (socket, peer) = UnixStream::pair().unwrap();
        drop(peer);
        let slices = [IoSlice::new(b"x")];
        let sends = [Send {
            socket: socket.as_fd(),
            slices: &slices,
        }];
        let answers = send(&mut ring, &sends);
        let gone = answers[0].as_ref().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn ring_of_another_thread_sends_nothing_and_returns_an_error() {
        let Some(mut ring) = ring(8) else { return };
        let (socket, peer) = UnixStream::pair().unwrap();
        let slices = [IoSlice::new(b"x")];
        let mut answers = Vec::new();
        std::thread::scope(|scope| {
            let sends = [Send {
                socket: socket.as_fd(),
                slices: &slices,
            }];
            let answers = &mut answers;
            let sent = scope.spawn(move || ring.send(&sends, answers));
            assert!(sent.join().unwrap().is_err());
        });
        assert!(matches!(answers[..], [None]));
        peer.set_nonblocking(true).unwrap();
        let read = (&peer).read(&mut [0]).unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::WouldBlock);
    }
}
