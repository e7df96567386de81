//! Measures decisions per second in the pure core, through the actor and through a whole node with
//! ports in memory, and the memory of holders.
//!
//! `cargo bench --bench decisions` prints medians of five rounds, after a warm-up round.

use std::{collections::VecDeque, ops::ControlFlow, sync::Arc, time::Instant};

use async_trait::async_trait;
use coupond::{
    actors::{
        CouponHandle, Directory, Environment, Shared,
        coupon::CouponActor,
        messages::{CouponStart, PartitionMessage, SupervisorMessage},
        supervisor::Supervisor,
    },
    clock::{SharedClock, SystemClock},
    domain::{
        campaign::{At, Campaign},
        definition::{DefinitionVersion, Terms},
        ids::{CampaignId, Offset, Partition, ProcessName, Timestamp, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
        rows::{Hold, Mark, Progress, Register, Row, Skip, SkipState},
    },
    feed::{DecisionFeed, FeedError, FeedEvent, HeardGenerations},
    log::{AppendError, Appended, Bounds, LogError, LogReader, Ownership, ReadError, RequestLog},
    partition::{
        flow::{BATCH_RECORDS_MAX, BATCHES_MAX, Event},
        fold::Batch,
    },
    store::{ByUserPages, CampaignPages, CouponPages, CouponStore, Layout, Selection, StoreError},
    wire::{LogRecord, NewRecord, codec::Codec, feed_message::FeedMessage},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};

const USERS: u64 = 1_000_000;
const ROUNDS: usize = 5;

fn keys() -> Arc<Keys> {
    Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"))
}

fn spring() -> CampaignId {
    CampaignId::parse("spring").expect("it is an id")
}

fn definition() -> Record {
    let terms = Terms::of(USERS as u32);
    let change = Change::Defined { terms };
    Record::from(Control { campaign: spring(), based_on: None, change })
}

fn request(user: u64) -> Record {
    // 36 characters, the length of a UUID.
    let user = UserId::parse(&format!("user-{user:031}")).expect("it is an id");
    Record::Request(Request { campaign: spring(), user, idempotency_key: None })
}

fn at(offset: u64) -> At {
    At { offset, time: Timestamp(1_760_000_000_000 + offset as i64 / 100) }
}

/// Folds every record. Returns millions of decisions per second.
fn fold(campaign: &mut Campaign, records: &[Record], offset: &mut u64) -> f64 {
    // Batches are copied before the clock starts, because in a node the log allocates them.
    let mut seconds = 0.0;
    for batch in records.chunks(BATCH_RECORDS_MAX) {
        let batch: Vec<_> = (*offset + 1..).map(at).zip(batch.iter().cloned()).collect();
        *offset += batch.len() as u64;
        let started = Instant::now();
        campaign.fold_all(batch, |_, _, record, outcome| {
            std::hint::black_box((&record, &outcome));
            ControlFlow::Continue(())
        });
        seconds += started.elapsed().as_secs_f64();
    }
    records.len() as f64 / seconds / 1e6
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
    println!("pure core, {USERS} users, millions per second");
    println!("  issued, with code and digest  {:6.2}", median(issued));
    println!("  repeated                      {:6.2}", median(repeated));
    println!("  refused, sold out             {:6.2}", median(refused));
    println!("  memory per issued user        {:6.1} bytes", bytes as f64 / USERS as f64);
}

/// A log of one partition with all records.
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
        Err(AppendError::Overloaded("the benchmark appends nothing".to_owned()))
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
    async fn report_progress(
        &self,
        _: Partition,
        _: Offset,
        _: Option<Offset>,
    ) -> Result<(), LogError> {
        Ok(())
    }
    async fn dead_letter(&self, _: Partition, _: &LogRecord, _: &str) -> Result<(), LogError> {
        Ok(())
    }
}

/// A store that discards all rows.
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
    async fn progress(&self, _: Partition) -> Result<Option<Progress>, StoreError> {
        Ok(None)
    }
    async fn register(&self, _: Partition, _: Register) -> Result<u64, StoreError> {
        Ok(0)
    }
    async fn holds(&self, _: Partition) -> Result<Vec<Hold>, StoreError> {
        Ok(Vec::new())
    }
    async fn skips(&self, _: Partition) -> Result<Vec<Skip>, StoreError> {
        Ok(Vec::new())
    }
    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        Ok(skip.clone())
    }
    async fn settle_skip(&self, _: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        Ok(state)
    }
    async fn campaign_holds(&self, _: &CampaignId, _: Partition) -> Result<Vec<Hold>, StoreError> {
        Ok(Vec::new())
    }
    async fn mark(&self, _: &CampaignId) -> Result<Option<Mark>, StoreError> {
        Ok(None)
    }
    async fn versions(&self, _: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        Ok(Vec::new())
    }
    fn coupons(&self, _: &CampaignId, _: Selection) -> CouponPages {
        Box::pin(futures_util::stream::empty())
    }
    fn by_user(&self, _: &CampaignId, _: u8) -> ByUserPages {
        Box::pin(futures_util::stream::empty())
    }
    async fn campaigns(
        &self,
        _: Option<&CampaignId>,
        _: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        Ok(Vec::new())
    }
    async fn listed(&self, _: &CampaignId) -> Result<bool, StoreError> {
        Ok(false)
    }
    fn known(&self) -> CampaignPages {
        Box::pin(futures_util::stream::empty())
    }
}

/// A feed that reports when everything below an offset is settled.
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

/// Reads, decodes, routes, decides and publishes every record, with a store that discards rows.
/// Returns millions of records per second.
async fn through_everything(records: Arc<Vec<LogRecord>>) -> f64 {
    let (done, mut settled) = mpsc::channel(1);
    let end = records.len() as u64;
    let environment = environment(records, done);
    let started = Instant::now();
    let (supervisor, handle) =
        Actor::spawn(None, Supervisor, environment).await.expect("it starts");
    let assigned = SupervisorMessage::Ownership(Ownership::Assigned(0));
    supervisor.cast(assigned).expect("it runs");
    settled.recv().await.expect("it settles");
    let figure = end as f64 / started.elapsed().as_secs_f64() / 1e6;
    supervisor.kill();
    let _ = handle.await;
    figure
}

fn environment(records: Arc<Vec<LogRecord>>, done: mpsc::Sender<()>) -> Arc<Environment> {
    let codec = Codec::new(&keys(), "one", 1, 1);
    let end = records.len() as u64;
    let clock: SharedClock = Arc::new(SystemClock);
    Arc::new(Environment {
        log: Arc::new(FullLog { records }),
        store: Arc::new(NoStore),
        feed: Arc::new(EndFeed { end, done }),
        codec: codec.clone(),
        keys: keys(),
        log_epoch: 1,
        process: ProcessName::of(1),
        generations: Arc::new(HeardGenerations::new(1)),
        clock: clock.clone(),
        future_max_ms: None,
        limits: coupond::partition::flow::Limits::default(),
        directory: Arc::new(Directory::new(codec)),
        shared: Shared::new(&clock),
    })
}

/// Sends decoded batches to one coupon actor, as many concurrently as a partition does, and
/// receives its reports.
struct Batches;

struct BatchesState {
    batches: VecDeque<Batch>,
    handle: Option<CouponHandle>,
    started: Instant,
    reported: u64,
    done: Option<oneshot::Sender<f64>>,
}

impl BatchesState {
    fn send(&mut self) {
        if let (Some(handle), Some(batch)) = (&mut self.handle, self.batches.pop_front()) {
            handle.send(batch);
        }
    }
}

impl Actor for Batches {
    type Msg = PartitionMessage;
    type State = BatchesState;
    type Arguments = (VecDeque<Batch>, oneshot::Sender<f64>);

    async fn pre_start(
        &self,
        myself: ActorRef<PartitionMessage>,
        (batches, done): Self::Arguments,
    ) -> Result<BatchesState, ActorProcessingErr> {
        let (letters, _) = mpsc::channel(1);
        let environment = environment(Arc::default(), letters);
        let start = CouponStart {
            campaign: spring(),
            incarnation: 1,
            from: 0,
            partition: 0,
            consumer: myself.clone(),
        };
        let arguments = (environment, start);
        Actor::spawn_linked(None, CouponActor, arguments, myself.get_cell()).await?;
        let (started, done) = (Instant::now(), Some(done));
        Ok(BatchesState { batches, handle: None, started, reported: 0, done })
    }

    async fn handle(
        &self,
        _: ActorRef<PartitionMessage>,
        message: PartitionMessage,
        state: &mut BatchesState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PartitionMessage::Started { incarnation, actor, .. } => {
                state.handle = Some(CouponHandle::new(incarnation, actor));
                state.started = Instant::now();
                (0..BATCHES_MAX).for_each(|_| state.send());
            }
            PartitionMessage::Event(Event::Report(report)) => {
                state.reported += report.records.len() as u64;
                state.handle.iter_mut().for_each(CouponHandle::reported);
                state.send();
                let figure = state.reported as f64 / state.started.elapsed().as_secs_f64() / 1e6;
                if state.reported > USERS
                    && let Some(done) = state.done.take()
                {
                    let _ = done.send(figure);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Decides decoded batches in one actor, with a store that discards rows. Returns millions of
/// records per second.
async fn through_the_actor(records: &[(At, Record)]) -> f64 {
    let batch = |records: &[(At, Record)]| Batch {
        passed: records.last().map_or(0, |(at, _)| at.offset + 1),
        records: records.to_vec(),
    };
    let batches = records.chunks(BATCH_RECORDS_MAX).map(batch).collect();
    let (done, figure) = oneshot::channel();
    let (actor, handle) = Actor::spawn(None, Batches, (batches, done)).await.expect("it starts");
    let figure = figure.await.expect("every batch is reported");
    actor.kill();
    let _ = handle.await;
    figure
}

fn actor() {
    let mut decoded = vec![(at(0), definition())];
    decoded.extend((0..USERS).map(|user| (at(user + 1), request(user))));
    let codec = Codec::new(&keys(), "one", 1, 1);
    let encode = |(at, record): &(At, Record)| {
        let (_, encoded) = codec.encode(record);
        let key = record.campaign().as_str().as_bytes().to_vec();
        let (value, mac) = (encoded.value, Some(encoded.mac));
        LogRecord { offset: at.offset, time: at.time, key, value, mac }
    };
    let records: Arc<Vec<_>> = Arc::new(decoded.iter().map(encode).collect());
    let started = Instant::now();
    for record in records.iter() {
        std::hint::black_box(codec.decode(0, record));
    }
    let figure = records.len() as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!("decoded from JSON and MAC     {figure:6.2} million per second");
    for workers in [1, 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .expect("it starts");
        let (mut actor, mut whole) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let figures = (
                runtime.block_on(through_the_actor(&decoded)),
                runtime.block_on(through_everything(records.clone())),
            );
            if round > 0 {
                actor.push(figures.0);
                whole.push(figures.1);
            }
        }
        println!("millions issued per second, {workers} worker(s)");
        println!("  through the actor, in batches {:6.2}", median(actor));
        println!("  through the whole node        {:6.2}", median(whole));
    }
}

fn main() {
    core();
    actor();
}
