//! Measures what neighbours in one partition cost: one hot campaign beside 100 calm ones, and a million
//! records of campaigns that do not exist.
//!
//! `cargo bench --bench neighbours -- [REQUESTS]`: the requests of the hot campaign in a second, by default
//! more than the store takes. Both parts of each ratio come from the same run.

#[path = "support/ports.rs"]
mod ports;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use coupond::{
    actors::{Environment, messages::SupervisorMessage, supervisor::Supervisor},
    clock::SystemClock,
    config::EmbeddedConfig,
    domain::{
        definition::Terms,
        ids::{CampaignId, UserId},
        record::{Change, Control, Record, Request},
    },
    embedded::EmbeddedDatabase,
    log::{Ownership, READ_RECORDS_MAX, RequestLog, embedded::EmbeddedLog},
    store::embedded::EmbeddedStore,
    wire::{LogRecord, NewRecord, codec::Codec, feed_message::FeedMessage},
};
use ractor::Actor;
use tokio::sync::mpsc;

use self::ports::{NoStore, PacedLog, TellingFeed, keys};

const CALM: usize = 100;
const SECONDS: usize = 5;
/// Requests of the hot campaign in a second: more than are stored.
const HOT: usize = 200_000;
const UNDEFINED: usize = 1_000_000;

fn request(campaign: &str, user: usize) -> Record {
    let campaign = CampaignId::parse(campaign).expect("an id");
    let user = UserId::parse(&format!("user-{user:031}")).expect("an id");
    Record::Request(Request { campaign, user, idempotency_key: None })
}

fn definition(campaign: &str) -> Record {
    let change = Change::Defined { terms: Terms::of(10_000_000) };
    let campaign = CampaignId::parse(campaign).expect("an id");
    Record::from(Control::once("token", campaign, None, change))
}

/// Returns a log in which a request of a calm campaign comes every millisecond, beside `hot` requests a
/// second of another, and the offsets of the calm ones.
fn timed(hot: usize) -> (Vec<Record>, Vec<Duration>, Vec<usize>) {
    let calm = |of: usize| format!("calm-{of}");
    let mut records: Vec<_> = (0..CALM).map(|of| definition(&calm(of))).collect();
    records.push(definition("hot"));
    // Their actors start before the clock does.
    records.extend((0..CALM).map(|of| request(&calm(of), 0)));
    let mut due = vec![Duration::ZERO; records.len()];
    let mut calms = Vec::new();
    let begin = Duration::from_secs(1);
    for ms in 0..SECONDS * 1_000 {
        let at = begin + Duration::from_millis(ms as u64);
        for user in 0..hot / 1_000 {
            records.push(request("hot", ms * hot / 1_000 + user));
            due.push(at);
        }
        calms.push(records.len());
        records.push(request(&calm(ms % CALM), ms + 1));
        due.push(at);
    }
    (records, due, calms)
}

async fn own(environment: Arc<Environment>) -> impl Future<Output = ()> {
    let (supervisor, handle) =
        Actor::spawn(None, Supervisor, environment).await.expect("it starts");
    let assigned = SupervisorMessage::Ownership(Ownership::Assigned(0));
    supervisor.cast(assigned).expect("it runs");
    async move {
        supervisor.kill();
        let _ = handle.await;
    }
}

/// Returns how long the decisions about requests of calm campaigns took, sorted, and how many
/// decisions there were in all.
async fn decisions(hot: usize) -> (Vec<Duration>, usize) {
    let (records, due, calms) = timed(hot);
    let codec = Codec::new(&keys(), "one", 1, 1);
    let offsets = (0..).zip(&records);
    let records: Arc<Vec<LogRecord>> =
        Arc::new(offsets.map(|(offset, record)| ports::encoded(&codec, offset, record)).collect());
    let due = Arc::new(due);
    let begun = Instant::now();
    let (told, mut heard) = mpsc::channel(records.len() + 1);
    let (times, all) = (due.clone(), records.len());
    let tell = move |message: &FeedMessage| {
        let now = begun.elapsed();
        for decision in &message.decisions {
            let offset = decision.offset as usize;
            if calms.binary_search(&offset).is_ok() {
                let _full = told.try_send(Some(now.saturating_sub(times[offset])));
            }
        }
        if message.to as usize == all {
            let _full = told.try_send(None);
        }
    };
    let log = PacedLog { records, due, begun };
    // As a database that stores some 100,000 rows a second: a row of a calm campaign takes 2 ms.
    let takes = |rows| Duration::from_micros(2_000 + 25 * rows as u64);
    let end = own(ports::environment(log, NoStore { takes }, TellingFeed(Box::new(tell)))).await;
    let mut took = Vec::new();
    while let Some(Some(wait)) = heard.recv().await {
        took.push(wait);
    }
    end.await;
    took.sort_unstable();
    (took, all)
}

async fn calm_beside_hot(hot: usize) {
    println!("{CALM} calm campaigns in one partition, one request each millisecond, {SECONDS} s");
    let mut p99 = Vec::new();
    for hot in [0, hot] {
        let begun = Instant::now();
        let (took, all) = decisions(hot).await;
        let at = |part: usize| took[took.len() * part / 1_000].as_secs_f64() * 1e3;
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "  beside {hot} requests a second of one campaign: P50 {:.1} ms, P99 {:.1} ms; \
             {all} decided in {seconds:.1} s",
            at(500),
            at(990)
        );
        p99.push(at(990));
    }
    println!("  P99 beside the hot campaign / without it: {:.2}", p99[1] / p99[0]);
}

/// Returns the process's resident memory, in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("it has one");
    let kib: f64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib / 1_024.0
}

async fn undefined() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = EmbeddedConfig {
        dir: folder.path().join("data"),
        partitions: 1,
        retention: Duration::from_secs(3_600),
        reserve_bytes: 0,
    };
    let database = EmbeddedDatabase::open(&config, Arc::new(SystemClock)).expect("it opens");
    let log = EmbeddedLog::new(database.clone(), Duration::from_secs(3_600));
    let codec = Codec::new(&keys(), "one", 1, 1);
    let append = async |record: Record| {
        let encoded = codec.encode(&record).1;
        let campaign = record.campaign().clone();
        let record = NewRecord { campaign, value: encoded.value, mac: encoded.mac };
        log.append(0, record).await.expect("it is appended");
    };
    append(definition("valid")).await;
    for some in (0..UNDEFINED).collect::<Vec<_>>().chunks(4_000) {
        let appends = some.iter().map(|of| append(request(&format!("undefined-{of}"), *of)));
        futures_util::future::join_all(appends).await;
    }
    append(request("valid", 1)).await;
    let end = UNDEFINED as u64 + 2;
    let bare = async || {
        let begun = Instant::now();
        let (mut reader, mut next) = (log.open(0, 0).await.expect("it opens"), 0);
        while next < end {
            let records = reader.read(READ_RECORDS_MAX).await.expect("it reads");
            next = records.last().map_or(next, |last| last.offset + 1);
            records.iter().for_each(|record| drop(std::hint::black_box(codec.decode(0, record))));
        }
        begun.elapsed().as_secs_f64()
    };
    let before = bare().await;
    let (told, mut heard) = mpsc::channel(1);
    let tell = move |message: &FeedMessage| {
        let is_it = message.decisions.iter().any(|decision| decision.offset == end - 1);
        if is_it {
            let _full = told.try_send(());
        }
    };
    let (resident_before, begun) = (resident(), Instant::now());
    let feed = TellingFeed(Box::new(tell));
    let store = EmbeddedStore::new(database.clone());
    let owned = EmbeddedLog::new(database.clone(), Duration::from_secs(3_600));
    let stop = own(ports::environment(owned, store, feed)).await;
    let (mut most, mut ticks) = (0.0_f64, tokio::time::interval(Duration::from_millis(10)));
    let decided = loop {
        tokio::select! {
            _ = heard.recv() => break begun.elapsed().as_secs_f64(),
            _ = ticks.tick() => most = most.max(resident()),
        }
    };
    let memory = most.max(resident()) - resident_before;
    stop.await;
    println!("{UNDEFINED} requests of as many undefined campaigns in front of a valid one");
    println!("  read and decoded by a bare reader: {before:.2} s");
    println!("  the valid request decided: {decided:.2} s, {:.2} times as long", decided / before);
    println!("  memory: {memory:.0} MiB more");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("it starts");
    let hot = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(HOT);
    runtime.block_on(calm_beside_hot(hot));
    runtime.block_on(undefined());
}
