//! Tries the first request of a connection to a broker by hand, to find which setting does not fit:
//! the Kafka library only says that it was disconnected.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use rustls::ClientConfig;

use crate::tls::trial::{CheckedFor, Unopened, open};

/// Most bytes of an answer. A list of mechanisms is far shorter.
const ANSWER_BYTES_MAX: usize = 4_096;

/// What a broker's port turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// A broker without a login.
    Open,
    /// A broker that wants a login by one of these mechanisms.
    Login(Vec<String>),
}

/// Tries a broker (`host:port`): over TLS if `tls` is given, else in clear. Blocks for some seconds
/// at most.
pub(super) fn port(server: &str, tls: Option<&Arc<ClientConfig>>) -> Result<Port, Unopened> {
    let mut stream = open(server, tls, CheckedFor::Host)?;
    match handshake(&mut stream) {
        Ok(Some(mechanisms)) => Ok(Port::Login(mechanisms)),
        Ok(None) => Ok(Port::Open),
        // A missing client certificate is refused after the handshake of TLS 1.3.
        Err(error) => Err(Unopened::from(&error)),
    }
}

/// Sends SaslHandshake, version 1, for a mechanism that no broker has. A port with a login answers
/// with its mechanisms, another one that the request makes no sense there (none).
fn handshake(stream: &mut (impl Read + Write)) -> io::Result<Option<Vec<String>>> {
    const CORRELATION: [u8; 4] = *b"trya";
    let mut request = vec![0, 17, 0, 1];
    request.extend(CORRELATION);
    request.extend([0, 7]);
    request.extend(b"coupond");
    request.extend([0, 4]);
    request.extend(b"NONE");
    stream.write_all(&u32::try_from(request.len()).unwrap_or_default().to_be_bytes())?;
    stream.write_all(&request)?;
    stream.flush()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if !(6..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(io::Error::other("no answer of a broker"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    let Some(rest) = answer.strip_prefix(&CORRELATION) else {
        return Err(io::Error::other("no answer of a broker"));
    };
    Ok(mechanisms(rest))
}

/// Parses the answer after its correlation id. None: the port has no login.
fn mechanisms(answer: &[u8]) -> Option<Vec<String>> {
    const UNSUPPORTED_MECHANISM: [u8; 2] = 33_i16.to_be_bytes();
    let list = answer.strip_prefix(&UNSUPPORTED_MECHANISM)?;
    let (_, mut rest) = list.split_at_checked(4)?;
    let mut names = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (name, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = after;
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_a_login_lists_its_mechanisms() {
        let answer = b"\x00\x21\x00\x00\x00\x02\x00\x05PLAIN\x00\x0dSCRAM-SHA-256";
        let names = ["PLAIN".to_owned(), "SCRAM-SHA-256".to_owned()];
        assert_eq!(mechanisms(answer), Some(names.into()));
        // ILLEGAL_SASL_STATE
        assert_eq!(mechanisms(b"\x00\x22\x00\x00\x00\x00"), None);
    }
}
