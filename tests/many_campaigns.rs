//! The memory of ten thousand live campaigns on one node. A separate test target, because the test
//! measures the memory of the whole process.

use std::{sync::Arc, time::Duration};

use coupond::{
    actors::{Directory, Environment, Shared, messages::SupervisorMessage, supervisor::Supervisor},
    clock::{Clock, SharedClock},
    domain::{
        definition::Terms,
        ids::{CampaignId, ProcessName, Timestamp, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
    },
    feed::{HeardGenerations, in_process::InProcessFeed},
    log::{
        Ownership,
        memory::{MemoryLog, MemoryPartition},
    },
    partition::{actor_view::ActorViews, flow::Limits},
    store::memory::MemoryStore,
    wire::{LogRecord, codec::Codec},
};
use ractor::{Actor, ActorRef};

/// Wall-clock time at the start.
const BEGIN_MS: i64 = 1_790_000_000_000;

const CAMPAIGNS: usize = 10_000;
const PARTITIONS: u32 = 12;

/// Most bytes of an idle campaign, with its rows in the store in memory.
const CAMPAIGN_BYTES_MAX: u64 = 16 * 1_024;

/// Longest time until everything is settled, by the paused clock.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// The paused clock.
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp(BEGIN_MS + i64::try_from(self.0.elapsed().as_millis()).expect("a short test"))
    }

    fn instant(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }

    fn boot(&self) -> Duration {
        self.0.elapsed()
    }
}

fn keys() -> Arc<Keys> {
    Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"))
}

/// Returns a log in which every campaign is defined and then asked for by so many users.
fn log(codec: &Codec, users: usize) -> Vec<MemoryPartition> {
    let empty = |_| MemoryPartition::starting_at(0);
    let mut partitions: Vec<_> = (0..PARTITIONS).map(empty).collect();
    let mut append = |record: Record| {
        let (partition, record) = codec.encode(&record);
        let log = &mut partitions[partition as usize];
        let (offset, time) = (log.high, Timestamp(BEGIN_MS));
        let key = record.campaign.as_str().as_bytes().to_vec();
        let (value, mac) = (record.value, Some(record.mac));
        log.records.insert(offset, LogRecord { offset, time, key, value, mac });
        log.high += 1;
    };
    for campaign in (0..CAMPAIGNS).map(campaign) {
        let change = Change::Defined { terms: Terms::of(2) };
        append(Record::from(Control::once("token", campaign, None, change)));
    }
    for user in 0..users {
        for campaign in (0..CAMPAIGNS).map(campaign) {
            let user = UserId::parse(&format!("u{user}")).expect("a valid id");
            append(Record::Request(Request { campaign, user, idempotency_key: None }));
        }
    }
    partitions
}

/// Actors that own every partition, on ports in memory.
struct Actors {
    ends: Vec<u64>,
    store: Arc<MemoryStore>,
    directory: Arc<Directory>,
    supervisor: ActorRef<SupervisorMessage>,
}

impl Actors {
    async fn start(codec: &Codec, log: Vec<MemoryPartition>, store: &Arc<MemoryStore>) -> Self {
        let clock: SharedClock = Arc::new(PausedClock(tokio::time::Instant::now()));
        let ends = log.iter().map(|log| log.high).collect();
        let (directory, store) = (Arc::new(Directory::new(codec.clone())), store.clone());
        let environment = Arc::new(Environment {
            log: Arc::new(MemoryLog::finished(log)),
            store: store.clone(),
            feed: Arc::new(InProcessFeed::default()),
            codec: codec.clone(),
            keys: keys(),
            log_epoch: 1,
            process: ProcessName::of(1),
            generations: Arc::new(HeardGenerations::new(PARTITIONS)),
            future_max_ms: None,
            limits: Limits::default(),
            directory: directory.clone(),
            shared: Shared::new(&clock),
            clock,
        });
        let (supervisor, _) = Actor::spawn(None, Supervisor, environment).await.expect("it starts");
        for partition in 0..PARTITIONS {
            let assigned = SupervisorMessage::Ownership(Ownership::Assigned(partition));
            supervisor.cast(assigned).expect("it runs");
        }
        Self { ends, store, directory, supervisor }
    }

    fn is_settled(&self) -> bool {
        let rows = self.store.rows.lock();
        (0..PARTITIONS).zip(&self.ends).all(|(partition, end)| {
            rows.progress.get(&partition).map_or(0, |progress| progress.next) == *end
        })
    }

    fn live(&self) -> usize {
        let ids = (0..CAMPAIGNS).map(campaign);
        ids.filter(|id| self.directory.view(id).state == "live").count()
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        let begun = tokio::time::Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < SETTLE_MAX, "not settled after {SETTLE_MAX:?}");
            // Paused: passes as soon as every task waits.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn campaign(index: usize) -> CampaignId {
    CampaignId::parse(&format!("c{index}")).expect("a valid id")
}

/// Returns the resident memory of this process in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1_024)
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_campaigns_live_on_one_node() {
    let (codec, store) =
        (Codec::new(&keys(), "one", 1, PARTITIONS), Arc::new(MemoryStore::default()));
    let defined = log(&codec, 0);
    let before = resident();
    let actors = Actors::start(&codec, defined, &store).await;
    actors.until(|actors| actors.is_settled() && actors.live() == CAMPAIGNS).await;
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = after.saturating_sub(before) / CAMPAIGNS as u64;
        println!("{CAMPAIGNS} idle campaigns, {each} bytes of memory each");
        assert!(each <= CAMPAIGN_BYTES_MAX, "{each} bytes for each idle campaign");
    }
    actors.supervisor.kill();
    // The next owner decides requests of all of them.
    let actors = Actors::start(&codec, log(&codec, 3), &store).await;
    actors.until(Actors::is_settled).await;
    assert_eq!(store.rows.lock().coupons.len(), 2 * CAMPAIGNS);
    actors.supervisor.kill();
}
