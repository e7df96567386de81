//! Measures decisions per second in the pure core, through the actor and through a whole node with
//! ports in memory, and the memory of holders.
//!
//! `cargo bench --bench decisions` prints medians of five rounds, after a warm-up round.

#[path = "support/ports.rs"]
mod ports;

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use coupond::{
    actors::{
        CouponHandle, Environment,
        coupon::CouponActor,
        messages::{CouponStart, PartitionMessage, SupervisorMessage},
        supervisor::Supervisor,
    },
    domain::{
        campaign::{At, Campaign},
        definition::Terms,
        ids::{CampaignId, Timestamp, UserId},
        record::{Change, Control, Record, Request},
    },
    log::Ownership,
    partition::{
        flow::{BATCH_RECORDS_MAX, BATCHES_MAX, Event},
        fold::Batch,
    },
    wire::{LogRecord, codec::Codec, feed_message::FeedMessage},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};

use self::ports::{NoStore, PacedLog, TellingFeed, keys};

const USERS: u64 = 1_000_000;
const ROUNDS: usize = 5;

fn spring() -> CampaignId {
    CampaignId::parse("spring").expect("it is an id")
}

fn definition() -> Record {
    let terms = Terms::of(USERS as u32);
    let change = Change::Defined { terms };
    Record::from(Control::once("token", spring(), None, change))
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
    let end = records.len() as u64;
    let tell = move |message: &FeedMessage| {
        if message.to == end {
            let _ = done.try_send(());
        }
    };
    let log = PacedLog { records, due: Arc::default(), begun: Instant::now() };
    ports::environment(log, NoStore { takes: |_| Duration::ZERO }, TellingFeed(Box::new(tell)))
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
        is_replay: false,
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
    let encode = |(at, record): &(At, Record)| ports::encoded(&codec, at.offset, record);
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
