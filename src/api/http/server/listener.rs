//! Where connections come from: a TCP address or a Unix socket.

use std::{
    fs, io,
    net::IpAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::{super::guard::NO_CLIENT, stream::Socket};
use crate::config::Listen;

/// A listener that is bound. A Unix socket is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A client that has connected, and its address. All clients of a Unix socket have the same one.
pub(super) type Accepted = (Socket, IpAddr);

impl Listener {
    /// Binds a listener. A Unix socket gets these access bits; a socket file that no process listens on is
    /// replaced.
    ///
    /// # Errors
    /// The address or the socket is in use, or may not be bound.
    pub(crate) async fn bind(listen: &Listen, mode: u32) -> io::Result<Self> {
        let path = match listen {
            Listen::Tcp(address) => return TcpListener::bind(address).await.map(Self::of_tcp),
            Listen::Unix(path) => path,
        };
        let bound = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path).await?;
                UnixListener::bind(path)
            }
            bound => bound,
        }?;
        let file = SocketFile::of(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(Self(Kind::Unix(bound, file)))
    }

    /// Returns a listener on a TCP address.
    pub(crate) fn of_tcp(listener: TcpListener) -> Self {
        Self(Kind::Tcp(listener))
    }

    /// Returns where it listens, with the port that was picked.
    pub(crate) fn place(&self) -> io::Result<Listen> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Kind::Unix(_, file) => Ok(Listen::Unix(file.path.clone())),
        }
    }

    /// Waits for a client.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((Socket::Left(stream), client.ip()))
            }
            Kind::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Right(stream), NO_CLIENT))
            }
        }
    }

    /// Returns a client that waits in the kernel's backlog, if there is one. The runtime knows of a client
    /// only once it has looked, so it is not asked.
    pub(super) fn accept_waiting(&self) -> io::Result<Accepted> {
        let accepted = |listener: &dyn AsFd| -> io::Result<OwnedFd> {
            let fd = rustix::net::accept(listener.as_fd())?;
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&fd, true)?;
            Ok(fd)
        };
        match &self.0 {
            Kind::Tcp(listener) => {
                let stream = std::net::TcpStream::from(accepted(listener)?);
                let client = stream.peer_addr()?.ip();
                Ok((Socket::Left(tokio::net::TcpStream::from_std(stream)?), client))
            }
            Kind::Unix(listener, _) => {
                let stream = std::os::unix::net::UnixStream::from(accepted(listener)?);
                Ok((Socket::Right(UnixStream::from_std(stream)?), NO_CLIENT))
            }
        }
    }
}

/// Removes the socket file of a process that has ended.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |reason: &str| {
        let path = path.display();
        io::Error::new(io::ErrorKind::AddrInUse, format!("{path} {reason}"))
    };
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(in_use("exists and is no socket; remove it, or name another path"));
    }
    match UnixStream::connect(path).await {
        // The file outlives its process: only then nobody is behind it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(in_use("is in use by another process; stop it, or name another path")),
    }
}

/// The file of a Unix socket, which is removed when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode. A file with others is of a process that has replaced this one's.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "socket file not removed");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
