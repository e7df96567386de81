//! The one table of keys: name, meaning, rule and place of every setting.

use std::{path::PathBuf, time::Duration};

use super::{Identity, Mode, slot::Slot};

/// Days of a duration's upper bound; ten years.
const DAYS_MAX: u64 = 3_650;

/// A setting.
pub(super) struct Key {
    /// Levels joined by dots; at most one level of tables.
    pub(super) name: &'static str,
    /// What it means and in which unit, in whole sentences.
    pub(super) doc: &'static str,
    /// Where it goes and what it may be.
    pub(super) slot: Slot,
}

impl Key {
    /// The environment variable of this key.
    pub(super) fn variable(&self) -> String {
        format!("{}{}", super::layers::PREFIX, self.name.to_uppercase().replace('.', "__"))
    }

    /// Its table, empty for a key at the top, and its name in there.
    pub(super) fn split(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every setting, in the order in which they are printed: a table's keys stand together.
pub(super) static KEYS: [Key; 27] = [
    Key {
        name: "mode",
        doc: "How the node keeps its log and store: \"embedded\" is one node with everything in \
              one folder, \"distributed\" is any number of nodes on Kafka and a CQL database \
              (ScyllaDB, Cassandra).",
        slot: Slot::Text {
            set: |config, text| parse_mode(text).map(|mode| config.mode = mode).is_some(),
            show: |config| config.mode.name().to_owned(),
            rule: "\"embedded\" or \"distributed\"",
        },
    },
    Key {
        name: "demo",
        doc: "Whether an open campaign named demo is made on start. Default: true if embedded, \
              false if distributed.",
        slot: Slot::Flag(|config| &mut config.demo),
    },
    Key {
        name: "embedded.dir",
        doc: "Data folder; made when it does not exist. One node at a time uses it. If \
              distributed, only admin.token is kept there.",
        slot: Slot::Text {
            set: |config, text| {
                let valid = !text.is_empty() && !text.contains('\0');
                if valid {
                    config.embedded.dir = PathBuf::from(text);
                }
                valid
            },
            show: |config| config.embedded.dir.display().to_string(),
            rule: "the path of a folder",
        },
    },
    Key {
        name: "embedded.partitions",
        doc: "Partitions of the local log: campaigns of different partitions are decided side by \
              side. Fixed by the first start.",
        slot: Slot::U32(|config| &mut config.embedded.partitions, 1..=256),
    },
    Key {
        name: "embedded.retention",
        doc: "How long settled records are kept in the local log.",
        slot: Slot::Duration(
            |config| &mut config.embedded.retention,
            seconds(0)..=seconds(DAYS_MAX * 86_400),
        ),
    },
    Key {
        name: "embedded.reserve_bytes",
        doc: "With less free space than this on the data folder's disk, requests are answered \
              503 and the node is not ready. In bytes.",
        slot: Slot::U64(|config| &mut config.embedded.reserve_bytes, 0..=1 << 50),
    },
    Key {
        name: "kafka.brokers",
        doc: "Brokers to find the cluster by. Needed if distributed.",
        slot: Slot::Servers(|config| &mut config.kafka.brokers, 9_092),
    },
    Key {
        name: "kafka.topic_prefix",
        doc: "Topics are named by this and .request, .result and .dead-letter.",
        slot: Slot::Text {
            set: |config, text| {
                let byte_valid =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
                // A topic's name is at most 249 bytes; the longest suffix is ".dead-letter".
                let valid = (1..=237).contains(&text.len()) && text.bytes().all(byte_valid);
                store_text(valid, &mut config.kafka.topic_prefix, text)
            },
            show: |config| config.kafka.topic_prefix.clone(),
            rule: "1 to 237 of A-Z, a-z, 0-9 and '.', '_', '-'",
        },
    },
    Key {
        name: "kafka.partitions",
        doc: "Partitions of the request topic when coupond creates it; fixed by the first start.",
        slot: Slot::U32(|config| &mut config.kafka.partitions, 1..=10_000),
    },
    Key {
        name: "kafka.replication_factor",
        doc: "Replication factor of topics that coupond creates; 0 means 3, or the number of \
              brokers found if that is less (with a warning).",
        slot: Slot::U32(|config| &mut config.kafka.replication_factor, 0..=100),
    },
    Key {
        name: "kafka.group",
        doc: "Consumer group by which the nodes of an instance share its partitions.",
        slot: Slot::Text {
            set: |config, text| {
                let valid = (1..=249).contains(&text.len()) && is_visible(text);
                store_text(valid, &mut config.kafka.group, text)
            },
            show: |config| config.kafka.group.clone(),
            rule: "1 to 249 visible ASCII characters without spaces",
        },
    },
    Key {
        name: "kafka.append_timeout",
        doc: "An append that is not confirmed after this time is unknown: dropped by the \
              producer, and answered 503. Below the 5 s in which the admin listener answers.",
        slot: Slot::Duration(
            |config| &mut config.kafka.append_timeout,
            Duration::from_millis(100)..=Duration::from_millis(4_500),
        ),
    },
    Key {
        name: "cql.nodes",
        doc: "Database nodes to find the cluster by. Needed if distributed.",
        slot: Slot::Servers(|config| &mut config.cql.nodes, 9_042),
    },
    Key {
        name: "cql.keyspace",
        doc: "Keyspace of this instance; made when it does not exist.",
        slot: Slot::Text {
            set: |config, text| {
                let byte_valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
                let valid = (1..=48).contains(&text.len())
                    && text.starts_with(|first: char| first.is_ascii_lowercase())
                    && text.bytes().all(byte_valid);
                store_text(valid, &mut config.cql.keyspace, text)
            },
            show: |config| config.cql.keyspace.clone(),
            rule: "1 to 48 of a-z, 0-9 and '_', starting with a letter",
        },
    },
    Key {
        name: "cql.replication_factor",
        doc: "Replication factor of a keyspace that coupond creates; 0 means 3, or the number of \
              nodes found if that is less (with a warning).",
        slot: Slot::U32(|config| &mut config.cql.replication_factor, 0..=100),
    },
    Key {
        name: "secret.key",
        doc: "The instance's secret, from which codes, request ids and MACs are made; the same \
              on every node and for ever. Not set: made on the first start and kept, in the data \
              folder if embedded, in the database if distributed.",
        slot: Slot::Secret {
            slot: |config| &mut config.secret,
            valid: |text| text.len() >= 32,
            rule: "at least 32 bytes long",
        },
    },
    Key {
        name: "api.listen",
        doc: "Address of the public listener. Port 0: any free one.",
        slot: Slot::Text {
            set: |config, text| text.parse().map(|address| config.api.listen = address).is_ok(),
            show: |config| config.api.listen.to_string(),
            rule: LISTEN_RULE,
        },
    },
    Key {
        name: "api.identity",
        doc: "Who says which user asks: \"trusted\", the body, because the caller is a gateway \
              that has authenticated the user; or \"header:NAME\", the header of that name, set by \
              a proxy that clients can't go around.",
        slot: Slot::Text {
            set: |config, text| {
                let identity = parse_identity(text);
                identity.map(|identity| config.api.identity = identity).is_some()
            },
            show: |config| match &config.api.identity {
                Identity::Trusted => "trusted".to_owned(),
                Identity::Header(name) => format!("header:{name}"),
            },
            rule: "\"trusted\" or \"header:NAME\" with the name of an HTTP header that HTTP and \
                   coupond do not use themselves",
        },
    },
    Key {
        name: "api.trust_network",
        doc: "Allows identity \"trusted\" on an address that is not loopback: whoever reaches it \
              can ask for anybody.",
        slot: Slot::Flag(|config| &mut config.api.trust_network),
    },
    Key {
        name: "api.clock_margin",
        doc: "How far the clocks of nodes and log may differ: so close to an end of a campaign's \
              window nothing is refused at the edge, the log decides.",
        slot: Slot::Duration(|config| &mut config.api.clock_margin, seconds(0)..=seconds(60)),
    },
    Key {
        name: "api.waiters_max",
        doc: "Requests that may wait for their decision at once; the next ones are answered 202.",
        slot: Slot::Usize(|config| &mut config.api.waiters_max, 0..=1_000_000),
    },
    Key {
        name: "admin.listen",
        doc: "Address of the admin listener (campaigns, metrics, health). Port 0: any free one.",
        slot: Slot::Text {
            set: |config, text| text.parse().map(|address| config.admin.listen = address).is_ok(),
            show: |config| config.admin.listen.to_string(),
            rule: LISTEN_RULE,
        },
    },
    Key {
        name: "admin.token",
        doc: "What administers: requests carry it as a bearer token. Not set: made on the first \
              start and kept in admin.token in the data folder; on loopback only.",
        slot: Slot::Secret {
            slot: |config| &mut config.admin.token,
            valid: |text| (1..=1_024).contains(&text.len()) && is_visible(text),
            rule: "1 to 1,024 visible ASCII characters without spaces",
        },
    },
    Key {
        name: "admission.max_lag",
        doc: "Records of a partition that may wait for their decision; further requests are \
              answered 503.",
        slot: Slot::U64(|config| &mut config.admission.max_lag, 1..=1_000_000_000),
    },
    Key {
        name: "admission.inflight_max",
        doc: "Appends that may be under way at once; further requests are answered 503.",
        slot: Slot::Usize(|config| &mut config.admission.inflight_max, 1..=1_000_000),
    },
    Key {
        name: "admission.user_rate",
        doc: "Requests of one user in one campaign, per second; further ones are answered 429.",
        slot: Slot::U32(|config| &mut config.admission.user_rate, 1..=1_000_000),
    },
    Key {
        name: "admission.user_burst",
        doc: "Requests of one user in one campaign at once, before the rate counts.",
        slot: Slot::U32(|config| &mut config.admission.user_burst, 1..=1_000_000),
    },
];

const LISTEN_RULE: &str = "an IP address and a port, as in \"127.0.0.1:8080\" or \"[::1]:8080\"";

/// Headers that say something else already: they can't say who is asking as well.
const HEADERS_IN_USE: [&str; 9] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "prefer",
    "transfer-encoding",
];

fn store_text(valid: bool, slot: &mut String, text: &str) -> bool {
    if valid {
        text.clone_into(slot);
    }
    valid
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn parse_mode(text: &str) -> Option<Mode> {
    [Mode::Embedded, Mode::Distributed].into_iter().find(|mode| mode.name() == text)
}

fn parse_identity(text: &str) -> Option<Identity> {
    if text == "trusted" {
        return Some(Identity::Trusted);
    }
    let name = text.strip_prefix("header:")?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    // Header names have no case; one spelling makes them comparable.
    let name = name.to_ascii_lowercase();
    let valid = (1..=128).contains(&name.len())
        && name.bytes().all(token)
        && !HEADERS_IN_USE.contains(&&*name);
    valid.then_some(Identity::Header(name))
}
