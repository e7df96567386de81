//! Why Kafka does not take this node: the cause in one line, with the setting to change.

use std::{path::Path, sync::Arc, time::Duration};

use rdkafka::{
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use rustls::ClientConfig;

use super::{
    client::{self, ClientLog},
    trial::{self, Port},
};
use crate::{
    config::KafkaConfig,
    tls::{
        self, Fault, Trouble,
        trial::{Unopened, speaks_tls},
    },
};

/// Most brokers of a list that are tried. The first ones nearly always say what the others would.
const TRIED_MAX: usize = 3;

/// Longest wait for a login.
const LOGIN_WITHIN: Duration = Duration::from_secs(3);

/// Most events of the library that are looked at.
const EVENTS_MAX: usize = 16;

/// Where the authorities of most systems are: Debian, Red Hat, `SUSE` and Alpine.
const SYSTEM_AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Settings that name the files and the servers.
const SETTINGS: [&str; 3] = ["kafka.ca_file", "kafka.cert_file", "kafka.brokers"];

/// Returns what a failed operation means if an access rule is missing.
pub(crate) fn of_rights(
    operation: &str,
    error: &(dyn std::error::Error + 'static),
    config: &KafkaConfig,
) -> Option<Trouble> {
    let code = match error.downcast_ref::<KafkaError>()? {
        // Of these, the library's own function tells no code.
        KafkaError::AdminOp(code) => *code,
        error => error.rdkafka_error_code()?,
    };
    let right = missing_right(code, config)?;
    let who = match &config.sasl_user {
        Some(user) => format!("user {user:?}"),
        None => "this node".to_owned(),
    };
    Some(Trouble::lasting(format!("Kafka forbids {who}: {operation}"), right))
}

/// Says which access rule an error of a broker asks for. None: it is no error of rights.
pub(crate) fn missing_right(code: RDKafkaErrorCode, config: &KafkaConfig) -> Option<String> {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => Some(format!(
            "allow Create, Describe, DescribeConfigs, Read and Write on topics with the prefix \
                 {:?} (kafka.topic_prefix)",
            config.topic_prefix
        )),
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            Some(format!("allow Read on group {:?} (kafka.group)", config.group))
        }
        _ => None,
    }
}

/// Finds why Kafka does not take this node. None: nothing that a setting could change. Blocks for some
/// seconds at most.
pub(crate) fn diagnose(config: &KafkaConfig) -> Option<Trouble> {
    let tls = match tls_settings(config) {
        Ok(tls) => tls,
        Err(trouble) => return Some(trouble),
    };
    let tried = |server: &String| of_port(server, trial::port(server, tls.as_ref()), config);
    let servers: Vec<&String> = config.brokers.iter().take(TRIED_MAX).collect();
    let troubles: Vec<Trouble> = servers.iter().copied().filter_map(tried).collect();
    if let Some(lasting) = troubles.iter().find(|trouble| trouble.is_final) {
        return Some(lasting.clone());
    }
    if troubles.len() == servers.len() {
        return troubles.into_iter().next();
    }
    // Some broker answers, so the others are not the reason.
    let advertised = match brokers(config) {
        Ok(advertised) => advertised,
        Err(trouble) => return Some(trouble),
    };
    advertised.iter().take(TRIED_MAX).find_map(|server| {
        let trouble = tried(server)?;
        let found = format!("a broker advertises {server}: {}", trouble.found);
        let remedy = format!("correct its advertised.listeners, or else {}", trouble.remedy);
        Some(Trouble { found, remedy, is_final: false })
    })
}

/// Logs in and returns the addresses that the brokers advertise; none if nobody says why it fails.
fn brokers(config: &KafkaConfig) -> Result<Vec<String>, Trouble> {
    let context = ClientLog::silent("diagnosis");
    let consumer: BaseConsumer<ClientLog> =
        BaseConsumer::from_config_and_context(&client::consumer(config), context).map_err(
            |error| {
                let found = format!("the Kafka library refuses its settings: {error}");
                Trouble::lasting(found, "check those that begin with kafka")
            },
        )?;
    let answered = consumer.fetch_metadata(None, LOGIN_WITHIN);
    // Runs the callback of errors, one of them at a time.
    let said = (0..EVENTS_MAX).find_map(|_| {
        let _read = consumer.poll(Duration::ZERO);
        consumer.context().take_refusal()
    });
    let found = answered.iter().flat_map(|metadata| metadata.brokers());
    let found = found.map(|broker| format!("{}:{}", broker.host(), broker.port())).collect();
    client::drop_in_background(consumer);
    said.map_or(Ok(found), |said| Err(of_login(&said, config)))
}

/// Returns the settings of a trial over TLS, none if the node speaks in clear.
fn tls_settings(config: &KafkaConfig) -> Result<Option<Arc<ClientConfig>>, Trouble> {
    if !config.security.has_tls() {
        return Ok(None);
    }
    let of_system = || SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let Some(authorities) = config.ca_file.as_deref().or_else(of_system) else {
        let found = "this system has no certificates of authorities";
        return Err(Trouble::lasting(found, "set kafka.ca_file"));
    };
    let identity = config.cert_file.as_deref().zip(config.key_file.as_deref());
    match tls::client(authorities, identity, Vec::new()) {
        Ok(settings) => Ok(Some(Arc::new(settings))),
        Err(error) => {
            let found = crate::telemetry::Chain(&error).to_string();
            Err(Trouble::lasting(found, "check kafka.ca_file, kafka.cert_file and kafka.key_file"))
        }
    }
}

/// Says what is wrong with a broker's port. None: it fits.
fn of_port(server: &str, port: Result<Port, Unopened>, config: &KafkaConfig) -> Option<Trouble> {
    let security = config.security;
    let shown = security.name();
    match port {
        Err(Unopened::NoName(said)) => Some(Trouble::passing(
            format!("the name of broker {server} does not resolve ({said})"),
            "correct kafka.brokers, or the name service of this machine",
        )),
        Err(Unopened::Unreachable(said)) => Some(Trouble::passing(
            format!("broker {server} cannot be reached ({said})"),
            "check kafka.brokers and that Kafka runs",
        )),
        Err(Unopened::Tls(Fault::NoTls)) => Some(no_tls(server, config)),
        // A broker closes a connection whose first bytes are no request, without a word.
        Err(Unopened::Closed) if security.has_tls() && trial::port(server, None).is_ok() => {
            Some(no_tls(server, config))
        }
        Err(Unopened::Tls(fault)) => Some(fault.describe(&format!("broker {server}"), SETTINGS)),
        Err(Unopened::Closed) if !security.has_tls() && speaks_tls(server) => {
            Some(Trouble::lasting(
                format!("broker {server} speaks TLS while kafka.security is \"{shown}\""),
                "set kafka.security = \"sasl_tls\" or \"tls\", or name its plain port",
            ))
        }
        Err(Unopened::Closed) => Some(Trouble::passing(
            format!("broker {server} closes the connection"),
            format!("check that its listener fits kafka.security = \"{shown}\""),
        )),
        Ok(port) => of_logins(server, &port, config),
    }
}

/// Says which login a broker's port wants, if the node has another one.
fn of_logins(server: &str, port: &Port, config: &KafkaConfig) -> Option<Trouble> {
    let security = config.security;
    let (shown, ours) = (security.name(), config.sasl_mechanism.name());
    let either = |with_tls, without| if security.has_tls() { with_tls } else { without };
    match port {
        Port::Open if security.has_sasl() => Some(Trouble::lasting(
            format!("broker {server} takes no login while kafka.security is \"{shown}\""),
            format!(
                "set kafka.security = \"{}\", or name its port for logins",
                either("tls", "plaintext")
            ),
        )),
        Port::Login(mechanisms) if !security.has_sasl() => Some(Trouble::lasting(
            format!(
                "broker {server} wants a login ({}) while kafka.security is \"{shown}\"",
                mechanisms.join(", ")
            ),
            format!(
                "set kafka.security = \"{}\", kafka.sasl.mechanism, kafka.sasl.user and \
                 kafka.sasl.password_file",
                either("sasl_tls", "sasl_plaintext")
            ),
        )),
        Port::Login(mechanisms) if !mechanisms.iter().any(|it| it == ours) => {
            let takes = mechanisms.join(", ");
            Some(Trouble::lasting(
                format!("broker {server} takes logins by {takes}, not by {ours}"),
                "set kafka.sasl.mechanism to one of these",
            ))
        }
        Port::Open | Port::Login(_) => None,
    }
}

fn no_tls(server: &str, config: &KafkaConfig) -> Trouble {
    let security = config.security;
    let plain = if security.has_sasl() { "sasl_plaintext" } else { "plaintext" };
    Trouble::lasting(
        format!(
            "broker {server} does not speak TLS while kafka.security is \"{}\"",
            security.name()
        ),
        format!("set kafka.security = \"{plain}\", or name its port for TLS"),
    )
}

/// Says what a refusal means that only the library's callback reports.
fn of_login(said: &str, config: &KafkaConfig) -> Trouble {
    let user = config.sasl_user.as_deref().unwrap_or_default();
    let mechanism = config.sasl_mechanism.name();
    Trouble::lasting(
        format!("Kafka refuses the login of user {user:?} by {mechanism} ({})", shortened(said)),
        "set kafka.sasl.user and kafka.sasl.password_file to a login that the brokers know",
    )
}

/// Leaves out what the library adds to the broker's words.
fn shortened(said: &str) -> &str {
    let after = |text: &'static str| said.find(text).map(|at| &said[at + text.len()..]);
    let said = after("SASL authentication error: ").or_else(|| after("failure: ")).unwrap_or(said);
    said.split(" (after ").next().unwrap_or(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SaslMechanism, Security};

    fn config(security: Security) -> KafkaConfig {
        KafkaConfig { security, sasl_user: Some("ada".to_owned()), ..KafkaConfig::default() }
    }

    #[track_caller]
    fn check(security: Security, port: Result<Port, Unopened>, is_final: bool, said: &str) {
        let trouble = of_port("b:1", port, &config(security)).unwrap();
        assert_eq!((trouble.to_string().as_str(), trouble.is_final), (said, is_final));
    }

    #[test]
    fn a_port_that_does_not_fit_names_the_setting() {
        let login = || Ok(Port::Login(vec!["PLAIN".to_owned(), "SCRAM-SHA-256".to_owned()]));
        check(
            Security::SaslTls,
            Err(Unopened::Tls(Fault::NoTls)),
            true,
            "broker b:1 does not speak TLS while kafka.security is \"sasl_tls\"; set kafka.security = \
             \"sasl_plaintext\", or name its port for TLS",
        );
        check(
            Security::Plaintext,
            login(),
            true,
            "broker b:1 wants a login (PLAIN, SCRAM-SHA-256) while kafka.security is \"plaintext\"; set \
             kafka.security = \"sasl_plaintext\", kafka.sasl.mechanism, kafka.sasl.user and \
             kafka.sasl.password_file",
        );
        check(
            Security::SaslTls,
            login(),
            true,
            "broker b:1 takes logins by PLAIN, SCRAM-SHA-256, not by SCRAM-SHA-512; set \
             kafka.sasl.mechanism to one of these",
        );
        check(
            Security::SaslTls,
            Ok(Port::Open),
            true,
            "broker b:1 takes no login while kafka.security is \"sasl_tls\"; set kafka.security = \
             \"tls\", or name its port for logins",
        );
        check(
            Security::Tls,
            Err(Unopened::Tls(Fault::Expired)),
            false,
            "broker b:1 shows a certificate that has expired; renew it there",
        );
        check(
            Security::Plaintext,
            Err(Unopened::NoName("no such name".to_owned())),
            false,
            "the name of broker b:1 does not resolve (no such name); correct kafka.brokers, or the \
             name service of this machine",
        );
    }

    #[test]
    fn a_port_that_fits_is_no_trouble() {
        assert_eq!(of_port("b:1", Ok(Port::Open), &config(Security::Tls)), None);
        let mut config = config(Security::SaslTls);
        config.sasl_mechanism = SaslMechanism::Plain;
        assert_eq!(of_port("b:1", Ok(Port::Login(vec!["PLAIN".to_owned()])), &config), None);
    }

    #[test]
    fn a_refused_login_names_user_and_settings() {
        let said = "sasl_ssl://b:1/bootstrap: SASL authentication error: Authentication failed during \
                    authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 (after \
                    301ms in state AUTH_REQ)";
        assert_eq!(
            of_login(said, &config(Security::SaslTls)).to_string(),
            "Kafka refuses the login of user \"ada\" by SCRAM-SHA-512 (Authentication failed during \
             authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512); set \
             kafka.sasl.user and kafka.sasl.password_file to a login that the brokers know"
        );
    }

    #[test]
    fn a_missing_right_is_named() {
        let config = config(Security::SaslTls);
        let error = KafkaError::AdminOp(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(
            of_rights("creating topic a.request", &error, &config).unwrap().to_string(),
            "Kafka forbids user \"ada\": creating topic a.request; allow Create, Describe, \
             DescribeConfigs, Read and Write on topics with the prefix \"outside.coupon.v1.issue\" \
             (kafka.topic_prefix)"
        );
        let group = missing_right(RDKafkaErrorCode::GroupAuthorizationFailed, &config);
        assert_eq!(group.as_deref(), Some("allow Read on group \"coupond\" (kafka.group)"));
        assert_eq!(missing_right(RDKafkaErrorCode::OperationTimedOut, &config), None);
    }
}
