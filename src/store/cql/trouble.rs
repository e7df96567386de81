//! Why the database does not take this node: the cause in one line, with the setting to change.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::ClientConfig;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError,
    NewSessionError, RequestAttemptError,
};

use super::error::{ConnectError, SetupRefusal};
use crate::{
    config::CqlConfig,
    telemetry::Chain,
    tls::{
        self, Fault, Trouble,
        trial::{CheckedFor, Unopened, open, speaks_tls},
    },
};

/// Most nodes of the list that are tried. The first ones nearly always say what the others would.
const TRIED_MAX: usize = 3;

/// Settings that name the files and the servers.
const SETTINGS: [&str; 3] = ["cql.tls.ca_file", "cql.tls.cert_file", "cql.nodes"];

fn into_error(trouble: Trouble) -> ConnectError {
    match trouble {
        Trouble { found, remedy, is_final: true } => SetupRefusal::Trouble { found, remedy }.into(),
        Trouble { found, remedy, .. } => ConnectError::unavailable(found, remedy),
    }
}

/// Returns the settings for TLS, none if the node speaks in clear.
pub(super) fn tls_settings(config: &CqlConfig) -> Result<Option<ClientConfig>, ConnectError> {
    let Some(authorities) = config.tls_ca_file.as_deref() else { return Ok(None) };
    let identity = config.tls_cert_file.as_deref().zip(config.tls_key_file.as_deref());
    match tls::client(authorities, identity, tls::names(&config.nodes)) {
        Ok(settings) => Ok(Some(settings)),
        Err(error) => {
            let remedy = "check cql.tls.ca_file, cql.tls.cert_file and cql.tls.key_file".to_owned();
            Err(SetupRefusal::Trouble { found: Chain(&error).to_string(), remedy }.into())
        }
    }
}

/// Finds why no session was made. Tries the nodes by hand, because the driver only says how its last
/// connection failed.
pub(super) async fn explained(config: &CqlConfig, error: NewSessionError) -> ConnectError {
    if let Some(trouble) = of_login(&error, config) {
        return into_error(trouble);
    }
    let tried = config.clone();
    let found = tokio::task::spawn_blocking(move || diagnose(&tried)).await;
    match found {
        Ok(Some(trouble)) => into_error(trouble),
        // The diagnosis panicked, or found nothing.
        Ok(None) | Err(_) => {
            let nodes = config.nodes.join(", ");
            ConnectError::unavailable(format!("connecting to the database at {nodes}"), error)
        }
    }
}

/// Says what a refused login means.
fn of_login(error: &NewSessionError, config: &CqlConfig) -> Option<Trouble> {
    use ConnectionSetupRequestErrorKind::{DbError as Refused, MissingAuthentication};
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
        ConnectionPoolError::Broken { last_connection_error, .. },
    )) = error
    else {
        return None;
    };
    let ConnectionError::ConnectionSetupRequestError(refused) = last_connection_error else {
        return None;
    };
    match &refused.error {
        MissingAuthentication => Some(Trouble::lasting(
            "the database wants a login, and cql.user is not set",
            "set cql.user and cql.password_file",
        )),
        Refused(DbError::AuthenticationError, said) if is_passing(said) => Some(Trouble::passing(
            format!("the database cannot check the login now ({said})"),
            "look at the nodes that have its keyspace system_auth",
        )),
        Refused(DbError::AuthenticationError, said) => {
            let user = config.user.as_deref().unwrap_or_default();
            Some(Trouble::lasting(
                format!("the database refuses the login of user {user:?} ({said})"),
                "set cql.user and cql.password_file to a login that the database knows",
            ))
        }
        _ => None,
    }
}

/// Returns whether a refusal says only that logins or rights cannot be read now: Cassandra answers so
/// while the nodes with its keyspace `system_auth` are away.
fn is_passing(said: &str) -> bool {
    ["Unable to perform", "Cannot achieve consistency", "timed out"]
        .iter()
        .any(|words| said.contains(words))
}

/// Tries the nodes. None: each of them answers. Blocks for some seconds at most.
fn diagnose(config: &CqlConfig) -> Option<Trouble> {
    let tls = match tls_settings(config) {
        Ok(tls) => tls.map(Arc::new),
        Err(error) => return Some(Trouble::lasting(Chain(&error).to_string(), "correct it")),
    };
    let tried = |node: &String| of_node(node, answers(node, tls.as_ref()), config);
    config.nodes.iter().take(TRIED_MAX).find_map(tried)
}

/// Sends OPTIONS of CQL, version 4, and reads the head of its answer.
fn answers(node: &str, tls: Option<&Arc<ClientConfig>>) -> Result<(), Unopened> {
    const OPTIONS: [u8; 9] = [4, 0, 0, 0, 5, 0, 0, 0, 0];
    const FROM_SERVER: u8 = 0x80;
    let mut stream = open(node, tls, CheckedFor::Address)?;
    let mut head = [0; 9];
    let asked = stream
        .write_all(&OPTIONS)
        .and_then(|()| stream.flush())
        .and_then(|()| stream.read_exact(&mut head));
    match asked {
        Ok(()) if head[0] & FROM_SERVER != 0 => Ok(()),
        Ok(()) => Err(Unopened::Closed),
        Err(error) => Err(Unopened::from(&error)),
    }
}

/// Says what is wrong with a node. None: it answers.
fn of_node(node: &str, answered: Result<(), Unopened>, config: &CqlConfig) -> Option<Trouble> {
    let has_tls = config.tls_ca_file.is_some();
    let server = format!("database node {node}");
    match answered.err()? {
        Unopened::NoName(said) => Some(Trouble::passing(
            format!("the name of {server} does not resolve ({said})"),
            "correct cql.nodes, or the name service of this machine",
        )),
        Unopened::Unreachable(said) => Some(Trouble::passing(
            format!("{server} cannot be reached ({said})"),
            "check cql.nodes and that the database runs",
        )),
        Unopened::Tls(Fault::NoTls) => Some(Trouble::lasting(
            format!("{server} does not speak TLS while cql.tls.ca_file is set"),
            "leave out cql.tls.ca_file, or name its port for TLS",
        )),
        // Cassandra closes a connection in clear without a word.
        Unopened::Closed if !has_tls && speaks_tls(node) => Some(Trouble::lasting(
            format!("{server} speaks TLS while cql.tls.ca_file is not set"),
            "set cql.tls.ca_file",
        )),
        Unopened::Closed if has_tls && !speaks_tls(node) => Some(Trouble::lasting(
            format!("{server} does not speak TLS while cql.tls.ca_file is set"),
            "leave out cql.tls.ca_file, or name its port for TLS",
        )),
        Unopened::Closed => Some(Trouble::passing(
            format!("{server} closes the connection"),
            "check that cql.nodes names its port for clients",
        )),
        Unopened::Tls(fault) => Some(fault.describe(&server, SETTINGS)),
    }
}

/// Returns the refusal if the database says that the role lacks a right.
pub(super) fn forbidden(
    error: &RequestAttemptError,
    operation: &str,
    config: &CqlConfig,
) -> Option<SetupRefusal> {
    let RequestAttemptError::DbError(DbError::Unauthorized, said) = error else { return None };
    if is_passing(said) {
        return None;
    }
    let user = config.user.as_deref().unwrap_or_default();
    Some(SetupRefusal::Trouble {
        found: format!("the database forbids user {user:?}: {operation} ({said})"),
        remedy: format!(
            "grant CREATE, ALTER, SELECT and MODIFY on keyspace {} to this role; CREATE on all \
             keyspaces if coupond is to make the keyspace",
            config.keyspace
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tls: bool, answered: Result<(), Unopened>, said: &str) {
        let tls_ca_file = tls.then(|| "ca.pem".into());
        let config = CqlConfig { tls_ca_file, ..CqlConfig::default() };
        let trouble = of_node("127.0.0.1:1", answered, &config);
        assert_eq!(trouble.map(|trouble| trouble.to_string()).as_deref(), Some(said));
    }

    #[test]
    fn a_node_that_does_not_fit_names_the_setting() {
        check(
            true,
            Err(Unopened::Tls(Fault::NoTls)),
            "database node 127.0.0.1:1 does not speak TLS while cql.tls.ca_file is set; leave out \
             cql.tls.ca_file, or name its port for TLS",
        );
        check(
            true,
            Err(Unopened::Tls(Fault::UnknownAuthority)),
            "database node 127.0.0.1:1 shows a certificate that none of the known authorities has \
             signed; set cql.tls.ca_file to the certificates of the authority that did",
        );
        check(
            true,
            Err(Unopened::Tls(Fault::ClientCertificate)),
            "database node 127.0.0.1:1 wants a certificate of this node, or refuses the one it got; \
             set cql.tls.cert_file and its key to one that an authority of the server signed",
        );
        check(
            false,
            Err(Unopened::Closed),
            "database node 127.0.0.1:1 closes the connection; check that cql.nodes names its port \
             for clients",
        );
    }

    #[test]
    fn rights_that_cannot_be_read_now_are_no_refusal() {
        let said = "Unable to perform authorization of permissions: Cannot achieve consistency \
                    level LOCAL_ONE";
        let error = RequestAttemptError::DbError(DbError::Unauthorized, said.to_owned());
        assert!(forbidden(&error, "SELECT", &CqlConfig::default()).is_none());
        assert!(!is_passing("User ada has no MODIFY permission"));
    }

    #[test]
    fn a_missing_grant_is_named() {
        let config = CqlConfig { user: Some("ada".to_owned()), ..CqlConfig::default() };
        let said = "User ada has no MODIFY permission".to_owned();
        let error = RequestAttemptError::DbError(DbError::Unauthorized, said);
        let refusal = forbidden(&error, "DELETE", &config).unwrap().to_string();
        assert_eq!(
            refusal,
            "the database forbids user \"ada\": DELETE (User ada has no MODIFY permission); grant \
             CREATE, ALTER, SELECT and MODIFY on keyspace coupond to this role; CREATE on all \
             keyspaces if coupond is to make the keyspace"
        );
    }
}
