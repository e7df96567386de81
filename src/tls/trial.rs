//! Opens a connection by hand, to find which step of it fails.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use super::Fault;

/// Longest wait for each step.
const STEP: Duration = Duration::from_secs(2);

/// A connection in clear or over TLS.
pub(crate) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// The step that fails.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// The server's name does not resolve.
    NoName(String),
    /// The server cannot be connected to.
    Unreachable(String),
    /// TLS fails.
    Tls(Fault),
    /// The server closes the connection, or its answer makes no sense.
    Closed,
}

impl From<&io::Error> for Unopened {
    fn from(error: &io::Error) -> Self {
        Fault::of(error).map_or(Self::Closed, Self::Tls)
    }
}

/// Which name a certificate is checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckedFor {
    /// The one that was written.
    Host,
    /// The address that was connected to.
    Address,
}

/// Connects to a server (`host:port`): over TLS if `tls` is given, else in clear. Blocks for some
/// seconds at most.
///
/// # Errors
/// [`Unopened`], the step that fails.
pub(crate) fn open(
    server: &str,
    tls: Option<&Arc<ClientConfig>>,
    checked_for: CheckedFor,
) -> Result<Box<dyn Stream>, Unopened> {
    let address = match server.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(address)) => address,
        Ok(None) => return Err(Unopened::NoName("no address".to_owned())),
        Err(error) => return Err(Unopened::NoName(error.to_string())),
    };
    let connect = || {
        let stream = TcpStream::connect_timeout(&address, STEP)?;
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        io::Result::Ok(stream)
    };
    let mut stream = connect().map_err(|error| Unopened::Unreachable(error.to_string()))?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    let name = match checked_for {
        CheckedFor::Host => ServerName::try_from(host.to_owned()).map_err(|_| Unopened::Closed)?,
        CheckedFor::Address => ServerName::IpAddress(address.ip().into()),
    };
    let connection = ClientConnection::new(Arc::clone(tls), name);
    let mut connection =
        connection.map_err(|error| Unopened::Tls(Fault::Other(error.to_string())))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| Unopened::from(&error))?;
    }
    Ok(Box::new(StreamOwned::new(connection, stream)))
}

/// Returns whether a server answers in TLS, whatever its certificate.
pub(crate) fn speaks_tls(server: &str) -> bool {
    let Some(settings) = super::for_trial() else { return false };
    match open(server, Some(&Arc::new(settings)), CheckedFor::Address) {
        Ok(_) => true,
        Err(Unopened::Tls(fault)) => fault != Fault::NoTls,
        Err(Unopened::NoName(_) | Unopened::Unreachable(_) | Unopened::Closed) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_resolve_is_found() {
        let unopened = |server: &str| open(server, None, CheckedFor::Host).err();
        assert!(matches!(unopened("kafka.invalid:9092"), Some(Unopened::NoName(_))));
        assert!(matches!(unopened("127.0.0.1:1"), Some(Unopened::Unreachable(_))));
    }
}
