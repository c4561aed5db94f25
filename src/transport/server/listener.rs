//! Places to listen at: TCP and Unix sockets.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Type};

use crate::config::Endpoint;

/// A bound place to listen at. Dropping it stops listening and removes its socket file.
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
    bound: Endpoint,
}

/// An accepted connection, not yet bound to a runtime: it is served on another thread.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Why a place cannot be listened at.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system refuses.
    #[error("cannot listen on `{}`", Shown(.endpoint))]
    Bind {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Another process answers on the Unix socket.
    #[error("cannot listen on `unix:{}`: another process is listening there", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket has the Unix socket's name. It is left alone.
    #[error("cannot listen on `unix:{}`: there is a file that is not a socket", .0.display())]
    NotASocket(PathBuf),
}

/// Shows an endpoint the way it is configured.
#[derive(Debug)]
pub struct Shown<'a>(pub &'a Endpoint);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug)]
enum Inner {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, #[expect(dead_code, reason = "held for its drop")] SocketFile),
}

impl Listener {
    /// Binds `endpoint`; port 0 lets the system choose. Must be called inside a runtime.
    ///
    /// A stale socket file, on which nobody listens, is replaced.
    ///
    /// # Errors
    /// As [`ListenError`] says.
    pub fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        match endpoint {
            Endpoint::Tcp(address) => Self::bind_tcp(*address),
            Endpoint::Unix(path) => Self::bind_unix(path),
        }
        .map_err(|error| match error {
            BindError::Io(cause) => ListenError::Bind { endpoint: endpoint.clone(), cause },
            BindError::Listen(error) => error,
        })
    }

    /// Returns the address in use, with the port that the system chose.
    #[must_use]
    pub const fn bound(&self) -> &Endpoint {
        &self.bound
    }

    /// Waits for the next connection. Cancel-safe.
    ///
    /// # Errors
    /// What the system says, such as that there are no file descriptors left; the next call may succeed.
    pub async fn accept(&self) -> io::Result<Socket> {
        match &self.inner {
            Inner::Tcp(listener) => Ok(Socket::Tcp(listener.accept().await?.0.into_std()?)),
            Inner::Unix(listener, _) => Ok(Socket::Unix(listener.accept().await?.0.into_std()?)),
        }
    }

    fn bind_tcp(address: SocketAddr) -> Result<Self, BindError> {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }?;
        // Restarts must not wait for the old connections' TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let bound = Endpoint::Tcp(listener.local_addr()?);
        Ok(Self { inner: Inner::Tcp(listener), bound })
    }

    fn bind_unix(path: &Path) -> Result<Self, BindError> {
        remove_stale(path)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = SocketFile::of(path)?;
        // Before `listen`, so that nobody can connect while the mode is still what the umask left.
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
        socket.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(socket.into())?;
        Ok(Self { inner: Inner::Unix(listener, file), bound: Endpoint::Unix(path.to_owned()) })
    }
}

enum BindError {
    Io(io::Error),
    Listen(ListenError),
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Removes the socket at `path` if nobody listens there. Two processes that start at the same instant
/// can still race: the later one then wins.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::Listen(ListenError::NotASocket(path.to_owned())));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(fs::remove_file(path)?)
        }
        // Anything else (no permission, a full backlog) may be a living process: it is left alone.
        Ok(_) | Err(_) => Err(BindError::Listen(ListenError::InUse(path.to_owned()))),
    }
}

/// Our socket's file. Removed on drop, unless a successor has put its own in its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: what tells our file from a successor's of the same name.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Connections that may wait to be accepted: a restart lets every Envoy connect at once.
const BACKLOG: u32 = 1024;

/// Owner and group may ask: Envoy usually runs as another user of the same group.
const SOCKET_MODE: u32 = 0o660;

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Endpoint {
        Endpoint::Unix(path.to_owned())
    }

    #[tokio::test]
    async fn port_zero_reports_the_port_the_system_chose() {
        let listener = Listener::bind(&Endpoint::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        assert!(matches!(listener.bound(), Endpoint::Tcp(address) if address.port() != 0));
    }

    #[tokio::test]
    async fn socket_file_is_for_owner_and_group_and_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grpc.sock");
        let listener = Listener::bind(&unix(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn stale_socket_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grpc.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&unix(&path)).unwrap();
    }

    #[tokio::test]
    async fn socket_on_which_somebody_listens_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grpc.sock");
        let _first = Listener::bind(&unix(&path)).unwrap();
        let second = Listener::bind(&unix(&path));
        assert!(matches!(second, Err(ListenError::InUse(_))), "{second:?}");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        let bound = Listener::bind(&unix(&path));
        assert!(matches!(bound, Err(ListenError::NotASocket(_))), "{bound:?}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn successors_socket_file_outlives_its_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grpc.sock");
        let first = Listener::bind(&unix(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Listener::bind(&unix(&path)).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
