//! Audits the data of real embedded nodes: without findings after crashes and holds, and with
//! findings after a row was changed.

mod quiet;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coupond::{
    audit::{AuditReport, Meter},
    clock::SystemClock,
    config::{Config, EmbeddedConfig},
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Partition},
        rows::{Counts, Mark, Row},
    },
    embedded::EmbeddedDatabase,
    log::{RequestLog, embedded::EmbeddedLog},
    node::{self, Node},
    partition::actor_view::Crashed,
    store::{CouponStore, Selection, embedded::EmbeddedStore},
    wire::routing,
};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use quiet::config;

const USERS: usize = 60;
const QUOTA: u32 = 40;

fn spring() -> CampaignId {
    CampaignId::parse("spring").expect("an id")
}

async fn admin(node: &Node, method: &str, path: &str, body: Value) -> u16 {
    let url = format!("http://{}/admin/campaigns/{path}", node.admin);
    let method = method.parse().expect("a method");
    let request = reqwest::Client::new().request(method, url).bearer_auth(&node.admin_token);
    let request = if body.is_null() { request } else { request.json(&body) };
    request.send().await.expect("the node answers").status().as_u16()
}

/// Requests a coupon until there is a decision or a refusal. Returns all answers as lines of the
/// file of answers.
async fn ask(node: &Node, campaign: &str, user: &str, key: Option<&str>) -> Vec<Value> {
    let mut answers = Vec::new();
    let body = json!({ "campaign_id": campaign, "user_id": user });
    for _ in 0..500 {
        let url = format!("http://{}/coupon/issue", node.api);
        let mut request = reqwest::Client::new().post(url).header("prefer", "wait=10").json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.expect("the node answers");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("JSON");
        answers.push(json!({
            "time": "2026-11-26T12:00:00Z", "user": user, "campaign": campaign, "key": key,
            "status": status, "body": body,
        }));
        if status == 200 || status == 409 {
            return answers;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{user} got no decision: {answers:?}");
}

/// Runs a node that decides many requests while an operator changes campaigns and actors crash.
/// Returns its settings and the file of answers.
async fn data_of_a_node(folder: &Path) -> (Config, PathBuf) {
    let config = config(folder);
    let node = Node::start(&config).await.expect("it starts");
    let mut lines = Vec::new();
    for campaign in ["spring", "summer"] {
        let limit = if campaign == "summer" { 2 } else { 1 };
        let terms = json!({ "quota": QUOTA, "per_user_limit": limit });
        assert_eq!(admin(&node, "PUT", campaign, terms).await, 201);
    }
    for user in 0..USERS {
        let name = format!("user-{}", user % 50);
        lines.extend(ask(&node, "spring", &name, None).await);
        let key = format!("key-{}", user % 7);
        lines.extend(ask(&node, "summer", &name, Some(&key)).await);
        match user {
            10 => assert_eq!(admin(&node, "POST", "spring/pause", Value::Null).await, 200),
            15 => assert_eq!(admin(&node, "POST", "spring/resume", Value::Null).await, 200),
            20 => node.crash(Crashed::Coupon(spring())),
            30 => assert_eq!(admin(&node, "PATCH", "spring", json!({ "quota": 41 })).await, 200),
            45 => node.crash(Crashed::Consumer(0)),
            55 => assert_eq!(admin(&node, "POST", "summer/close", Value::Null).await, 200),
            _ => {}
        }
    }
    node.stop().await;
    let answers = folder.join("answers.jsonl");
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&answers, lines.join("\n")).expect("it is written");
    (config, answers)
}

async fn audit(config: &Config, answers: Option<&Path>) -> AuditReport {
    let answers = answers.map(Path::to_owned);
    node::audit(config, answers, Arc::new(Meter::default())).await.expect("it is audited")
}

fn kinds(report: &AuditReport) -> Vec<&'static str> {
    report.broken.iter().map(|it| it.kind).collect()
}

/// Writes the rows that `damage` returns to the store of a stopped node.
async fn damage(
    config: &EmbeddedConfig,
    damage: impl AsyncFnOnce(&EmbeddedStore, Vec<Coupon>) -> Vec<Row>,
) {
    let database = EmbeddedDatabase::open(config, Arc::new(SystemClock)).expect("it opens");
    let store = EmbeddedStore::new(database.clone());
    let pages: Vec<_> =
        store.coupons(&spring(), Selection::All).try_collect().await.expect("it is read");
    let rows = damage(&store, pages.concat()).await;
    store.write(&rows).await.expect("it is written");
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_nodes_data_passes_the_audit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, answers) = data_of_a_node(folder.path()).await;
    let report = audit(&config, Some(&answers)).await;
    assert!(report.holds() && report.exit_code() == 0, "{}", report.text());
    let spring = report.campaigns.iter().find(|it| it.campaign == spring()).expect("it is there");
    assert_eq!((spring.issued, spring.rows, spring.remaining), (41, 41, 0));
    let counts = report.answers.expect("answers were audited");
    assert!(counts.decided >= 2 * USERS as u64 - 20, "{counts:?}");
    for partition in &report.partitions {
        assert_eq!((partition.from, partition.settled), (0, partition.end), "{partition:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_campaign_passes_the_audit() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let node = Node::start(&config).await.expect("it starts");
    assert_eq!(admin(&node, "PUT", "spring", json!({ "quota": QUOTA })).await, 201);
    ask(&node, "spring", "ada", None).await;
    node.stop().await;
    let mut whole = None;
    damage(&config.embedded, async |_, coupons| {
        let changed = Coupon { code: "ANOTHER".into(), ..coupons[0].clone() };
        whole = coupons.into_iter().next();
        vec![Row::Coupon(changed)]
    })
    .await;

    let node = Node::start(&config).await.expect("it starts");
    let held = async || {
        // A request makes the node load the campaign, which puts it on hold.
        let body = json!({ "campaign_id": "spring", "user_id": "ben" });
        let url = format!("http://{}/coupon/issue", node.api);
        reqwest::Client::new().post(url).json(&body).send().await.expect("the node answers");
        let url = format!("http://{}/admin/campaigns/spring", node.admin);
        let request = reqwest::Client::new().get(url).bearer_auth(&node.admin_token);
        let body: Value = request.send().await.expect("it answers").json().await.expect("JSON");
        body["state"] == "quarantined" && body["hold"]["kind"] == "contradiction"
    };
    let waited = async {
        while !held().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.expect("an altered row holds it");
    node.stop().await;

    damage(&config.embedded, async |_, _| whole.into_iter().map(Row::Coupon).collect()).await;
    let node = Node::start(&config).await.expect("it starts");
    let released = async {
        // A release fails until the partition is taken over.
        while admin(&node, "POST", "spring/release", Value::Null).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), released).await.expect("it is released");
    ask(&node, "spring", "ben", None).await;
    node.stop().await;
    let report = audit(&config, None).await;
    assert!(report.holds(), "{}", report.text());
    assert_eq!(report.campaigns.iter().map(|it| it.issued).collect::<Vec<_>>(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn below_a_trimmed_log_rows_are_audited() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, answers) = data_of_a_node(folder.path()).await;
    let partition = routing::partition_of(&spring(), config.embedded.partitions);
    trim(&config.embedded, partition).await;
    let report = audit(&config, Some(&answers)).await;
    assert!(report.holds(), "{}", report.text());
    let trimmed = report.partitions.iter().find(|it| it.partition == partition);
    assert!(trimmed.is_some_and(|it| it.from > 0), "{}", report.text());
    assert!(report.text().contains("only rows were audited"), "{}", report.text());

    damage(&config.embedded, async |_, coupons| {
        let changed = Coupon { user: coupons[0].user.clone(), ..coupons[1].clone() };
        vec![Row::Coupon(changed)]
    })
    .await;
    let found = kinds(&audit(&config, None).await);
    assert!(
        found.contains(&"coupon_altered") && found.contains(&"coupon_beyond_limit"),
        "{found:?}"
    );
}

/// Trims the settled records of a partition's log.
async fn trim(config: &EmbeddedConfig, partition: Partition) {
    let database = EmbeddedDatabase::open(config, Arc::new(SystemClock)).expect("it opens");
    let store = EmbeddedStore::new(database.clone());
    let progress = store.progress(partition).await.expect("it is read");
    let next = progress.expect("it made progress").next;
    let log = EmbeddedLog::new(database.clone(), Duration::ZERO);
    log.report_progress(partition, next, None).await.expect("it is trimmed");
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_rows_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, answers) = data_of_a_node(folder.path()).await;
    damage(&config.embedded, async |_, coupons| {
        let mut more = coupons.last().expect("coupons").clone();
        more.sequence += 1;
        let changed = Coupon { code: "ANOTHER".into(), ..coupons[3].clone() };
        let counts = Counts { issued: 99, versions: 1, latest: 0 };
        let mark = Mark { campaign: spring(), offset: 1_000_000, counts };
        vec![Row::Coupon(more), Row::Coupon(changed), Row::Mark(mark)]
    })
    .await;
    let report = audit(&config, Some(&answers)).await;
    let found = kinds(&report);
    for kind in ["coupon_altered", "mark_beyond_log", "answer_coupon"] {
        assert!(found.contains(&kind), "{kind} was not found: {}", report.text());
    }
    assert_eq!(report.exit_code(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_or_empty_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let refused = async || {
        let audit = node::audit(&config, None, Arc::new(Meter::default())).await;
        let error = audit.expect_err("the audit is refused");
        (error.exit_code(), error.to_string())
    };
    let (code, text) = refused().await;
    assert!(code == 2 && text.contains("no node has ever used"), "{code} {text}");
    assert!(!config.embedded.dir.exists(), "an audit creates nothing");
    let node = Node::start(&config).await.expect("it starts");
    let (code, text) = refused().await;
    assert!(code == 1 && text.contains("a node is using the data folder"), "{code} {text}");
    node.stop().await;
}
