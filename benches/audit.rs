//! Measures time and memory of `coupond audit` on a log of 10 million records.
//!
//! `cargo bench --bench audit [-- RECORDS [FOLDER]]`. Fills the data folder of an embedded node
//! with requests, a tenth of which get a coupon; runs a node in this process until all are decided;
//! then audits the folder with the real program. A given FOLDER is kept, and reused if it exists.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use coupond::{
    clock::SystemClock,
    config::Config,
    domain::{
        ids::{CampaignId, IdempotencyKey, UserId},
        keys::Keys,
        record::{Record, Request},
    },
    embedded::EmbeddedDatabase,
    log::{RequestLog, embedded::EmbeddedLog},
    node::Node,
    store::{StoreInspection, embedded::EmbeddedStore},
    telemetry,
    wire::codec::Codec,
};
use futures_util::StreamExt;

const RECORDS: u64 = 10_000_000;
const ROUNDS: usize = 3;
const CAMPAIGNS: u64 = 6;
const SECRET: &str = "a-secret-of-thirty-two-bytes-for-benches";

/// Appends in flight while the log is filled.
const APPENDS: usize = 8_000;

fn config(folder: &Path) -> Config {
    let mut config = Config { demo: false, ..Config::default() };
    config.embedded.dir = folder.join("data");
    config.secret.key = Some(SECRET.into());
    config.api.listen = "127.0.0.1:0".parse().expect("an address");
    config.api.drain = std::time::Duration::ZERO;
    config.admin.listen = "127.0.0.1:0".parse().expect("an address");
    config.admin.token = Some("a-token-for-benches".into());
    config
}

fn campaign(number: u64) -> CampaignId {
    CampaignId::parse(&format!("campaign-{number}")).expect("an id")
}

/// Returns how many decisions nodes of this process have made durable.
fn decided() -> u64 {
    let rendered = telemetry::install_metrics().render();
    let lines = rendered.lines().filter(|line| line.starts_with("coupond_decisions_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

async fn define(config: &Config, records: u64) {
    let node = Node::start(config).await.expect("the node starts");
    for number in 0..CAMPAIGNS {
        let url = format!("http://{}/admin/campaigns/{}", node.admin, campaign(number));
        let body = serde_json::json!({
            "quota": (records / 10 / CAMPAIGNS).max(1),
            "per_user_limit": 1 + number % 2,
        });
        loop {
            let request = reqwest::Client::new().put(&url).bearer_auth(&node.admin_token);
            let answer = request.json(&body).send().await.expect("the node answers");
            if answer.status().is_success() {
                break;
            }
        }
    }
    node.stop().await;
}

/// Appends requests, nearly all of different users, in an order without a pattern.
async fn fill(config: &Config, records: u64) {
    let database = EmbeddedDatabase::open(&config.embedded, Arc::new(SystemClock));
    let database = database.expect("the folder opens");
    let log = EmbeddedLog::new(database.clone(), config.embedded.retention);
    let layout = EmbeddedStore::new(database.clone()).layout_in_force().await;
    let instance = layout.expect("the store answers").expect("a node made it").instance;
    let keys = Keys::derive(SECRET.as_bytes());
    let codec = Codec::new(&keys, &instance, 1, config.embedded.partitions);
    let append = |index: u64| {
        let dice = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let user = UserId::parse(&format!("user-{:012}", (dice >> 20) % (2 * records)));
        let key = dice.is_multiple_of(8).then(|| format!("key-{:08}", dice % 100_000_000));
        let request = Request {
            campaign: campaign((dice >> 8) % CAMPAIGNS),
            user: user.expect("an id"),
            idempotency_key: key.map(|key| IdempotencyKey::parse(&key).expect("a key")),
        };
        let (partition, record) = codec.encode(&Record::Request(request));
        log.append(partition, record)
    };
    let mut appends = futures_util::stream::iter(0..records).map(append).buffer_unordered(APPENDS);
    while let Some(appended) = appends.next().await {
        appended.expect("the log takes it");
    }
    drop(appends);
    database.close().await;
}

/// Runs a node until all requests are decided.
async fn settle(config: &Config, records: u64) {
    let before = decided();
    let node = Node::start(config).await.expect("the node starts");
    while decided() < before + records {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.stop().await;
}

/// Returns a process's peak memory so far, in KiB.
fn peak_kib(process: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Audits the folder with the real program. Returns seconds and peak MiB.
async fn audit(config: &Config) -> (f64, f64) {
    let started = Instant::now();
    let mut process = Command::new(env!("CARGO_BIN_EXE_coupond"))
        .arg("audit")
        .args(["--set", &format!("secret.key={SECRET}")])
        .args(["--set", &format!("embedded.dir='{}'", config.embedded.dir.display())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut peak = 0;
    let status = loop {
        peak = peak_kib(&process).unwrap_or(0).max(peak);
        if let Some(status) = process.try_wait().expect("it is a child") {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let took = started.elapsed().as_secs_f64();
    let output = process.wait_with_output().expect("it has ended");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(status.success(), "the audit ended with {status}");
    (took, peak as f64 / 1_024.0)
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let records = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(RECORDS);
    let temporary = tempfile::tempdir().expect("a folder");
    let named = arguments.next().map(PathBuf::from);
    let folder = named.unwrap_or_else(|| temporary.path().to_owned());
    let config = config(&folder);
    let runtime = tokio::runtime::Runtime::new().expect("it starts");
    runtime.block_on(async {
        if !EmbeddedDatabase::is_in(&config.embedded.dir) {
            define(&config, records).await;
            let started = Instant::now();
            fill(&config, records).await;
            println!("{records} requests appended in {:.1?}", started.elapsed());
            let started = Instant::now();
            settle(&config, records).await;
            println!("settled in {:.1?}", started.elapsed());
        }
        let mut times = Vec::new();
        let mut peaks = Vec::new();
        for _ in 0..ROUNDS {
            let (seconds, mib) = audit(&config).await;
            println!("audited in {seconds:.1} s, {mib:.0} MiB at most");
            times.push(seconds);
            peaks.push(mib);
        }
        times.sort_by(f64::total_cmp);
        peaks.sort_by(f64::total_cmp);
        let (seconds, mib) = (times[ROUNDS / 2], peaks[ROUNDS / 2]);
        println!(
            "{records} records: {seconds:.1} s, {:.0} records/s, {mib:.0} MiB (medians)",
            records as f64 / seconds
        );
    });
}
