//! Settings of a node, typed. `load` layers them and reports every problem at once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// How the node keeps its log and store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One node, everything in one folder.
    Embedded,
    /// Kafka and a CQL database.
    Distributed,
}

/// Who says who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The body; the caller is a gateway that has authenticated the user.
    Trusted,
    /// This header.
    Header(String),
}

/// Everything that `serve` needs to know.
#[derive(Debug, Clone)]
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

/// `admin.*`
#[derive(Debug, Clone)]
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
