//! The pure core and the actor on one core: how many decisions a second, and how much memory.
//!
//! `cargo bench --bench decisions`. Medians of five rounds; the first one is not counted.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use coupond::{
    actors::{
        Directory, Environment, Shared,
        supervisor::{Supervisor, SupervisorMessage},
    },
    clock::{SharedClock, SystemClock},
    domain::{
        campaign::{At, Campaign},
        code::CodeFormat,
        definition::Terms,
        ids::{CampaignId, Offset, Partition, Timestamp, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
        rows::{CampaignRows, PartitionRows},
    },
    feed::{DecisionFeed, FeedError, FeedEvent, FeedMessage},
    log::{
        AppendError, Appended, Bounds, LogError, LogReader, LogRecord, NewRecord, Ownership,
        ReadError, RequestLog, codec::Codec,
    },
    store::{CouponPages, CouponStore, Layout, Row, Selection, StoreError},
};
use ractor::Actor;
use tokio::sync::mpsc;

const USERS: u64 = 1_000_000;
const ROUNDS: usize = 5;

fn keys() -> Arc<Keys> {
    Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"))
}

fn spring() -> CampaignId {
    CampaignId::parse("spring").expect("it is an id")
}

fn definition() -> Record {
    let terms = Terms {
        quota: USERS as u32,
        per_user_limit: 1,
        opens_at: None,
        closes_at: None,
        code: CodeFormat::default(),
    };
    let change = Change::Defined { terms };
    Record::Control(Control { campaign: spring(), based_on: None, change })
}

fn request(user: u64) -> Record {
    // As long as the ids that people use: a UUID's 36 characters.
    let user = UserId::parse(&format!("user-{user:031}")).expect("it is an id");
    Record::Request(Request { campaign: spring(), user, idempotency_key: None })
}

fn at(offset: u64) -> At {
    At { offset, time: Timestamp(1_760_000_000_000 + offset as i64 / 100) }
}

/// Folds every record; gives millions a second.
fn fold(campaign: &mut Campaign, records: &[Record], offset: &mut u64) -> f64 {
    let started = Instant::now();
    for record in records {
        *offset += 1;
        std::hint::black_box(campaign.fold(at(*offset), record));
    }
    records.len() as f64 / started.elapsed().as_secs_f64() / 1e6
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn core() {
    let winners: Vec<_> = (0..USERS).map(request).collect();
    let late: Vec<_> = (USERS..2 * USERS).map(request).collect();
    let (mut issued, mut repeated, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for round in 0..=ROUNDS {
        let mut campaign = Campaign::new(spring(), 1, 0, keys());
        let empty = campaign.memory_bytes();
        let mut offset = 0;
        campaign.fold(at(0), &definition());
        let figures = [
            fold(&mut campaign, &winners, &mut offset),
            fold(&mut campaign, &winners, &mut offset),
            fold(&mut campaign, &late, &mut offset),
        ];
        bytes = campaign.memory_bytes() - empty;
        if round > 0 {
            issued.push(figures[0]);
            repeated.push(figures[1]);
            refused.push(figures[2]);
        }
    }
    println!("pure core, {USERS} users, millions a second");
    println!("  issued, with code and digest  {:6.2}", median(issued));
    println!("  repeated                      {:6.2}", median(repeated));
    println!("  refused, sold out             {:6.2}", median(refused));
    println!("  memory per issued user        {:6.1} bytes", bytes as f64 / USERS as f64);
}

/// A log of one partition that is already full.
struct FullLog {
    records: Arc<Vec<LogRecord>>,
}

struct FullReader {
    records: Arc<Vec<LogRecord>>,
    next: usize,
}

#[async_trait]
impl LogReader for FullReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        if self.next == self.records.len() {
            std::future::pending::<()>().await;
        }
        let until = (self.next + max).min(self.records.len());
        let records = self.records[self.next..until].to_vec();
        self.next = until;
        Ok(records)
    }
}

#[async_trait]
impl RequestLog for FullLog {
    async fn append(&self, _: Partition, _: NewRecord) -> Result<Appended, AppendError> {
        Err(AppendError::Overloaded("it is full".to_owned()))
    }
    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        Ok(mpsc::channel(1).1)
    }
    async fn open(&self, _: Partition, from: Offset) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(FullReader { records: self.records.clone(), next: from as usize }))
    }
    async fn bounds(&self, _: Partition) -> Result<Bounds, LogError> {
        Ok(Bounds { low: 0, high: self.records.len() as u64 })
    }
    async fn settled(&self, _: Partition, _: Offset, _: Option<Offset>) -> Result<(), LogError> {
        Ok(())
    }
    async fn dead_letter(&self, _: Partition, _: &LogRecord, _: &str) -> Result<(), LogError> {
        Ok(())
    }
}

/// A store that takes everything and keeps nothing.
struct NoStore;

#[async_trait]
impl CouponStore for NoStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        Ok(proposed.clone())
    }
    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        std::hint::black_box(rows);
        Ok(())
    }
    async fn partition(&self, _: Partition) -> Result<PartitionRows, StoreError> {
        Ok(PartitionRows::default())
    }
    async fn campaign(&self, _: &CampaignId, _: Partition) -> Result<CampaignRows, StoreError> {
        Ok(CampaignRows::default())
    }
    fn coupons(&self, _: &CampaignId, _: Selection) -> CouponPages {
        Box::pin(futures_util::stream::empty())
    }
    async fn campaigns(
        &self,
        _: Option<&CampaignId>,
        _: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        Ok(Vec::new())
    }
}

/// A feed that tells when everything below an offset is settled.
struct EndFeed {
    end: Offset,
    done: mpsc::Sender<()>,
}

#[async_trait]
impl DecisionFeed for EndFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        if message.to == self.end {
            let _ = self.done.try_send(());
        }
        Ok(())
    }
    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        Ok(mpsc::channel(1).1)
    }
}

/// Reads, decodes, routes, decides, stores into nothing, reports and publishes every record.
async fn through_the_actor(records: Arc<Vec<LogRecord>>) -> f64 {
    let codec = Codec::new(keys(), 1, 1);
    let (done, mut settled) = mpsc::channel(1);
    let end = records.len() as u64;
    let clock: SharedClock = Arc::new(SystemClock);
    let environment = Environment {
        log: Arc::new(FullLog { records }),
        store: Arc::new(NoStore),
        feed: Arc::new(EndFeed { end, done }),
        codec: codec.clone(),
        keys: keys(),
        log_epoch: 1,
        clock: clock.clone(),
        future_max_ms: None,
        directory: Arc::new(Directory::new(codec)),
        shared: Shared::new(&clock),
    };
    let started = Instant::now();
    let (supervisor, handle) =
        Actor::spawn(None, Supervisor, Arc::new(environment)).await.expect("it starts");
    let assigned = SupervisorMessage::Ownership(Ownership::Assigned(0));
    supervisor.cast(assigned).expect("it runs");
    settled.recv().await.expect("it settles");
    let figure = end as f64 / started.elapsed().as_secs_f64() / 1e6;
    supervisor.kill();
    let _ = handle.await;
    figure
}

fn actor() {
    let codec = Codec::new(keys(), 1, 1);
    let encode = |offset: u64, record: &Record| {
        let (_, record) = codec.encode(record);
        LogRecord {
            offset,
            time: at(offset).time,
            key: record.campaign.as_str().as_bytes().to_vec(),
            value: record.value,
            mac: Some(record.mac),
        }
    };
    let mut records = vec![encode(0, &definition())];
    records.extend((0..USERS).map(|user| encode(user + 1, &request(user))));
    let records = Arc::new(records);
    for workers in [1, 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .expect("it starts");
        let mut figures = Vec::new();
        for round in 0..=ROUNDS {
            let figure = runtime.block_on(through_the_actor(records.clone()));
            if round > 0 {
                figures.push(figure);
            }
        }
        println!(
            "issued through the actors, {workers} worker(s)  {:6.2} million a second",
            median(figures)
        );
    }
}

fn main() {
    core();
    actor();
}
