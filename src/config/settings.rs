//! The table of settings: one row declares a setting, and everything else is derived from it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use reqwest::Url;

use super::{
    admin_keys::AdminKeys,
    identity::Identity,
    listen::Listen,
    table::settings,
    texts::{
        CLAIM, CLAIM_VALUE, COMPRESSION, DATACENTER, FILE, FOLDER, GROUP, IDENTITY, IDENTITY_FOLD,
        JWKS_URL, KEYSPACE, LISTEN, MODE, PASSWORD, PATH_PREFIX, SASL_MECHANISM, SECRET_KEY,
        SECURITY, TOKEN, TOPIC_PREFIX, USER,
    },
    types::{Compression, Hosts, Mode, Origins, Properties, SaslMechanism, Secret, Security},
    value::{Input, Refused, Setting, Shown, assign},
};
use crate::domain::identity_fold::IdentityFold;

/// Longest duration that a setting takes: ten years.
const DURATION_MAX: Duration = days(3_650);

settings! {
    /// All settings of a node. `Debug` hides the secrets.
    Config {
        /// How the node stores its data. "embedded": a single node, with log and store in one
        /// folder. "distributed": any number of nodes on Kafka and a CQL database (ScyllaDB or
        /// Cassandra).
        mode: Mode = Mode::Embedded, in MODE;

        /// Creates an open campaign named demo at start. Default: true if embedded, false if
        /// distributed.
        demo: bool = true;

        /// What happens to the letters of user ids on the public listener. "none": Ada and ada are two
        /// users. "lower": both are the user ada. Fixed at the first start. Records of foreign producers
        /// are taken as they are.
        identity_fold: IdentityFold = IdentityFold::None, in IDENTITY_FOLD;
    }

    /// Settings of embedded mode.
    embedded: EmbeddedConfig {
        /// Data folder; created if missing. Only one node at a time can use it. A distributed node
        /// keeps only the file admin.token there.
        dir: PathBuf = PathBuf::from("data"), in FOLDER;

        /// Number of partitions of the local log. Campaigns of different partitions are decided in
        /// parallel. Fixed at the first start.
        partitions: u32 = 4, in 1..=256;

        /// How long the local log keeps settled records.
        retention: Duration = days(7), in Duration::ZERO..=DURATION_MAX;

        /// Free disk space to keep, in bytes. With less, requests get 503 and the node is not
        /// ready.
        reserve_bytes: u64 = 256 * 1_024 * 1_024, in 0..=1 << 50;
    }

    /// Settings of Kafka, for distributed mode.
    kafka: KafkaConfig {
        /// Bootstrap brokers. Required if distributed.
        brokers: Vec<String> = Vec::new(), in 9_092;

        /// Prefix of the topic names, which end in .request, .result and .dead-letter.
        topic_prefix: String = "outside.coupon.v1.issue".to_owned(), in TOPIC_PREFIX;

        /// Number of partitions of the request topic when coupond creates it. Fixed at the first
        /// start.
        partitions: u32 = 12, in 1..=10_000;

        /// Replication factor of the topics that coupond creates. 0 means 3, or the number of
        /// brokers if there are fewer (logged as a warning).
        replication_factor: u32 = 0, in 0..=100;

        /// How long the topics of requests and of dead letters keep records when coupond creates
        /// them. An outage must not last longer: what nobody has decided by then is lost.
        retention: Duration = days(7), in days(7)..=DURATION_MAX;

        /// Consumer group of the instance. All nodes of an instance use the same group.
        group: String = "coupond".to_owned(), in GROUP;

        /// How long an append may take to be acknowledged. After that the producer drops it, its
        /// outcome is unknown and the request gets 503. Below the 5 s within which admin requests
        /// are answered.
        append_timeout: Duration = Duration::from_secs(4),
            in Duration::from_millis(100)..=Duration::from_millis(4_500);

        /// How to speak to the brokers: in clear, over TLS, with a login (SASL), or both.
        security: Security = Security::Plaintext, in SECURITY;

        /// PEM file with the certificates of the authorities that sign the brokers' certificates.
        /// Without it, those of the system count. Only if kafka.security has TLS.
        ca_file: Option<PathBuf> = None, in FILE;

        /// PEM file with the certificate that the node shows the brokers, followed by those of the
        /// authorities between. Together with kafka.key_file.
        cert_file: Option<PathBuf> = None, in FILE;

        /// PEM file with the private key of kafka.cert_file, not encrypted. Nobody but its owner
        /// may read it.
        key_file: Option<PathBuf> = None, in FILE;

        /// How to prove the password. Only if kafka.security has SASL.
        sasl_mechanism as "sasl.mechanism": SaslMechanism = SaslMechanism::ScramSha512,
            in SASL_MECHANISM;

        /// User of the login. Required if kafka.security has SASL.
        sasl_user as "sasl.user": Option<String> = None, in USER;

        /// Password of the login. Better in a file: kafka.sasl.password_file.
        sasl_password as "sasl.password": Option<Secret> = None, in PASSWORD;

        /// File with the password of the login. Nobody but its owner may read it.
        sasl_password_file as "sasl.password_file": Option<PathBuf> = None, in FILE;

        /// Further properties of the Kafka library (librdkafka) by their own names, in the table
        /// [kafka.properties], for example "socket.nagle.disable" = true. Those that coupond decides
        /// itself are refused.
        properties: Properties = Properties::default();
    }

    /// Settings of the CQL database, for distributed mode.
    cql: CqlConfig {
        /// Contact points of the database cluster. Required if distributed.
        nodes: Vec<String> = Vec::new(), in 9_042;

        /// Keyspace of the instance; created if missing.
        keyspace: String = "coupond".to_owned(), in KEYSPACE;

        /// Replication factor of the keyspace when coupond creates it. 0 means 3, or the number of
        /// database nodes if there are fewer (logged as a warning).
        replication_factor: u32 = 0, in 0..=100;

        /// User of the login. Without it, the node logs in nowhere.
        user: Option<String> = None, in USER;

        /// Password of the login. Better in a file: cql.password_file.
        password: Option<Secret> = None, in PASSWORD;

        /// File with the password of the login. Nobody but its owner may read it.
        password_file: Option<PathBuf> = None, in FILE;

        /// PEM file with the certificates of the authorities that sign the certificates of the
        /// database. Turns TLS on. A node's certificate must hold its IP address, or a host name of
        /// cql.nodes.
        tls_ca_file as "tls.ca_file": Option<PathBuf> = None, in FILE;

        /// PEM file with the certificate that the node shows the database. Together with
        /// cql.tls.key_file.
        tls_cert_file as "tls.cert_file": Option<PathBuf> = None, in FILE;

        /// PEM file with the private key of cql.tls.cert_file, not encrypted. Nobody but its owner
        /// may read it.
        tls_key_file as "tls.key_file": Option<PathBuf> = None, in FILE;

        /// Datacenter of the database in which this instance reads and writes, at LOCAL_QUORUM. All
        /// nodes of an instance name the same one. Not set: the only one that has replicas, or all
        /// of them, at QUORUM.
        datacenter: Option<String> = None, in DATACENTER;

        /// Compression between node and database.
        compression: Compression = Compression::None, in COMPRESSION;
    }

    /// The secret of the instance.
    secret: SecretConfig {
        /// Secret of the instance. Coupon codes, request ids and MACs are derived from it, so it is
        /// the same on every node and never changes. If not set, it is generated at the first start
        /// and kept in the data folder (embedded) or in the database (distributed).
        key: Option<Secret> = None, in SECRET_KEY;

        /// File with the secret of the instance. Nobody but its owner may read it.
        key_file: Option<PathBuf> = None, in FILE;
    }

    /// Settings of the public listener.
    api: ApiConfig {
        /// Address of the public listener: IP:port (port 0 picks a free port), or unix:/path for a
        /// Unix socket (mode 0660).
        listen: Listen = loopback(8080), in LISTEN;

        /// PEM file with the certificate of the public listener, followed by those of the
        /// authorities between. Turns TLS on. Read again on SIGHUP and when it changes.
        tls_cert_file as "tls.cert_file": Option<PathBuf> = None, in FILE;

        /// PEM file with the private key of api.tls.cert_file, not encrypted. Nobody but its owner
        /// may read it.
        tls_key_file as "tls.key_file": Option<PathBuf> = None, in FILE;

        /// PEM file with the certificates of the authorities that sign clients' certificates. Then
        /// only clients with such a certificate are served.
        tls_client_ca_file as "tls.client_ca_file": Option<PathBuf> = None, in FILE;

        /// Time after which a connection without a request is closed. Longer than the idle time of
        /// the load balancer in front, which could otherwise send into a connection that closes.
        idle_timeout: Duration = Duration::from_secs(75),
            in Duration::from_secs(5)..=Duration::from_secs(650);

        /// Time between SIGTERM and the end of the listeners. Meanwhile the node is not ready,
        /// everything is answered, and each answer closes its connection. Longer than a load
        /// balancer takes to notice.
        drain: Duration = Duration::from_secs(5), in Duration::ZERO..=Duration::from_secs(5);

        /// Further names that the header Host may have while the listener is on loopback, beside
        /// localhost and IP addresses. Requests with another name get 421.
        hosts: Hosts = Hosts::default();

        /// Where the user id of a request comes from. "trusted": the request body; callers must be
        /// gateways that have authenticated the user. "header:NAME": this request header, which a
        /// gateway must set; off loopback it needs api.gateway_token. "jwt": a claim of the token in the
        /// header Authorization; see api.jwt.
        identity: Identity = Identity::Trusted, in IDENTITY;

        /// Token that gateways send in the header X-Coupond-Gateway. If set, everything but /health/ needs
        /// it. On an address that is not loopback it has at least 16 bytes.
        gateway_token: Option<Secret> = None, in TOKEN;

        /// File with the token that gateways send. Nobody but its owner may read it.
        gateway_token_file: Option<PathBuf> = None, in FILE;

        /// File with the keys of the issuer of JWTs: a JWKS, or one public key in PEM. Read again when it
        /// changes. Either this or api.jwt.jwks_url.
        jwt_keys_file as "jwt.keys_file": Option<PathBuf> = None, in FILE;

        /// URL of the issuer's JWKS. Read at start, every 5 minutes, and when a token names a key that is
        /// not known (at most once in 10 s). While it does not answer, the keys that are known stay.
        jwt_jwks_url as "jwt.jwks_url": Option<Url> = None, in JWKS_URL;

        /// PEM file with the certificates of the authorities that sign the certificate of
        /// api.jwt.jwks_url. Without it, those of the system count.
        jwt_ca_file as "jwt.ca_file": Option<PathBuf> = None, in FILE;

        /// Issuer of JWTs: what the claim iss must be. Required if api.identity is "jwt".
        jwt_issuer as "jwt.issuer": Option<String> = None, in CLAIM_VALUE;

        /// Audience of JWTs: what the claim aud must be or contain. Required if api.identity is "jwt".
        jwt_audience as "jwt.audience": Option<String> = None, in CLAIM_VALUE;

        /// Claim with the user id: a text, or a whole number, which counts as its digits.
        jwt_claim as "jwt.claim": String = "sub".to_owned(), in CLAIM;

        /// By how much the clock of the issuer may differ from that of a node: so much later a token
        /// expires, and so much earlier it is valid.
        jwt_leeway as "jwt.leeway": Duration = Duration::from_secs(30),
            in Duration::ZERO..=Duration::from_secs(300);

        /// Origins whose pages may call the listener from a browser (CORS), without credentials. "*":
        /// any. Without any, no answer has headers of CORS.
        cors_origins: Origins = Origins::default();

        /// Path in front of the listener's own that a proxy strips. Links in answers begin with it.
        path_prefix: String = String::new(), in PATH_PREFIX;

        /// Allows api.identity "trusted" on an address that is not loopback. Everyone who reaches
        /// the listener can then act as any user.
        trust_network: bool = false;

        /// Largest difference between the clocks of nodes and log. This close to opens_at and
        /// closes_at of a campaign, requests are not refused before the log has decided.
        clock_margin: Duration = Duration::from_secs(1), in Duration::ZERO..=Duration::from_secs(60);

        /// Requests that may wait for their decision at the same time. Further requests get 202 at
        /// once.
        waiters_max: usize = 10_000, in 0..=1_000_000;
    }

    /// Settings of the admin listener.
    admin: AdminConfig {
        /// Address of the admin listener (campaigns, metrics, health): IP:port (port 0 picks a free
        /// port), or unix:/path for a Unix socket (mode 0600).
        listen: Listen = loopback(8081), in LISTEN;

        /// PEM file with the certificate of the admin listener, followed by those of the
        /// authorities between. Turns TLS on. Read again on SIGHUP and when it changes.
        tls_cert_file as "tls.cert_file": Option<PathBuf> = None, in FILE;

        /// PEM file with the private key of admin.tls.cert_file, not encrypted. Nobody but its owner
        /// may read it.
        tls_key_file as "tls.key_file": Option<PathBuf> = None, in FILE;

        /// PEM file with the certificates of the authorities that sign clients' certificates. Then
        /// only clients with such a certificate are served.
        tls_client_ca_file as "tls.client_ca_file": Option<PathBuf> = None, in FILE;

        /// Further names that the header Host may have while the listener is on loopback, beside
        /// localhost and IP addresses. Requests with another name get 421.
        hosts: Hosts = Hosts::default();

        /// Bearer token of admin requests. If not set, it is generated at the first start and kept
        /// in the file admin.token in the data folder; this is allowed on loopback only. On another
        /// address it has at least 16 bytes.
        token: Option<Secret> = None, in TOKEN;

        /// File with the bearer token of admin requests. Nobody but its owner may read it.
        token_file: Option<PathBuf> = None, in FILE;

        /// Keys of several people, each a table [[admin.keys]] with name, role ("viewer", "operator"
        /// or "owner") and either token_file or token_sha256 (64 hexadecimal digits). The name is
        /// kept with each change that the key makes. admin.token is an owner named "token".
        keys: AdminKeys = AdminKeys::default();
    }

    /// Limits of admission.
    admission: AdmissionConfig {
        /// Records of one partition that may wait for their decision. Beyond that, requests get
        /// 503.
        max_lag: u64 = 500_000, in 1..=1_000_000_000;

        /// Appends that may be in flight at the same time. Beyond that, requests get 503.
        inflight_max: usize = 10_000, in 1..=1_000_000;

        /// Requests per second that one user may send to one campaign. Beyond that, requests get
        /// 429.
        user_rate: u32 = 100, in 1..=1_000_000;

        /// Requests that one user may send to one campaign at once, before the rate applies.
        user_burst: u32 = 200, in 1..=1_000_000;
    }

    /// Settings of rehearsals.
    chaos: ChaosConfig {
        /// Lets whoever holds the admin token crash actors: coupon actors, partition consumers, the
        /// supervisor. For rehearsals; leave it off in production.
        enabled: bool = false;
    }
}

/// A row of the table.
pub(super) struct Key {
    /// Levels joined by dots. The first of several is the table in which it is printed.
    pub(super) name: &'static str,
    /// Meaning and unit, in whole sentences.
    pub(super) doc: &'static str,
    /// Checks a value and stores it.
    pub(super) assign: fn(&mut Config, &Input) -> Result<(), Refused>,
    /// Shows the value as TOML, or whether a secret is set.
    pub(super) show: fn(&Config) -> Shown,
    /// Returns the rule, as a phrase that follows "must be".
    pub(super) must_be: fn() -> String,
}

impl SecretConfig {
    /// Returns the configured secret itself. Do not log it.
    #[must_use]
    pub fn exposed(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.expose().to_owned())
    }
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

const fn loopback(port: u16) -> Listen {
    Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
}
