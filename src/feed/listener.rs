//! SHELL: takes the feed's path on the file system, and gives it back.
//!
//! A lock file beside the socket (`feed.sock.lock`, `flock`) is held as long as the feed lives, so
//! that of two servers started at once exactly one finds a stale socket and replaces it. Under the
//! lock a socket file is removed only if connecting to it is refused. The lock file stays behind:
//! removing it would let two servers lock two files of the same name.
//!
//! Cleaners of temporary directories remove sockets that are in use. [`SocketFile::restore`] makes
//! socket and lock again, the directory only if the server made it in the first place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use socket2::{Domain, SockAddr, Socket, Type};

use super::directory;
use crate::config::Config;
use crate::config::file::default_feed_path;
use crate::config::limits::LISTEN_BACKLOG;
use crate::sys::group::group_id;
use crate::sys::inode::Inode;

/// Why the feed's path could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The access mode is not an octal number.
    #[error("`{0}` is not an octal mode such as 0660")]
    BadMode(String),
    /// The private directory under `/tmp` was made by somebody else.
    #[error("{} belongs to another user or is open to others; remove it or set `feed`", path.display())]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Another process serves this path.
    #[error("another process is listening on {}", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else has this name. It is left as it is.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {error}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no such group.
    #[error("`{0}` is not a group of this machine")]
    UnknownGroup(String),
}

impl FeedError {
    /// The key of the configuration that it is about.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::BadMode(_) => "feed_mode",
            Self::UnknownGroup(_) => "feed_group",
            Self::ForeignDirectory { .. }
            | Self::InUse { .. }
            | Self::NotASocket { .. }
            | Self::System { .. } => "feed",
        }
    }
}

/// The socket's file and the lock that makes it ours. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    access: SocketAccess,
    /// Whether a directory that is missing is made.
    makes_directory: bool,
    /// Another file of the same name is not ours to remove. It is ours only while the socket lives.
    inode: Inode,
    lock: File,
}

/// Which processes may connect.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketAccess {
    mode: u32,
    group: Option<u32>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the feed's socket");
        }
    }
}

impl SocketFile {
    /// Where feeders connect.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still names the socket.
    pub(super) fn is_there(&self) -> bool {
        Inode::at_link(&self.path).is_ok_and(|found| found == self.inode)
    }

    /// Makes whatever is missing again; a new listener if the socket was.
    ///
    /// # Errors
    /// As [`listen`]: what took the place of the socket is left alone.
    pub(super) fn restore(&mut self) -> Result<Option<UnixListener>, FeedError> {
        let is_there = self.is_there();
        if !is_there && self.makes_directory {
            make_directory(parent(&self.path))?;
        }
        let lock_inode = Inode::at_link(&lock_path(&self.path));
        if !lock_inode.is_ok_and(|found| Inode::of(&self.lock).is_ok_and(|ours| found == ours)) {
            self.lock = lock(&self.path)?;
        }
        if is_there {
            return Ok(None);
        }
        let (listener, inode) = take(&self.path, self.access)?;
        self.inode = inode;
        Ok(Some(listener))
    }
}

/// Which processes may connect by the configuration.
pub(super) fn access(config: &Config) -> Result<SocketAccess, FeedError> {
    let mode = u32::from_str_radix(&config.feed_mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| FeedError::BadMode(config.feed_mode.clone()))?;
    let group = group(&config.feed_group)?;
    Ok(SocketAccess { mode, group })
}

/// Checks that a path can be taken, whether or not another server has it now. Makes nothing.
pub(super) fn check_path(path: &Path) -> Result<(), FeedError> {
    SockAddr::unix(path).map_err(failed("listen on", path))?;
    if let Some(directory) = path.parent() {
        directory::check(directory).map_err(failed("make a socket in", directory))?;
        if let Some(uid) = owner_of_private(directory)
            && directory.exists()
        {
            check_private(directory, uid)?;
        }
    }
    let lock_path = lock_path(path);
    match lock_options().open(&lock_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("open", &lock_path)(error));
        }
        Ok(_) | Err(_) => {}
    }
    check_kind(path).map(drop)
}

/// Listens on the configured path.
pub(super) fn listen(config: &Config) -> Result<(UnixListener, SocketFile), FeedError> {
    let access = access(config)?;
    let path = config.feed.as_path();
    check_path(path)?;
    let directory = parent(path);
    // What an earlier run made at the default path is as good as made by this one.
    let makes_directory = !directory.exists() || is_default_directory(directory);
    make_directory(directory)?;
    let lock = lock(path)?;
    let (listener, inode) = take(path, access)?;
    let socket_file = SocketFile {
        path: path.to_path_buf(),
        access,
        makes_directory,
        inode,
        lock,
    };
    Ok((listener, socket_file))
}

/// Listens where no other process does; under the lock.
fn take(path: &Path, access: SocketAccess) -> Result<(UnixListener, Inode), FeedError> {
    remove_stale(path)?;
    let listener = bind(path, access).map_err(failed("listen on", path))?;
    let inode = Inode::at_link(path).map_err(failed("find", path))?;
    Ok((listener, inode))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Whether the directory is the one that the server makes where none is configured. Under a service
/// manager that is the manager's.
fn is_default_directory(directory: &Path) -> bool {
    std::env::var_os("RUNTIME_DIRECTORY").is_none() && directory == parent(&default_feed_path())
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> FeedError {
    let path = path.to_path_buf();
    move |error| FeedError::System {
        action,
        path: path.clone(),
        error,
    }
}

fn group(name: &str) -> Result<Option<u32>, FeedError> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = group_id(name).map_err(failed("look up the group of", Path::new(name)))?;
    found
        .map(Some)
        .ok_or_else(|| FeedError::UnknownGroup(String::from(name)))
}

/// Makes the directory if it is missing. The one under `/tmp`, where anybody may put things, has to
/// be ours alone.
fn make_directory(directory: &Path) -> Result<(), FeedError> {
    let private = owner_of_private(directory);
    let mode = if private.is_some() { 0o700 } else { 0o755 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(failed("make the directory", directory))?;
    private.map_or(Ok(()), |uid| check_private(directory, uid))
}

/// This user, if the directory is the one under `/tmp`.
fn owner_of_private(directory: &Path) -> Option<u32> {
    let uid = rustix::process::getuid().as_raw();
    let is_private = directory == Path::new(&format!("/tmp/fanfare-{uid}"));
    is_private.then_some(uid)
}

fn check_private(directory: &Path, uid: u32) -> Result<(), FeedError> {
    // The link itself and not what it points to: a link is never ours.
    let found = fs::symlink_metadata(directory).map_err(failed("look at", directory))?;
    if found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(FeedError::ForeignDirectory {
        path: directory.to_path_buf(),
    })
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// How the lock file is opened if it is there.
fn lock_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW);
    options
}

fn lock(path: &Path) -> Result<File, FeedError> {
    let lock_path = lock_path(path);
    let file = lock_options()
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed("open", &lock_path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(FeedError::InUse {
            path: path.to_path_buf(),
        }),
        Err(error) => Err(failed("lock", &lock_path)(error.into())),
    }
}

/// Whether there is a socket file. Anything else of this name is an error.
fn check_kind(path: &Path) -> Result<bool, FeedError> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => Ok(true),
        Ok(_) => Err(FeedError::NotASocket {
            path: path.to_path_buf(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Removes a socket file that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), FeedError> {
    if !check_kind(path)? {
        return Ok(());
    }
    let path_buf = || path.to_path_buf();
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket", path))
        }
        Ok(_) => Err(FeedError::InUse { path: path_buf() }),
        Err(error) => Err(failed("find out who listens on", path)(error)),
    }
}

fn bind(path: &Path, access: SocketAccess) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file is made with the socket's own mode: nobody else can connect until it is all set.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    socket.bind(&SockAddr::unix(path)?)?;
    finish(&socket, path, access).inspect_err(|_| {
        // The error that is told is the one that came first.
        let _removed = fs::remove_file(path);
    })?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

fn finish(socket: &Socket, path: &Path, access: SocketAccess) -> io::Result<()> {
    if access.group.is_some() {
        std::os::unix::fs::chown(path, None, access.group)?;
    }
    rustix::fs::chmod(path, Mode::from_raw_mode(access.mode))?;
    socket.listen(LISTEN_BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(path: &Path) -> Config {
        Config {
            feed: path.to_path_buf(),
            ..Config::default()
        }
    }

    #[test]
    fn path_is_taken_with_its_mode_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/feed.sock");
        let mut config = config(&path);
        config.feed_mode = String::from("0640");
        config.feed_group = rustix::process::getgid().as_raw().to_string();
        let (_listener, file) = listen(&config).unwrap();
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
        let (_listener, _file) = listen(&config(&path)).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn socket_that_somebody_listens_on_is_refused_and_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let theirs = UnixListener::bind(&path).unwrap();
        assert!(matches!(
            listen(&config(&path)),
            Err(FeedError::InUse { .. })
        ));
        drop(theirs);
        let ours = listen(&config(&path)).unwrap();
        assert!(matches!(
            listen(&config(&path)),
            Err(FeedError::InUse { .. })
        ));
        drop(ours);
    }

    #[test]
    fn file_that_is_no_socket_is_left_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        fs::write(&path, "mine").unwrap();
        let refused = listen(&config(&path));
        assert!(matches!(refused, Err(FeedError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn file_of_somebody_else_at_the_path_is_not_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let (_listener, file) = listen(&config(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn directory_is_made_again_only_if_the_server_made_it() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a/b");
        for is_made in [true, false] {
            let path = directory.join("feed.sock");
            let (_listener, mut file) = listen(&config(&path)).unwrap();
            assert!(file.restore().unwrap().is_none());
            fs::remove_dir_all(place.path().join("a")).unwrap();
            if is_made {
                let _restored = file.restore().unwrap().unwrap();
                assert!(UnixStream::connect(&path).is_ok());
                assert!(file.is_there() && file.restore().unwrap().is_none());
                // Another server is kept out by the new lock.
                fs::remove_file(&path).unwrap();
                let refused = listen(&config(&path));
                assert!(matches!(refused, Err(FeedError::InUse { .. })));
                drop(file);
                // The next one finds the directory.
                fs::create_dir_all(&directory).unwrap();
            } else {
                let refused = file.restore().unwrap_err();
                assert!(matches!(refused, FeedError::System { .. }), "{refused}");
                assert!(!place.path().join("a").exists());
            }
        }
    }

    #[test]
    fn lock_that_was_removed_is_taken_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("feed.sock");
        let (_listener, mut file) = listen(&config(&path)).unwrap();
        fs::remove_file(lock_path(&path)).unwrap();
        assert!(file.restore().unwrap().is_none());
        assert!(matches!(lock(&path), Err(FeedError::InUse { .. })));
    }

    #[test]
    fn private_directory_has_to_be_ours_alone() {
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
    fn bad_mode_and_unknown_group_are_told() {
        let mut config = config(Path::new("/nonexistent/feed.sock"));
        config.feed_mode = String::from("rw");
        assert!(matches!(listen(&config), Err(FeedError::BadMode(_))));
        config.feed_mode = String::from("0660");
        config.feed_group = String::from("no such group");
        assert!(matches!(listen(&config), Err(FeedError::UnknownGroup(_))));
    }
}
