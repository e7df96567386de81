//! Compares the coupon store on a real CQL database with the bare driver, in one run.
//!
//! `cargo bench --bench cql_store [-- COUPONS]` prints coupons per second written (16 callers of
//! 512 coupons each) and read back (the scan of recovery), each next to the bare driver's figure:
//! medians of three alternating rounds. The database is found as in tests.

#[path = "support/bare_cql.rs"]
mod bare_cql;
#[allow(dead_code, reason = "tests ask for more than a bench does")]
#[path = "../tests/engines/mod.rs"]
mod engines;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bare_cql::BareCql;
use coupond::{
    config::CqlConfig,
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Position, Timestamp, UserId},
        rows::Row,
    },
    store::{CouponStore, SEQUENCES_PER_BUCKET, Selection, cql},
};
use engines::Engine;
use futures_util::TryStreamExt;

const ROUNDS: usize = 3;
const CALLERS: usize = 16;
const COUPONS_PER_CALL: usize = 512;
/// Most attempts of a write. After them, the database counts as unavailable.
const REPEATS_MAX: usize = 20;
const COUPONS_DEFAULT: u32 = 200_000;

fn coupons(campaign: &str, count: u32) -> Vec<Coupon> {
    let campaign = CampaignId::parse(campaign).expect("an id");
    let coupon = |sequence: u32| Coupon {
        campaign: campaign.clone(),
        sequence,
        user: UserId::parse(&format!("{sequence:08}-7c1e-4d9a-b6f3-0a2b{sequence:08}"))
            .expect("an id"),
        code: format!("{:026X}", u128::from(sequence).wrapping_mul(0x9E37_79B9_7F4A_7C15)).into(),
        issued_at: Timestamp(1_780_000_000_000 + i64::from(sequence / 100)),
        position: Position { log_epoch: 1, partition: 3, offset: u64::from(sequence) },
        key_digest: None,
        user_bucket: 0,
        rules_version: 1,
        digest: [sequence as u8; 16],
    };
    (1..=count).map(coupon).collect()
}

async fn write(store: &cql::CqlStore, rows: &Arc<Vec<Row>>) {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (store, rows, next) = (store.clone(), Arc::clone(rows), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let call = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(rows) = rows.chunks(COUPONS_PER_CALL).nth(call) else { return };
                let mut repeats = 0;
                while let Err(error) = store.write(rows).await {
                    println!("repeating a write: {error}: {}", error.source);
                    repeats += 1;
                    assert!(repeats < REPEATS_MAX, "the database is unavailable");
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.expect("a caller ends well");
    }
}

async fn scan(store: &cql::CqlStore, campaign: &CampaignId) -> usize {
    let mut pages = store.coupons(campaign, Selection::All);
    let mut count = 0;
    while let Some(page) = pages.try_next().await.expect("a page is read") {
        count += page.len();
    }
    count
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn report(what: &str, count: u32, store: Vec<Duration>, bare: Vec<Duration>) {
    let rate = |times: Vec<Duration>| f64::from(count) / median(times).as_secs_f64();
    let (store, bare) = (rate(store), rate(bare));
    println!("{what}: store {store:.0}/s, bare {bare:.0}/s, ratio {:.2}", store / bare);
}

async fn run(nodes: Vec<String>, count: u32) {
    let keyspace = engines::unique("bench");
    let config = CqlConfig { nodes, keyspace, ..CqlConfig::default() };
    let store = cql::connect(&config).await.expect("the database answers");
    let bare = BareCql::connect(&config.nodes, &config.keyspace).await;
    // Warms up both, so that the first round has no disadvantage.
    bare.write(&Arc::new(coupons("warm-bare", 20_000))).await;
    write(&store, &Arc::new(coupons("warm", 20_000).iter().flat_map(Row::of_both_views).collect()))
        .await;

    let (mut by_store, mut by_bare) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let rows = coupons(&format!("store-{round}"), count);
        let rows = Arc::new(rows.iter().flat_map(Row::of_both_views).collect());
        let start = Instant::now();
        write(&store, &rows).await;
        by_store.push(start.elapsed());
        let rows = Arc::new(coupons(&format!("bare-{round}"), count));
        let start = Instant::now();
        bare.write(&rows).await;
        by_bare.push(start.elapsed());
    }
    println!("write: store {by_store:?}, bare {by_bare:?}");
    report("coupons written", count, by_store, by_bare);

    let campaign = CampaignId::parse("store-0").expect("an id");
    let (mut by_store, mut by_bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        assert_eq!(scan(&store, &campaign).await, count as usize);
        by_store.push(start.elapsed());
        let start = Instant::now();
        let buckets = count.div_ceil(SEQUENCES_PER_BUCKET);
        assert_eq!(bare.scan(campaign.as_str(), buckets).await, count as usize);
        by_bare.push(start.elapsed());
    }
    println!("scan: store {by_store:?}, bare {by_bare:?}");
    report("coupons read", count, by_store, by_bare);
}

fn main() {
    let count = std::env::args().find_map(|argument| argument.parse().ok());
    let count = count.unwrap_or(COUPONS_DEFAULT);
    match engines::shared(Engine::Cql) {
        Ok(nodes) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(run(nodes.clone(), count));
        }
        Err(reason) => println!("not measured: {reason}"),
    }
}
