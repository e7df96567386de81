//! Where a listener listens: a TCP address or a Unix socket.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use super::value::{Shown, Textual};

/// Longest path of a Unix socket: what the kernel's address structure holds.
const UNIX_PATH_MAX: usize = 107;

/// What precedes the path of a Unix socket.
pub(crate) const UNIX: &str = "unix:";

/// The place of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address. Port 0 picks a free port.
    Tcp(SocketAddr),
    /// An absolute path of a Unix socket.
    Unix(PathBuf),
}

/// A text that names no place of a listener.
#[derive(Debug, thiserror::Error)]
#[error("neither IP:port nor unix:/path")]
pub struct NotListen;

impl Listen {
    /// Returns whether only users of this machine reach the listener.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Returns whether one process cannot listen on both.
    pub(super) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => {
                let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
                let overlap = ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified();
                one.port() != 0 && one.port() == other.port() && overlap
            }
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => false,
        }
    }

    /// Returns the URL by which this machine reaches the listener, without a path: of loopback if it
    /// listens on all addresses; of a Unix socket `unix:/path`.
    #[must_use]
    pub fn url(&self, is_tls: bool) -> String {
        let scheme = if is_tls { "https" } else { "http" };
        match self {
            Self::Tcp(listen) => format!("{scheme}://{}", reachable(*listen)),
            Self::Unix(_) => self.to_string(),
        }
    }
}

impl FromStr for Listen {
    type Err = NotListen;

    fn from_str(text: &str) -> Result<Self, NotListen> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return text.parse().map(Self::Tcp).map_err(|_| NotListen);
        };
        let is_path = path.starts_with('/')
            && !path.ends_with('/')
            && path.len() <= UNIX_PATH_MAX
            && !path.contains('\0');
        if is_path { Ok(Self::Unix(path.into())) } else { Err(NotListen) }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Textual for Listen {
    fn show(&self) -> Shown {
        Shown::text(&self.to_string())
    }
}

/// Returns the address by which this machine reaches a listener: loopback if it listens on all
/// addresses.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_or_an_absolute_path() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX - 1));
        for good in ["127.0.0.1:8080", "[::1]:0", "unix:/run/coupond/api.sock", &long] {
            assert_eq!(good.parse::<Listen>().unwrap().to_string(), good);
        }
        let longer = format!("{long}x");
        for bad in ["localhost:1", "127.0.0.1", "unix:", "unix:api.sock", "unix:/run/", &longer] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_unix_socket_counts_as_loopback() {
        for (listen, loopback) in [
            ("unix:/run/api.sock", true),
            ("127.0.0.9:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
        ] {
            assert_eq!(listen.parse::<Listen>().unwrap().is_loopback(), loopback, "{listen}");
        }
    }
}
