//! Settings of a node, typed. [`load`] layers them and reports every problem at once.
//!
//! Built-in defaults < TOML file < environment < `--set`. One table (`keys`) holds every key with
//! its meaning, rule and place in [`Config`]; parsing, printing, the documented file and the
//! suggestions for misspelt keys are derived from it.

mod keys;
mod layers;
mod load;
mod print;
mod problem;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use layers::{DEFAULT_FILE, Sources};
pub use load::{Loaded, load};
pub use print::documented;
pub use problem::{Origin, Problem, Problems};

/// How the node keeps its log and store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One node, everything in one folder.
    Embedded,
    /// Kafka and a CQL database.
    Distributed,
}

impl Mode {
    /// The mode as `mode` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Distributed => "distributed",
        }
    }
}

/// Who says who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The body; the caller is a gateway that has authenticated the user.
    Trusted,
    /// This header.
    Header(String),
}

/// Everything that `serve` needs to know. Its `Debug` hides the secrets.
#[derive(Clone)]
pub struct Config {
    /// `mode`
    pub mode: Mode,
    /// `demo`: whether an open demo campaign is made on start. Default: only embedded.
    pub demo: bool,
    /// `embedded.*`
    pub embedded: EmbeddedConfig,
    /// `kafka.*`
    pub kafka: KafkaConfig,
    /// `cql.*`
    pub cql: CqlConfig,
    /// `secret.key`: at least 32 bytes of text; none: made and kept on the first start.
    pub secret: Option<String>,
    /// `api.*`
    pub api: ApiConfig,
    /// `admin.*`
    pub admin: AdminConfig,
    /// `admission.*`
    pub admission: AdmissionConfig,
}

/// `embedded.*`
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// `embedded.dir`: data folder. Default `data`.
    pub dir: PathBuf,
    /// `embedded.partitions`: partitions of the local log. Default 4; fixed at first start.
    pub partitions: u32,
    /// `embedded.retention`: settled records younger than this are kept. Default 7 days.
    pub retention: Duration,
    /// `embedded.reserve_bytes`: below this much free space, appends get 503. Default 256 MiB.
    pub reserve_bytes: u64,
}

/// `kafka.*`
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `kafka.brokers`: at least one `host:port`.
    pub brokers: Vec<String>,
    /// `kafka.topic_prefix`. Default `outside.coupon.v1.issue`.
    pub topic_prefix: String,
    /// `kafka.partitions`: of a new request topic. Default 12.
    pub partitions: u32,
    /// `kafka.replication_factor`: of new topics; 0 = min(3, brokers found).
    pub replication_factor: u32,
    /// `kafka.group`: consumer group. Default `coupond`.
    pub group: String,
    /// `kafka.append_timeout`: after which an append is unknown. Default 4 s, below the 5 s in
    /// which the admin listener answers.
    pub append_timeout: Duration,
}

/// `cql.*`
#[derive(Debug, Clone)]
pub struct CqlConfig {
    /// `cql.nodes`: at least one `host:port`.
    pub nodes: Vec<String>,
    /// `cql.keyspace`. Default `coupond`.
    pub keyspace: String,
    /// `cql.replication_factor`: of a new keyspace; 0 = min(3, nodes found).
    pub replication_factor: u32,
}

/// `api.*`
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `api.listen`. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `api.identity`: `trusted` or `header:NAME`.
    pub identity: Identity,
    /// `api.trust_network`: allows `trusted` beyond loopback.
    pub trust_network: bool,
    /// `api.clock_margin`: around window ends, the log decides. Default 1 s.
    pub clock_margin: Duration,
    /// `api.waiters_max`: requests that may wait for a decision at once. Default 10,000.
    pub waiters_max: usize,
}

/// `admin.*`. Its `Debug` hides the token.
#[derive(Clone)]
pub struct AdminConfig {
    /// `admin.listen`. Default `127.0.0.1:8081`.
    pub listen: SocketAddr,
    /// `admin.token`; none: made and kept in the data folder, on loopback only.
    pub token: Option<String>,
}

/// `admission.*`
#[derive(Debug, Clone)]
pub struct AdmissionConfig {
    /// `admission.max_lag`: records of a partition that may wait for a decision. Default 500,000.
    pub max_lag: u64,
    /// `admission.inflight_max`: appends under way at once. Default 10,000.
    pub inflight_max: usize,
    /// `admission.user_rate`: requests a second of one user in one campaign. Default 100.
    pub user_rate: u32,
    /// `admission.user_burst`: requests at once of one user in one campaign. Default 200.
    pub user_burst: u32,
}

impl Default for Config {
    /// The built-in defaults: an embedded node on loopback with the demo campaign.
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            mode: Mode::Embedded,
            demo: true,
            embedded: EmbeddedConfig {
                dir: PathBuf::from("data"),
                partitions: 4,
                retention: Duration::from_secs(7 * 24 * 60 * 60),
                reserve_bytes: 256 * 1_024 * 1_024,
            },
            kafka: KafkaConfig {
                brokers: Vec::new(),
                topic_prefix: "outside.coupon.v1.issue".to_owned(),
                partitions: 12,
                replication_factor: 0,
                group: "coupond".to_owned(),
                append_timeout: Duration::from_secs(4),
            },
            cql: CqlConfig {
                nodes: Vec::new(),
                keyspace: "coupond".to_owned(),
                replication_factor: 0,
            },
            secret: None,
            api: ApiConfig {
                listen: loopback(8080),
                identity: Identity::Trusted,
                trust_network: false,
                clock_margin: Duration::from_secs(1),
                waiters_max: 10_000,
            },
            admin: AdminConfig { listen: loopback(8081), token: None },
            admission: AdmissionConfig {
                max_lag: 500_000,
                inflight_max: 10_000,
                user_rate: 100,
                user_burst: 200,
            },
        }
    }
}

/// Says of a secret whether it is set, and nothing else.
struct Hidden<'a>(&'a Option<String>);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "hidden" } else { "not set" })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, demo, embedded, kafka, cql, secret, api, admin, admission } = self;
        f.debug_struct("Config")
            .field("mode", mode)
            .field("demo", demo)
            .field("embedded", embedded)
            .field("kafka", kafka)
            .field("cql", cql)
            .field("secret", &Hidden(secret))
            .field("api", api)
            .field("admin", admin)
            .field("admission", admission)
            .finish()
    }
}

impl fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, token } = self;
        f.debug_struct("AdminConfig")
            .field("listen", listen)
            .field("token", &Hidden(token))
            .finish()
    }
}
