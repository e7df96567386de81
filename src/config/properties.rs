//! `[kafka.properties]`: whatever else the Kafka library takes, by its own names.

use rdkafka::{ClientConfig, error::KafkaError};

use super::{keys::PREFIX, layers::Given, problem::ConfigProblem, types::Properties, value::Value};

/// The table.
pub(super) const TABLE: &str = "kafka.properties";

/// Properties with a setting of their own.
const SETTINGS: [(&str, &str); 13] = [
    ("bootstrap.servers", "kafka.brokers"),
    ("metadata.broker.list", "kafka.brokers"),
    ("group.id", "kafka.group"),
    ("message.timeout.ms", "kafka.append_timeout"),
    ("delivery.timeout.ms", "kafka.append_timeout"),
    ("security.protocol", "kafka.security"),
    ("ssl.ca.location", "kafka.ca_file"),
    ("ssl.certificate.location", "kafka.cert_file"),
    ("ssl.key.location", "kafka.key_file"),
    ("sasl.mechanism", "kafka.sasl.mechanism"),
    ("sasl.mechanisms", "kafka.sasl.mechanism"),
    ("sasl.username", "kafka.sasl.user"),
    ("sasl.password", "kafka.sasl.password_file"),
];

/// Properties that coupond decides, and what depends on them.
const DECIDED: [(&[&str], &str); 6] = [
    (
        &[
            "acks",
            "delivery.report.only.error",
            "request.required.acks",
            "enable.idempotence",
            "enable.gapless.guarantee",
            "transactional.id",
            "transaction.timeout.ms",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "retries",
            "message.send.max.retries",
            "request.timeout.ms",
            "partitioner",
        ],
        "an answer 2xx promises that the request is in the log, once, in its campaign's partition",
    ),
    (
        &[
            "auto.offset.reset",
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "isolation.level",
            "check.crcs",
            "enable.partition.eof",
        ],
        "every node must read each record of the log, from the position that its rows give",
    ),
    (
        &[
            "partition.assignment.strategy",
            "group.protocol",
            "group.protocol.type",
            "group.remote.assignor",
            "group.instance.id",
            "session.timeout.ms",
            "heartbeat.interval.ms",
            "max.poll.interval.ms",
        ],
        "ownership of partitions must move within the time that a takeover may take",
    ),
    (
        &[
            "batch.num.messages",
            "fetch.wait.max.ms",
            "fetch.error.backoff.ms",
            "fetch.queue.backoff.ms",
            "batch.size",
            "fetch.max.bytes",
            "fetch.message.max.bytes",
            "linger.ms",
            "max.partition.fetch.bytes",
            "message.max.bytes",
            "queue.buffering.max.kbytes",
            "queue.buffering.max.messages",
            "queue.buffering.max.ms",
            "queued.max.messages.kbytes",
            "queued.min.messages",
            "receive.message.max.bytes",
        ],
        "the memory of a node and the time of a decision are bounded by them",
    ),
    (
        &["socket.timeout.ms", "socket.connection.setup.timeout.ms", "reconnect.backoff.max.ms"],
        "a lost broker must be noticed within the time that a takeover may take",
    ),
    (
        &["allow.auto.create.topics"],
        "coupond makes its topics itself, with the settings that they need",
    ),
];

/// Returns the name of the property that `key` sets, if it sets one.
pub(super) fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix(TABLE)?.strip_prefix('.')
}

/// Returns the key of an environment variable that sets a property, as
/// `COUPOND_KAFKA__PROPERTIES__SOCKET__NAGLE__DISABLE` does.
pub(super) fn of_variable(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?.strip_prefix("KAFKA__PROPERTIES__")?;
    Some(format!("{TABLE}.{}", name.replace("__", ".").to_ascii_lowercase()))
}

/// Returns whether the value of a property may be a secret.
pub(super) fn is_secret(name: &str) -> bool {
    ["password", "secret", "pem", "oauthbearer", "key"].iter().any(|word| name.contains(word))
}

/// Checks a property and stores it.
pub(super) fn assign(
    properties: &mut Properties,
    name: &str,
    given: &Given,
) -> Result<(), ConfigProblem> {
    let refused = |fault: String, remedy: String| {
        let (key, origin) = (given.key.clone(), given.origin.clone());
        Err(ConfigProblem { key, fault, remedy, origin })
    };
    if let Some((_, setting)) = SETTINGS.iter().find(|(taken, _)| *taken == name) {
        let fault = "has a setting of its own".to_owned();
        return refused(fault, format!("set {setting} instead"));
    }
    if let Some((_, why)) = DECIDED.iter().find(|(names, _)| names.contains(&name)) {
        return refused(format!("is decided by coupond: {why}"), "leave it out".to_owned());
    }
    let value = match (&given.input.word, &given.input.value) {
        (_, Value::Text(text)) => text.clone(),
        (Some(word), _) => word.clone(),
        (None, Value::Integer(number)) => number.to_string(),
        (None, Value::Flag(flag)) => flag.to_string(),
        (None, Value::List(_) | Value::Table(_) | Value::Other(_)) => {
            let fault = "must be a text, a whole number, true or false".to_owned();
            return refused(fault, "write the value in quotes".to_owned());
        }
    };
    if let Err(fault) = taken_by_library(name, &value) {
        let remedy =
            "see CONFIGURATION.md of librdkafka for the names and values of its properties";
        return refused(fault, remedy.to_owned());
    }
    properties.0.insert(name.to_owned(), value);
    Ok(())
}

/// Tries a property on settings of the library that no client uses.
fn taken_by_library(name: &str, value: &str) -> Result<(), String> {
    // The library takes the rest of a text with a zero byte for something else, or panics.
    if name.contains('\0') || value.contains('\0') {
        return Err("must not contain the character NUL".to_owned());
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, said, _, _)) if !is_secret(name) => {
            Err(format!("is {value:?}, which librdkafka refuses: {said}"))
        }
        Err(_) => Err("is refused by librdkafka".to_owned()),
    }
}
