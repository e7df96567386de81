//! The kinds of half-dead nodes, one test each.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

use crate::{
    network::{GROUPS, cut, mend},
    ranges,
    stage::{Stage, brokers, database},
    threads::Stopped,
    trials,
};

/// Time from a fault until everything is decided elsewhere: 15 s of failed probes, up to 5 s until the
/// first of them has failed and the last one ends, and a rebalance.
const DECIDED_WITHIN: Duration = Duration::from_secs(25);

/// The same where two of three nodes leave: the third may be given their partitions one after the other.
const ALL_DECIDED_WITHIN: Duration = Duration::from_secs(40);

/// Time from the mending until a node owns partitions again: it stays away for 60 s.
const BACK_WITHIN: Duration = Duration::from_secs(100);

/// Least time until partitions of the node with the fault are decided. Sooner, none was there.
const NOT_BEFORE: Duration = Duration::from_secs(10);

/// The node with the fault.
const CUT: usize = 1;

/// All campaigns get requests all the time.
const ALL: usize = 24;

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        cut_off_from_the_database,
        cut_off_from_all_brokers_but_the_coordinator,
        cut_off_from_one_broker,
        a_worker_hangs,
        two_of_three_are_cut_off,
        the_last_member_is_killed,
        nobody_reaches_the_database,
        short_troubles_open_no_hold,
    ]
}

/// Returns the address of the broker that coordinates a consumer group.
///
/// # Panics
/// The topic of offsets has no leader for the group's partition: its number is the Java hash of the
/// group's name, modulo the partitions (Kafka, `GroupMetadataManager.partitionFor`).
fn coordinator(group: &str) -> String {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers().join(","))
        .create()
        .expect("a consumer");
    let metadata = consumer
        .fetch_metadata(Some("__consumer_offsets"), Duration::from_secs(10))
        .expect("the brokers answer");
    let partitions = metadata.topics()[0].partitions();
    let hash = group
        .encode_utf16()
        .fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let place = (hash & i32::MAX) as usize % partitions.len();
    let leader =
        partitions.iter().find(|it| it.id() as usize == place).expect("it exists").leader();
    let broker = metadata.brokers().iter().find(|it| it.id() == leader).expect("it has a leader");
    format!("{}:{}", broker.host(), broker.port())
}

fn group_of(stage: &Stage) -> &str {
    let group = stage.settings.iter().find_map(|setting| setting.strip_prefix("kafka.group="));
    group.expect("it was set")
}

/// One of two nodes is cut off from these endpoints. The other decides, and the first comes back.
async fn hands_over(mut stage: Stage, endpoints: &[String]) {
    let began = Instant::now();
    cut(GROUPS[CUT], endpoints);
    let took = stage.decided(0, began).await;
    println!("decided {took:.1?} after the cut");
    assert!(took > NOT_BEFORE, "no partition was at the node that was cut off");
    assert!(took <= DECIDED_WITHIN, "decided {took:?} after the cut");
    assert_eq!(stage.left().await, [0.0, 1.0]);
    let (status, body) = stage.nodes[CUT].readiness().await;
    assert!(status == 503 && body.to_string().contains("own_probes"), "{status} {body}");
    assert_eq!(stage.nodes[0].readiness().await.0, 200);
    comes_back(stage).await;
}

async fn comes_back(mut stage: Stage) {
    let began = Instant::now();
    mend();
    let took = stage.back(CUT, began, BACK_WITHIN).await;
    println!("back {took:.1?} after the mending");
    stage.nodes[CUT].is_ready().await;
    stage.end().await;
}

async fn cut_off_from_the_database() {
    hands_over(Stage::start(2, ALL).await, database()).await;
}

/// Its membership goes on, so the group takes nothing from it.
async fn cut_off_from_all_brokers_but_the_coordinator() {
    let stage = Stage::start(2, ALL).await;
    let coordinator = coordinator(group_of(&stage));
    let others: Vec<_> = brokers().iter().filter(|it| **it != coordinator).cloned().collect();
    assert_eq!(others.len(), 2, "{coordinator}");
    hands_over(stage, &others).await;
}

async fn cut_off_from_one_broker() {
    let stage = Stage::start(2, ALL).await;
    let coordinator = coordinator(group_of(&stage));
    let other = brokers().iter().find(|it| **it != coordinator).expect("there are three");
    hands_over(stage, std::slice::from_ref(other)).await;
}

async fn a_worker_hangs() {
    let mut stage = Stage::start(2, ALL).await;
    let began = Instant::now();
    let stopped = Stopped::one_worker(stage.nodes[CUT].process());
    let took = stage.decided(0, began).await;
    println!("decided {took:.1?} after a worker was stopped");
    assert!(took <= DECIDED_WITHIN, "decided {took:?} after a worker was stopped");
    drop(stopped);
    comes_back(stage).await;
}

async fn two_of_three_are_cut_off() {
    let mut stage = Stage::start(3, ALL).await;
    let began = Instant::now();
    GROUPS[1..].iter().for_each(|group| cut(*group, database()));
    let took = stage.decided(0, began).await;
    println!("decided {took:.1?} after two of three were cut off");
    assert!(took > NOT_BEFORE, "no partition was at the nodes that were cut off");
    assert!(took <= ALL_DECIDED_WITHIN, "decided {took:?} after the cut");
    assert_eq!(stage.left().await, [0.0, 1.0, 1.0]);
    mend();
    stage.end().await;
}

/// One has left and waits out its minute. The other, which has everything, is killed.
async fn the_last_member_is_killed() {
    let mut stage = Stage::start(2, ALL).await;
    cut(GROUPS[CUT], database());
    stage.decided(0, Instant::now()).await;
    mend();
    // Its probes are good again, and the other still decides.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.left().await, [0.0, 1.0]);
    let began = Instant::now();
    stage.nodes.remove(0).kill();
    let took = stage.decided(0, began).await;
    println!("decided {took:.1?} after the last member was killed");
    // Its last word ages for 5 s, and Kafka misses it after 6 s.
    assert!(took <= Duration::from_secs(20), "decided {took:?} after the kill");
    stage.end().await;
}

async fn nobody_reaches_the_database() {
    // One campaign goes on getting requests: two of three nodes are idle.
    let mut stage = Stage::start(3, 1).await;
    GROUPS.iter().for_each(|group| cut(*group, database()));
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(stage.left().await, [0.0; 3], "nobody can decide, so nobody leaves");
    let began = Instant::now();
    mend();
    let mut slowest = Duration::ZERO;
    for node in 0..3 {
        slowest = slowest.max(stage.decided(node, began).await);
    }
    println!("decided {slowest:.1?} after the database was back");
    assert!(slowest <= Duration::from_secs(10), "decided {slowest:?} after the mending");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(stage.left().await, [0.0; 3]);
    stage.end().await;
}

async fn short_troubles_open_no_hold() {
    let mut stage = Stage::start(2, ALL).await;
    stage.nodes[CUT].signal("STOP");
    tokio::time::sleep(Duration::from_secs(20)).await;
    stage.nodes[CUT].signal("CONT");
    stage.decided(0, Instant::now()).await;
    // Both own partitions again.
    stage.back(CUT, Instant::now(), BACK_WITHIN).await;
    GROUPS.iter().for_each(|group| cut(*group, database()));
    tokio::time::sleep(Duration::from_secs(16)).await;
    mend();
    let began = Instant::now();
    let took = stage.decided(0, began).await;
    println!("decided {took:.1?} after an outage of 16 s");
    // Timers of holds would have run out by then.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(ranges::holds(&stage).await, 0);
    stage.end().await;
}
