//! Binds a Unix socket in the file system, and removes the socket's file.
//!
//! The feed's socket and the operator's socket are bound here. While a socket is in use, the server
//! locks a file in the directory of the socket (`feed.sock.lock`, `flock`). If two servers start at
//! the same time, only the server with the lock can replace a stale socket. This server removes the
//! socket's file only if a connection attempt to the socket is refused. The lock file is never
//! removed. Otherwise two servers could lock two files of the same name.
//!
//! Programs that clean temporary directories can remove sockets in use. [`SocketFile::restore`]
//! then creates the socket and the lock file again. It creates the directory again only if the
//! server created the directory, or if the directory is the default. In the meantime, another user
//! may have created a directory or a link of that name. The socket is not created in a place where
//! another user could replace it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::file::default_feed_path;
use crate::config::limits::LISTEN_BACKLOG;
use crate::sys::directory;
use crate::sys::group::group_id;
use crate::sys::inode::Inode;
use crate::sys::regular;

/// The reason why a socket's path cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    /// The access mode is not an octal number.
    #[error("`{0}` is not an octal mode such as 0660")]
    BadMode(String),
    /// Another user could replace the socket in this directory. The error occurs for the private
    /// directory under `/tmp`, and for a directory that was created after the start.
    #[error("{} belongs to another user or is open to others; remove it or choose another path", path.display())]
    ForeignDirectory {
        /// The path of the directory.
        path: PathBuf,
    },
    /// Another process is listening on this path.
    #[error("another process is listening on {}", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Another process has locked the lock file.
    #[error(
        "another process is listening on {} or is about to: it has locked {}",
        path.display(),
        lock_path(path).display()
    )]
    Locked {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path of the lock file exists and is not a regular file.
    #[error("{} exists and is not a regular file", path.display())]
    NotAFile {
        /// The path of the lock file.
        path: PathBuf,
    },
    /// The path exists and is not a socket. The file is left untouched.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path no longer refers to the socket that was just created there.
    #[error("another process has replaced {}", path.display())]
    Replaced {
        /// The socket's path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} {}: {error}", path.display())]
    System {
        /// The attempted action.
        action: &'static str,
        /// The file or directory on which the action failed.
        path: PathBuf,
        /// The error of the system call.
        error: io::Error,
    },
    /// The group does not exist.
    #[error("`{0}` is not a group of this machine")]
    UnknownGroup(String),
}

/// The socket's file and its lock. The file is removed on drop.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    access: SocketAccess,
    /// Whether the server creates the directory if it is missing.
    makes_directory: bool,
    /// The socket's directory. Kept open, so that no other directory gets the same inode.
    directory: File,
    /// The inode of the socket's file. The file at the path is removed only if it has this inode,
    /// because it may be another file. No other file gets this inode while the socket is open.
    inode: Inode,
    lock: File,
}

/// The mode and the group of the socket, which determine the processes that may connect.
#[derive(Clone, Copy, Debug)]
pub struct SocketAccess {
    mode: u32,
    group: Option<u32>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        remove_own(&self.path, self.inode);
    }
}

impl SocketFile {
    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still refers to the socket.
    pub fn is_there(&self) -> bool {
        is_at(&self.path, self.inode)
    }

    /// Creates missing files again. Returns a new listener if the socket was missing. `adopt`
    /// prepares the listener for use. If `adopt` fails, the next call creates another listener.
    ///
    /// # Errors
    /// Returns the errors of [`listen`] and of `adopt`. Another file at the socket's path is left
    /// untouched.
    pub fn restore(
        &mut self,
        adopt: impl FnOnce(&UnixListener) -> io::Result<()>,
    ) -> Result<Option<UnixListener>, SocketFileError> {
        let is_there = self.is_there();
        if !is_there {
            self.restore_directory()?;
        }
        if !Inode::of(&self.lock).is_ok_and(|ours| is_at(&lock_path(&self.path), ours)) {
            self.lock = lock(&self.path)?;
        }
        if is_there {
            return Ok(None);
        }
        let (listener, inode) = take(&self.path, self.access)?;
        adopt(&listener).map_err(|error| {
            remove_own(&self.path, inode);
            failed("wait for connections on", &self.path)(error)
        })?;
        self.inode = inode;
        Ok(Some(listener))
    }

    /// Ensures that the socket's directory is the original directory, or a directory that no other
    /// user can replace.
    fn restore_directory(&mut self) -> Result<(), SocketFileError> {
        let directory = parent(&self.path);
        let found = Inode::at(directory).ok();
        if found.is_some() && found == Inode::of(&self.directory).ok() {
            return Ok(());
        }
        check_owners(directory)?;
        if self.makes_directory {
            make_directory(directory)?;
            // Another user may have created the directory after the first check.
            check_owners(directory)?;
        }
        self.directory = open_directory(directory)?;
        Ok(())
    }
}

impl SocketAccess {
    /// Only the server's user may connect.
    pub const OWNER: Self = Self {
        mode: 0o600,
        group: None,
    };

    /// Parses an octal mode and the name or number of a group. An empty group keeps the group of
    /// the server.
    ///
    /// # Errors
    /// Returns [`SocketFileError::BadMode`] or [`SocketFileError::UnknownGroup`].
    pub fn parse(mode: &str, group_name: &str) -> Result<Self, SocketFileError> {
        let mode = u32::from_str_radix(mode, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(|| SocketFileError::BadMode(String::from(mode)))?;
        let group = group(group_name)?;
        Ok(Self { mode, group })
    }
}

/// Checks whether a path can be bound, even if another server uses it now. Creates nothing.
///
/// # Errors
/// Returns the reason for which the path cannot be bound.
pub fn check_path(path: &Path) -> Result<(), SocketFileError> {
    SockAddr::unix(path).map_err(failed("listen on", path))?;
    if let Some(directory) = path.parent() {
        directory::check(directory).map_err(failed("make a socket in", directory))?;
        if let Some(uid) = owner_of_private(directory)
            && directory.exists()
        {
            check_private(directory, uid)?;
        }
    }
    match open_lock(path, File::options().write(true)) {
        Err(SocketFileError::System { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => drop(outcome?),
    }
    check_kind(path).map(drop)
}

/// Binds a path, and listens on it. Creates the directory if it is missing.
///
/// # Errors
/// Returns the reason for which the path cannot be bound.
pub fn listen(
    path: &Path,
    access: SocketAccess,
) -> Result<(UnixListener, SocketFile), SocketFileError> {
    check_path(path)?;
    let directory = parent(path);
    // The default directory is created again whenever it is missing. Another directory is created
    // again only if it is missing now.
    let makes_directory = !directory.exists() || is_default_directory(directory);
    make_directory(directory)?;
    let open_directory = open_directory(directory)?;
    let lock = lock(path)?;
    let (listener, inode) = take(path, access)?;
    let socket_file = SocketFile {
        path: path.to_path_buf(),
        access,
        makes_directory,
        directory: open_directory,
        inode,
        lock,
    };
    Ok((listener, socket_file))
}

/// Binds the path, and listens on it. The caller holds the lock.
fn take(path: &Path, access: SocketAccess) -> Result<(UnixListener, Inode), SocketFileError> {
    remove_stale(path)?;
    bind(path, access)
}

fn is_at(path: &Path, inode: Inode) -> bool {
    Inode::at_link(path).is_ok_and(|found| found == inode)
}

/// Removes the socket's file, but no other file at the same path. The caller keeps the socket open,
/// because the inode identifies the socket's file only while the socket is open.
fn remove_own(path: &Path, inode: Inode) {
    if is_at(path, inode)
        && let Err(error) = fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Whether the directory is the default directory. False under a service manager that creates the
/// directory (`RUNTIME_DIRECTORY`).
fn is_default_directory(directory: &Path) -> bool {
    std::env::var_os("RUNTIME_DIRECTORY").is_none() && directory == parent(&default_feed_path())
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> SocketFileError {
    let path = path.to_path_buf();
    move |error| SocketFileError::System {
        action,
        path: path.clone(),
        error,
    }
}

fn group(name: &str) -> Result<Option<u32>, SocketFileError> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = group_id(name).map_err(failed("look up the group of", Path::new(name)))?;
    found
        .map(Some)
        .ok_or_else(|| SocketFileError::UnknownGroup(String::from(name)))
}

/// Creates the directory if it is missing. The private directory under `/tmp` must belong to this
/// user alone, because every user can write to `/tmp`.
fn make_directory(directory: &Path) -> Result<(), SocketFileError> {
    let private = owner_of_private(directory);
    let mode = if private.is_some() { 0o700 } else { 0o755 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(failed("make the directory", directory))?;
    private.map_or(Ok(()), |uid| check_private(directory, uid))
}

/// Returns the current user's id if the directory is the private directory under `/tmp`.
fn owner_of_private(directory: &Path) -> Option<u32> {
    let uid = rustix::process::getuid().as_raw();
    let is_private = directory == Path::new(&format!("/tmp/fanfare-{uid}"));
    is_private.then_some(uid)
}

fn check_private(directory: &Path, uid: u32) -> Result<(), SocketFileError> {
    // Checks the link itself instead of its target, so that a link is never accepted.
    let found = fs::symlink_metadata(directory).map_err(failed("look at", directory))?;
    if found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(SocketFileError::ForeignDirectory {
        path: directory.to_path_buf(),
    })
}

/// Returns an error for a directory that another user could replace.
fn check_owners(directory: &Path) -> Result<(), SocketFileError> {
    let unsafe_part = directory::replaceable_part(directory);
    match unsafe_part.map_err(failed("look at", directory))? {
        Some(path) => Err(SocketFileError::ForeignDirectory { path }),
        None => Ok(()),
    }
}

fn open_directory(directory: &Path) -> Result<File, SocketFileError> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    options.open(directory).map_err(failed("open", directory))
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn open_lock(path: &Path, options: &mut OpenOptions) -> Result<File, SocketFileError> {
    let path = lock_path(path);
    let opened = regular::open(&path, options).map_err(failed("open", &path))?;
    opened.ok_or(SocketFileError::NotAFile { path })
}

fn lock(path: &Path) -> Result<File, SocketFileError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = open_lock(path, &mut options)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(SocketFileError::Locked {
            path: path.to_path_buf(),
        }),
        Err(error) => Err(failed("lock", &lock_path(path))(error.into())),
    }
}

/// Whether a socket file exists at the path. A file of another type is an error.
fn check_kind(path: &Path) -> Result<bool, SocketFileError> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => Ok(true),
        Ok(_) => Err(SocketFileError::NotASocket {
            path: path.to_path_buf(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Removes the socket file if it is stale.
fn remove_stale(path: &Path) -> Result<(), SocketFileError> {
    if !check_kind(path)? {
        return Ok(());
    }
    let is_bound = is_bound(path).map_err(failed("check for another server on", path))?;
    if is_bound {
        return Err(SocketFileError::InUse {
            path: path.to_path_buf(),
        });
    }
    fs::remove_file(path).map_err(failed("remove the stale socket", path))
}

/// Whether a process has bound the socket at a path. The function never blocks, and its connection
/// attempt does not occupy the backlog.
fn is_bound(path: &Path) -> io::Result<bool> {
    let address = SockAddr::unix(path)?;
    // On Linux, connecting a datagram socket to a stream socket fails with `EPROTOTYPE` and does
    // not occupy the backlog. Other kernels (gVisor) always refuse a datagram socket, even if the
    // stream socket is bound. So a stream socket is tried next.
    for kind in [Type::DGRAM, Type::STREAM] {
        let probe = Socket::new(Domain::UNIX, kind.nonblocking(), None)?;
        let Err(error) = probe.connect(&address) else {
            return Ok(true);
        };
        match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED) => {}
            // Each of these errors means that a process has bound the socket. The socket is not of
            // this type, is a datagram socket that is connected to another peer, or has a full
            // backlog.
            Some(Errno::PROTOTYPE | Errno::PERM | Errno::AGAIN) => return Ok(true),
            _ => return Err(error),
        }
    }
    Ok(false)
}

fn bind(path: &Path, access: SocketAccess) -> Result<(UnixListener, Inode), SocketFileError> {
    let failed_to_listen = failed("listen on", path);
    let socket = make_socket(path).map_err(&failed_to_listen)?;
    let (file, inode) = open_bound(path)?;
    finish(&socket, &file, access).map_err(|error| {
        remove_own(path, inode);
        failed_to_listen(error)
    })?;
    Ok((UnixListener::from(OwnedFd::from(socket)), inode))
}

fn make_socket(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the mode of the socket. So no other user can connect before the configured
    // access is set.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Opens the file of a socket that was just bound. The mode and the group are then set through this
/// descriptor, even if another file replaces the socket's file.
fn open_bound(path: &Path) -> Result<(File, Inode), SocketFileError> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    let file = options.open(path).map_err(failed("find", path))?;
    let found = file.metadata().map_err(failed("look at", path))?;
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    if is_own && found.file_type().is_socket() {
        return Ok((file, Inode::from(&found)));
    }
    Err(SocketFileError::Replaced {
        path: path.to_path_buf(),
    })
}

fn finish(socket: &Socket, file: &File, access: SocketAccess) -> io::Result<()> {
    if let Some(group) = access.group {
        let group = Some(Gid::from_raw(group));
        rustix::fs::chownat(file, "", None, group, AtFlags::EMPTY_PATH)?;
    }
    // An `O_PATH` descriptor does not allow `fchmod`, but its path under /proc allows `chmod`. The
    // path begins with `/proc/thread-self`, because the thread may have its own descriptor table.
    let descriptor = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    rustix::fs::chmod(&descriptor, Mode::from_raw_mode(access.mode)).map_err(|error| {
        let error = io::Error::from(error);
        let text = format!("its mode cannot be set through {descriptor}: {error}");
        io::Error::new(error.kind(), text)
    })?;
    socket.listen(LISTEN_BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    fn restore(file: &mut SocketFile) -> Result<Option<UnixListener>, SocketFileError> {
        file.restore(|_| Ok(()))
    }

    fn listen(path: &Path) -> Result<(UnixListener, SocketFile), SocketFileError> {
        super::listen(path, SocketAccess::OWNER)
    }

    #[test]
    fn socket_is_created_with_its_mode_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/feed.sock");
        let group = rustix::process::getgid().as_raw().to_string();
        let access = SocketAccess::parse("0640", &group).unwrap();
        let (_listener, file) = super::listen(&path, access).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, _file) = listen(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn socket_with_a_listener_is_refused_and_left_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let theirs = UnixListener::bind(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketFileError::InUse { .. })));
        drop(theirs);
        let ours = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketFileError::Locked { .. })));
        drop(ours);
    }

    #[test]
    fn file_that_is_not_a_socket_is_left_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        fs::write(&path, "mine").unwrap();
        let refused = listen(&path);
        assert!(matches!(refused, Err(SocketFileError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn foreign_file_at_the_path_is_not_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let (_listener, file) = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn directory_is_created_again_only_if_the_server_created_it() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a/b");
        for is_made in [true, false] {
            let path = directory.join("feed.sock");
            let (_listener, mut file) = listen(&path).unwrap();
            assert!(restore(&mut file).unwrap().is_none());
            fs::remove_dir_all(place.path().join("a")).unwrap();
            if is_made {
                let _restored = restore(&mut file).unwrap().unwrap();
                assert!(UnixStream::connect(&path).is_ok());
                assert!(file.is_there() && restore(&mut file).unwrap().is_none());
                // The new lock prevents another server from starting.
                fs::remove_file(&path).unwrap();
                let refused = listen(&path);
                assert!(matches!(refused, Err(SocketFileError::Locked { .. })));
                drop(file);
                // The directory already exists when `listen` is called again.
                fs::create_dir_all(&directory).unwrap();
            } else {
                let refused = restore(&mut file).unwrap_err();
                assert!(
                    matches!(refused, SocketFileError::System { .. }),
                    "{refused}"
                );
                assert!(!place.path().join("a").exists());
            }
        }
    }

    #[test]
    fn removed_lock_file_is_locked_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("feed.sock");
        let (_listener, mut file) = listen(&path).unwrap();
        fs::remove_file(lock_path(&path)).unwrap();
        assert!(restore(&mut file).unwrap().is_none());
        assert!(matches!(lock(&path), Err(SocketFileError::Locked { .. })));
    }

    #[test]
    fn probes_take_no_place_in_the_backlog() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("feed.sock");
        let theirs = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        theirs.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        // The socket is bound, but not listening yet.
        assert!(is_bound(&path).unwrap());
        theirs.listen(0).unwrap();
        for _ in 0..3 {
            let refused = remove_stale(&path).unwrap_err();
            assert!(
                matches!(refused, SocketFileError::InUse { .. }),
                "{refused}"
            );
        }
        let accepted = theirs.accept().unwrap_err();
        assert_eq!(accepted.kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        for kind in [Type::DGRAM, Type::SEQPACKET] {
            let theirs = Socket::new(Domain::UNIX, kind, None).unwrap();
            theirs.bind(&SockAddr::unix(&path).unwrap()).unwrap();
            assert!(is_bound(&path).unwrap());
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn lock_that_is_not_a_regular_file_is_refused_without_blocking() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("feed.sock");
        let (_listener, mut file) = listen(&path).unwrap();
        let lock_path = lock_path(&path);
        fs::remove_file(&lock_path).unwrap();
        mknodat(CWD, &lock_path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for refused in [
            check_path(&path).unwrap_err(),
            restore(&mut file).unwrap_err(),
            lock(&path).unwrap_err(),
        ] {
            let expected = format!("{} exists and is not a regular file", lock_path.display());
            assert_eq!(refused.to_string(), expected);
        }
    }

    #[test]
    fn unusable_socket_is_removed_and_created_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("feed.sock");
        let (_listener, mut file) = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let refused = file.restore(|_| Err(Errno::NOSPC.into())).unwrap_err();
            assert!(refused.to_string().contains("No space left"), "{refused}");
            assert!(!path.exists());
        }
        let _listener = restore(&mut file).unwrap().unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn socket_is_not_created_again_where_another_user_could_replace_it() {
        let place = tempfile::tempdir().unwrap();
        let made = place.path().join("made");
        let path = made.join("feed.sock");
        let open = place.path().join("open");
        fs::create_dir_all(open.join("inner")).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let (_listener, mut file) = listen(&path).unwrap();
        // The operator has allowed other users to write to the directory `made`. The server still
        // uses this directory.
        fs::set_permissions(&made, fs::Permissions::from_mode(0o777)).unwrap();
        fs::remove_file(&path).unwrap();
        let _listener = restore(&mut file).unwrap().unwrap();
        fs::remove_dir_all(&made).unwrap();
        let replacements: [&dyn Fn(); 3] = [
            &|| {
                fs::create_dir(&made).unwrap();
                fs::set_permissions(&made, fs::Permissions::from_mode(0o777)).unwrap();
            },
            &|| std::os::unix::fs::symlink(&open, &made).unwrap(),
            &|| std::os::unix::fs::symlink(open.join("inner"), &made).unwrap(),
        ];
        for replace in replacements {
            replace();
            let refused = restore(&mut file).unwrap_err();
            assert!(
                matches!(refused, SocketFileError::ForeignDirectory { .. }),
                "{refused}"
            );
            assert_eq!(
                fs::read_dir(&made).unwrap().count(),
                usize::from(made.join("inner").exists())
            );
            fs::remove_dir(&made)
                .or_else(|_| fs::remove_file(&made))
                .unwrap();
        }
        let _listener = restore(&mut file).unwrap().unwrap();
    }

    #[test]
    fn mode_and_group_are_set_on_the_opened_file_and_not_on_one_in_its_place() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("feed.sock");
        let socket = make_socket(&path).unwrap();
        let (file, _inode) = open_bound(&path).unwrap();
        let aside = place.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let theirs = place.path().join("theirs");
        fs::write(&theirs, "").unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&theirs, &path).unwrap();
        let access = SocketAccess {
            mode: 0o666,
            group: Some(rustix::process::getgid().as_raw()),
        };
        finish(&socket, &file, access).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&aside), mode(&theirs)), (0o666, 0o600));
        let refused = open_bound(&path).unwrap_err();
        assert!(
            matches!(refused, SocketFileError::Replaced { .. }),
            "{refused}"
        );
    }

    #[test]
    fn private_directory_has_to_belong_to_this_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().as_raw();
        assert!(check_private(directory.path(), uid).is_ok());
        assert!(check_private(directory.path(), uid + 1).is_err());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(check_private(&link, uid).is_err());
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check_private(directory.path(), uid).is_err());
    }

    #[test]
    fn bad_mode_and_unknown_group_are_refused() {
        let refused = SocketAccess::parse("rw", "").unwrap_err();
        assert!(matches!(refused, SocketFileError::BadMode(_)), "{refused}");
        let refused = SocketAccess::parse("0660", "no such group").unwrap_err();
        assert!(
            matches!(refused, SocketFileError::UnknownGroup(_)),
            "{refused}"
        );
    }
}
