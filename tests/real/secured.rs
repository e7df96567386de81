//! Kafka and a database that take nobody without a login or a certificate: nodes that have them, and
//! what nodes say whose settings do not fit.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use libtest_mimic::Trial;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use scylla::client::{session::Session, session_builder::SessionBuilder};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    engines::{Own, secured, unique},
    instance::define,
    procs::{Node, WITHIN, until},
};

const PASSWORD: &str = "coupond-secret";

/// What README grants on the keyspace. The first two are needed only while there are schema steps to
/// take.
const GRANTS: [&str; 4] = ["CREATE", "ALTER", "SELECT", "MODIFY"];

/// Changes to good settings, what the node says then, and whether it gives up (exit code 2).
type Case = (&'static str, fn(&Stage) -> Vec<String>, &'static str, bool);

/// What a test does.
type Body = fn() -> BoxFuture<'static, ()>;

pub(crate) fn trials() -> Vec<Trial> {
    let nodes: [(&str, Body); 3] = [
        ("a_node_logs_in_over_tls", || Box::pin(a_node_logs_in_over_tls())),
        ("a_node_shows_its_certificate", || Box::pin(a_node_shows_its_certificate())),
        ("a_group_without_a_right_is_named", || Box::pin(a_group_without_a_right_is_named())),
    ];
    let nodes = nodes.into_iter().map(|(name, body)| trial(name, body));
    let refusals = KAFKA.iter().chain(&CQL).map(|case| trial(case.0, || refused(case)));
    nodes.chain(refusals).collect()
}

fn trial<T>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Trial
where
    T: Future<Output = ()> + Send + 'static,
{
    let name = format!("{}::{name}", module_path!());
    Trial::ignorable_test(name, move || match secured() {
        Ok(_) => crate::run(body),
        Err(reason) => crate::absent(reason),
    })
}

fn kafka() -> &'static Own {
    &secured().expect("the trial asked for it").0
}

fn database() -> &'static Own {
    &secured().expect("the trial asked for it").1
}

fn pki(engine: &Own, file: &str) -> PathBuf {
    Path::new(engine.said("pki")).join(file)
}

/// A keyspace with its role, and a file with their password.
struct Stage {
    name: String,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Makes a keyspace of its own. Kafka's access rules are about every name that begins with coupond.
    async fn set() -> Self {
        Self::named(make_keyspace().await)
    }

    /// Returns a stage whose keyspace others use too.
    async fn shared() -> Self {
        static NAME: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
        Self::named(NAME.get_or_init(make_keyspace).await.clone())
    }

    fn named(name: String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let password = folder.path().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n")).expect("written");
        std::fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).expect("set");
        Self { name, folder }
    }

    fn password_file(&self) -> String {
        self.folder.path().join("password").display().to_string()
    }

    /// Returns the settings of a node that logs in to both engines over TLS.
    fn settings(&self) -> Vec<String> {
        let (kafka_ca, ca) = (pki(kafka(), "ca.pem"), pki(database(), "ca.pem"));
        let (certificate, key) = (pki(database(), "coupond.crt"), pki(database(), "coupond.key"));
        vec![
            "mode=distributed".to_owned(),
            format!("kafka.brokers={}", kafka().endpoints().join(",")),
            format!("kafka.topic_prefix={}", self.name),
            format!("kafka.group={}", self.name),
            "kafka.partitions=2".to_owned(),
            "kafka.security=sasl_tls".to_owned(),
            format!("kafka.ca_file={}", kafka_ca.display()),
            "kafka.sasl.user=coupond".to_owned(),
            format!("kafka.sasl.password_file={}", self.password_file()),
            format!("cql.nodes={}", database().endpoints().join(",")),
            format!("cql.keyspace={}", self.name),
            format!("cql.user={}", self.name),
            format!("cql.password_file={}", self.password_file()),
            format!("cql.tls.ca_file={}", ca.display()),
            format!("cql.tls.cert_file={}", certificate.display()),
            format!("cql.tls.key_file={}", key.display()),
        ]
    }
}

/// Replaces and adds settings; one without a value is left out.
fn changed(mut settings: Vec<String>, changes: &[String]) -> Vec<String> {
    for change in changes {
        let (key, value) = change.split_once('=').expect("key=value");
        settings.retain(|setting| setting.split_once('=').is_some_and(|(other, _)| other != key));
        if !value.is_empty() {
            settings.push(change.clone());
        }
    }
    settings
}

/// Makes a keyspace and a role of the same name, which has README's grants on it.
async fn make_keyspace() -> String {
    let name = unique("coupond_secured");
    let admin = until("the superuser logs in", || async { superuser().await.ok() }).await;
    let replication = "{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}";
    let mut statements = vec![
        format!("CREATE KEYSPACE {name} WITH replication = {replication}"),
        format!("CREATE ROLE {name} WITH LOGIN = true AND PASSWORD = '{PASSWORD}'"),
    ];
    statements.extend(GRANTS.map(|right| format!("GRANT {right} ON KEYSPACE {name} TO {name}")));
    for statement in statements {
        admin.query_unpaged(statement, ()).await.expect("done");
    }
    name
}

async fn superuser() -> Result<Session, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki(database(), "ca.pem"))?)?;
    let chain = vec![CertificateDer::from_pem_file(pki(database(), "coupond.crt"))?];
    let key = PrivateKeyDer::from_pem_file(pki(database(), "coupond.key"))?;
    let tls = ClientConfig::builder().with_root_certificates(roots);
    let tls = tls.with_client_auth_cert(chain, key)?;
    let session = SessionBuilder::new().known_nodes(database().endpoints());
    let session = session.user("cassandra", "cassandra").tls_context(Some(Arc::new(tls)));
    Ok(session.build().await?)
}

async fn a_node_logs_in_over_tls() {
    let stage = Stage::set().await;
    let node = Node::start(&stage.settings()).await;
    define(&node, "spring", 10).await;
    assert_eq!(node.issue("spring", "ada").await.0, 200);
    assert_eq!(node.stop().await, Some(0));
    let admin = superuser().await.expect("it logged in before");
    for right in &GRANTS[..2] {
        let revoke = format!("REVOKE {right} ON KEYSPACE {0} FROM {0}", stage.name);
        admin.query_unpaged(revoke, ()).await.expect("revoked");
    }
    let node = Node::start(&stage.settings()).await;
    let (status, answer) = node.issue("spring", "bob").await;
    assert_eq!((status, &answer["coupon"]["sequence"]), (200, &2.into()));
    assert_eq!(node.stop().await, Some(0));
    let mut audit = Command::new(env!("CARGO_BIN_EXE_coupond"));
    audit.arg("audit").current_dir(stage.folder.path());
    for setting in stage.settings() {
        audit.args(["--set", &setting]);
    }
    let audited = audit.output().expect("the program exists");
    assert_eq!(audited.status.code(), Some(0), "{}", String::from_utf8_lossy(&audited.stderr));
}

async fn a_node_shows_its_certificate() {
    let stage = Stage::set().await;
    let port = database().endpoints()[0].rsplit_once(':').expect("host:port").1;
    let changes = [
        format!("kafka.brokers={}", kafka().said("mtls")),
        "kafka.security=tls".to_owned(),
        "kafka.sasl.user=".to_owned(),
        "kafka.sasl.password_file=".to_owned(),
        format!("kafka.cert_file={}", pki(kafka(), "coupond.crt").display()),
        format!("kafka.key_file={}", pki(kafka(), "coupond.key").display()),
        "kafka.properties.socket.nagle.disable=true".to_owned(),
        format!("cql.nodes=localhost:{port}"),
        "cql.datacenter=datacenter1".to_owned(),
        "cql.compression=lz4".to_owned(),
    ];
    let node = Node::start(&changed(stage.settings(), &changes)).await;
    define(&node, "spring", 10).await;
    assert_eq!(node.issue("spring", "ada").await.0, 200);
    assert_eq!(node.stop().await, Some(0));
}

/// The node starts: what it lacks is the right to read in the group, which it has no use for before.
async fn a_group_without_a_right_is_named() {
    let stage = Stage::set().await;
    let settings = changed(stage.settings(), &["kafka.group=stranger".to_owned()]);
    said(&settings, r#"allow Read on group \"stranger\" (kafka.group)"#, false).await;
}

const KAFKA: [Case; 11] = [
    (
        "plain_spoken_to_a_tls_port_of_kafka",
        |_| {
            ["kafka.security=plaintext", "kafka.ca_file=", USER, PASSWORD_FILE]
                .map(str::to_owned)
                .into()
        },
        "speaks TLS while kafka.security is \\\"plaintext\\\"; set kafka.security",
        true,
    ),
    (
        "tls_spoken_to_a_plain_port_of_kafka",
        |_| vec![format!("kafka.brokers={}", kafka().said("login"))],
        "does not speak TLS while kafka.security is \\\"sasl_tls\\\"; set kafka.security = ",
        true,
    ),
    (
        "no_login_where_kafka_wants_one",
        |_| {
            let brokers = format!("kafka.brokers={}", kafka().said("login"));
            let plain = ["kafka.security=plaintext", "kafka.ca_file=", USER, PASSWORD_FILE];
            [brokers].into_iter().chain(plain.map(str::to_owned)).collect()
        },
        "wants a login (SCRAM-SHA-512) while kafka.security is \\\"plaintext\\\"; set",
        true,
    ),
    (
        "no_login_over_tls_where_kafka_wants_one",
        |_| ["kafka.security=tls", USER, PASSWORD_FILE].map(str::to_owned).into(),
        "while kafka.security is \\\"tls\\\"; set kafka.security = \\\"sasl_tls\\\"",
        true,
    ),
    (
        "a_mechanism_that_kafka_does_not_take",
        |_| {
            let brokers = format!("kafka.brokers={}", kafka().said("login"));
            let other =
                ["kafka.security=sasl_plaintext", "kafka.ca_file=", "kafka.sasl.mechanism=PLAIN"];
            [brokers].into_iter().chain(other.map(str::to_owned)).collect()
        },
        "takes logins by SCRAM-SHA-512, not by PLAIN; set kafka.sasl.mechanism",
        true,
    ),
    (
        "a_password_that_kafka_refuses",
        |_| vec![PASSWORD_FILE.to_owned(), "kafka.sasl.password=wrong".to_owned()],
        "Kafka refuses the login of user \\\"coupond\\\" by SCRAM-SHA-512",
        true,
    ),
    (
        "a_plain_password_that_kafka_refuses",
        |_| {
            let plain = [PASSWORD_FILE, "kafka.sasl.password=wrong", "kafka.sasl.mechanism=PLAIN"];
            plain.map(str::to_owned).into()
        },
        "set kafka.sasl.user and kafka.sasl.password_file",
        true,
    ),
    (
        "a_kafka_of_another_authority",
        |_| vec![format!("kafka.ca_file={}", pki(kafka(), "other-ca.pem").display())],
        "none of the known authorities has signed; set kafka.ca_file",
        true,
    ),
    (
        "a_kafka_whose_certificate_has_expired",
        |_| vec![format!("kafka.brokers={}", kafka().said("expired"))],
        "shows a certificate that has expired; renew it there",
        false,
    ),
    (
        "no_certificate_where_kafka_wants_one",
        |_| {
            let brokers = format!("kafka.brokers={}", kafka().said("mtls"));
            let plain = ["kafka.security=tls", USER, PASSWORD_FILE];
            [brokers].into_iter().chain(plain.map(str::to_owned)).collect()
        },
        "wants a certificate of this node, or refuses the one it got; set kafka.cert_file",
        true,
    ),
    (
        "topics_without_access_rules",
        |stage| vec![format!("kafka.topic_prefix=stranger-{}", stage.name)],
        "allow Create, Describe, DescribeConfigs, Read and Write on topics with the prefix",
        true,
    ),
];

const USER: &str = "kafka.sasl.user=";
const PASSWORD_FILE: &str = "kafka.sasl.password_file=";

const CQL: [Case; 9] = [
    (
        "plain_spoken_to_a_tls_port_of_the_database",
        |_| {
            let files = ["cql.tls.ca_file=", "cql.tls.cert_file=", "cql.tls.key_file="];
            files.map(str::to_owned).into()
        },
        "speaks TLS while cql.tls.ca_file is not set; set cql.tls.ca_file",
        true,
    ),
    (
        "tls_spoken_to_a_port_without",
        |_| vec![format!("cql.nodes={}", kafka().said("login"))],
        "does not speak TLS while cql.tls.ca_file is set; leave out cql.tls.ca_file",
        true,
    ),
    (
        "no_login_where_the_database_wants_one",
        |_| vec!["cql.user=".to_owned(), "cql.password_file=".to_owned()],
        "the database wants a login, and cql.user is not set; set cql.user",
        true,
    ),
    (
        "a_password_that_the_database_refuses",
        |_| vec!["cql.password_file=".to_owned(), "cql.password=wrong".to_owned()],
        "set cql.user and cql.password_file to a login that the database knows",
        true,
    ),
    (
        "a_database_of_another_authority",
        |_| vec![format!("cql.tls.ca_file={}", pki(database(), "other-ca.pem").display())],
        "none of the known authorities has signed; set cql.tls.ca_file",
        true,
    ),
    (
        "no_certificate_where_the_database_wants_one",
        |_| vec!["cql.tls.cert_file=".to_owned(), "cql.tls.key_file=".to_owned()],
        "wants a certificate of this node, or refuses the one it got; set cql.tls.cert_file",
        true,
    ),
    (
        "a_datacenter_that_the_database_does_not_have",
        |_| vec!["cql.datacenter=moon".to_owned()],
        "cql.datacenter is \\\"moon\\\", and the database does not have it; set it to one of datacenter1",
        true,
    ),
    (
        "a_role_without_grants",
        |stage| vec![format!("cql.keyspace={}_other", stage.name)],
        "grant CREATE, ALTER, SELECT and MODIFY on keyspace",
        true,
    ),
    (
        "a_database_name_without_address",
        |_| vec!["cql.nodes=cassandra.invalid:9042".to_owned()],
        "the name of database node cassandra.invalid:9042 does not resolve",
        false,
    ),
];

/// Runs a node whose settings do not fit.
async fn refused((_, changes, expected, gives_up): &'static Case) {
    let stage = Stage::shared().await;
    said(&changed(stage.settings(), &changes(&stage)), expected, *gives_up).await;
}

/// Runs a node until it says `expected` in one line, and to its exit code 2 if it `gives_up`.
async fn said(settings: &[String], expected: &str, gives_up: bool) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coupond"));
    command.args(["serve", "--set", "api.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]);
    command.args(["--set", "api.drain=0s"]);
    command.args(["--set", "admin.token=a-token-for-tests-only"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let command = command.current_dir(folder.path()).env("COUPOND_LOG", "info").kill_on_drop(true);
    let mut node = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it exists");
    let mut lines = BufReader::new(node.stderr.take().expect("it is piped")).lines();
    let mut heard = String::new();
    let listening = async {
        while let Some(line) = lines.next_line().await.expect("the node says lines") {
            heard.push_str(&line);
            heard.push('\n');
            // What ends the node is on a terminal's line, and a log line is JSON.
            if line.contains(expected) || line.contains(&expected.replace("\\\"", "\"")) {
                return true;
            }
        }
        false
    };
    let found = tokio::time::timeout(WITHIN, listening).await;
    assert_eq!(found, Ok(true), "{expected:?} is not in:\n{heard}");
    if gives_up {
        let ended = tokio::time::timeout(WITHIN, node.wait()).await.expect("it gives up");
        assert_eq!(ended.expect("it was started here").code(), Some(2), "{heard}");
    }
}
