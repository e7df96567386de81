//! Makes the good folders that images derive from: a real node wrote them under load.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use coupond::{
    clock::SystemClock,
    config::Config,
    domain::ids::CampaignId,
    embedded::EmbeddedDatabase,
    log::{RequestLog, embedded::EmbeddedLog},
    node::Node,
    wire::NewRecord,
};
use serde_json::{Value, json};

pub(crate) const PARTITIONS: u32 = 2;

/// Requests in flight at once: enough that the log commits them in groups.
const AT_ONCE: usize = 8;

/// Returns the settings of a node on `folder` that listens on free ports.
pub(crate) fn config(folder: &Path) -> Config {
    let mut config = crate::quiet::config(folder);
    config.embedded.dir = folder.to_owned();
    config.embedded.partitions = PARTITIONS;
    config
}

/// The files of a folder by their relative path.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Reads all files, without the zeros at the end of a preallocated journal.
pub(crate) fn files(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut open = vec![folder.to_owned()];
    while let Some(inner) = open.pop() {
        for entry in std::fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if path.extension().is_some_and(|end| end == "jnl") {
                let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                bytes.truncate(end);
            }
            files.insert(path.strip_prefix(folder).unwrap().to_owned(), bytes);
        }
    }
    files
}

/// Stops a node and waits until its folder is unlocked.
pub(crate) async fn stop(node: Node, folder: &Path) {
    node.stop().await;
    let lock = std::fs::OpenOptions::new().write(true).open(folder.join("lock")).unwrap();
    tokio::task::spawn_blocking(move || {
        lock.lock().unwrap();
        lock.unlock().unwrap();
    })
    .await
    .unwrap();
}

/// Requests a coupon until there is a decision.
pub(crate) async fn ask(node: &Node, campaign: &str, user: &str, key: Option<&str>) -> Value {
    let body = json!({ "campaign_id": campaign, "user_id": user });
    let url = format!("http://{}/coupon/issue", node.api);
    let mut request = reqwest::Client::new().post(url).header("prefer", "wait=30").json(&body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let answer = request.send().await.unwrap();
    answer.json().await.unwrap()
}

async fn administer(node: &Node, method: reqwest::Method, path: &str, body: Value) {
    let url = format!("http://{}/admin/campaigns/{path}", node.admin);
    let mut request = reqwest::Client::new().request(method, url).bearer_auth(&node.admin_token);
    if !body.is_null() {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
}

async fn press(node: &Arc<Node>, campaign: &'static str, users: std::ops::Range<usize>) {
    let mut pressing = tokio::task::JoinSet::new();
    for number in users {
        if pressing.len() == AT_ONCE {
            pressing.join_next().await.unwrap().unwrap();
        }
        let node = node.clone();
        pressing.spawn(async move {
            let user = format!("user-{}", number % 50);
            let key = format!("key-{}", number % 3);
            ask(&node, campaign, &user, (number % 4 != 0).then_some(&key)).await
        });
    }
    while let Some(asked) = pressing.join_next().await {
        asked.unwrap();
    }
}

/// Runs a node on `folder` under a load of `requests` for each of two campaigns.
async fn run(folder: &Path, requests: std::ops::Range<usize>) {
    use reqwest::Method;
    let node = Arc::new(Node::start(&config(folder)).await.unwrap());
    let (start, middle, end) = (requests.start, requests.start + requests.len() / 2, requests.end);
    if start == 0 {
        let first = json!({ "quota": 40, "per_user_limit": 2 });
        administer(&node, Method::PUT, "spring", first).await;
        administer(&node, Method::PUT, "summer-2", json!({ "quota": 30 })).await;
    }
    press(&node, "spring", start..middle).await;
    administer(&node, Method::POST, "spring/pause", Value::Null).await;
    press(&node, "summer-2", start..middle).await;
    administer(&node, Method::POST, "spring/resume", Value::Null).await;
    administer(&node, Method::PATCH, "spring", json!({ "quota": 60 + end })).await;
    press(&node, "spring", middle..end).await;
    press(&node, "summer-2", middle..end).await;
    stop(Arc::into_inner(node).unwrap(), folder).await;
}

/// Appends a malformed record to the log, which becomes a dead letter.
async fn append_garbage(folder: &Path) {
    let settings = config(folder).embedded;
    let database = EmbeddedDatabase::open(&settings, Arc::new(SystemClock)).unwrap();
    let log = EmbeddedLog::new(database.clone(), settings.retention);
    for partition in 0..PARTITIONS {
        let campaign = CampaignId::parse("nobody").unwrap();
        let record = NewRecord { campaign, value: b"no JSON".into(), mac: b"no MAC".into() };
        log.append(partition, record).await.unwrap();
    }
    database.close().await;
}

/// Makes a folder with all content in one journal, as a first run leaves it.
pub(crate) async fn in_one_journal(folder: &Path, requests: usize) -> Files {
    run(folder, 0..requests).await;
    files(folder)
}

/// Makes a folder with tables and a journal; returns it before and after the tables were written.
pub(crate) async fn with_tables(folder: &Path, requests: usize) -> [Files; 3] {
    run(folder, 0..requests).await;
    append_garbage(folder).await;
    let settings = config(folder).embedded;
    let database = EmbeddedDatabase::open(&settings, Arc::new(SystemClock)).unwrap();
    let before = files(folder);
    database.write_tables().unwrap();
    database.close().await;
    drop(database);
    let after = files(folder);
    run(folder, requests..requests + requests / 2).await;
    [before, after, files(folder)]
}
