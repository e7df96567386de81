//! Probes whether this node can decide, says so to the other nodes, and lets it leave the group when
//! it cannot. A shell around [`Liveness`], which is pure.
//!
//! In production it runs on a thread of its own: what blocks the workers of the node's runtime does
//! not block the probes of them.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{join_all, ready},
};
use parking_lot::Mutex;
use ractor::{ActorRef, RpcReplyPort, rpc::CallResult};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    Environment,
    membership::Wish,
    messages::{PartitionMessage, SupervisorMessage},
};
use crate::{
    clock::Ticks,
    domain::{ids::Partition, rows::NodeRow},
    log::ReadError,
    partition::liveness::{
        Event, Liveness, PROBE_EVERY_MS, PROBE_MAX_MS, Part, Probed, SAY_EVERY_MS, Standing, Tried,
        Verdict, Why,
    },
    store::NodeRows,
    telemetry::{Chain, metrics},
    wire::feed_message::NodeMessage,
};

/// Records that a probe reads of a partition: the last known one, and the next one if there is one,
/// which shows that the live reader hangs.
const PROBE_RECORDS: usize = 2;

/// Probes of one node.
pub(crate) struct Prober {
    environment: Arc<Environment>,
    nodes: Arc<dyn NodeRows>,
    partitions: u32,
    supervisor: ActorRef<SupervisorMessage>,
    /// The runtime of the node's actors.
    runtime: Handle,
    wishes: mpsc::Sender<Wish>,
    liveness: Mutex<Liveness>,
    /// Partitions whose logs did not answer the last probe of them.
    failed: Mutex<BTreeSet<Partition>>,
    /// Counts probes and sayings, so that each goes to another partition.
    turn: AtomicUsize,
}

impl Prober {
    /// Creates the prober of a node whose actors run on the current runtime. It says over `wishes`
    /// whether the node should be a member.
    pub(crate) fn new(
        environment: Arc<Environment>,
        nodes: Arc<dyn NodeRows>,
        partitions: u32,
        supervisor: ActorRef<SupervisorMessage>,
        wishes: mpsc::Sender<Wish>,
    ) -> Self {
        let liveness = Mutex::new(Liveness::new(environment.process.clone()));
        let (runtime, failed, turn) = (Handle::current(), Mutex::default(), AtomicUsize::new(0));
        Self { environment, nodes, partitions, supervisor, runtime, wishes, liveness, failed, turn }
    }

    /// Probes, and talks with the other nodes. Never returns. A panic must not end the membership, which
    /// runs beside it.
    pub(crate) async fn run(self) {
        loop {
            let work = async { tokio::join!(self.probe_on(), self.talk()) };
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!("probing panicked, it begins again");
            }
            self.environment.clock.sleep(Duration::from_millis(PROBE_EVERY_MS)).await;
        }
    }

    async fn probe_on(&self) {
        let every = Duration::from_millis(PROBE_EVERY_MS);
        let mut ticks = Ticks::new(self.environment.clock.clone(), every);
        loop {
            ticks.tick().await;
            let probed = self.probe().await;
            self.conclude(probed);
            self.forget_dead().await;
        }
    }

    /// Says over the feed what the row says, and hears what other nodes say.
    async fn talk(&self) {
        let Environment { clock, feed, log_epoch, .. } = &*self.environment;
        let mut heard = feed.listen();
        let mut ticks = Ticks::new(clock.clone(), Duration::from_millis(SAY_EVERY_MS));
        loop {
            tokio::select! {
                biased;
                () = ticks.tick() => {
                    let node = self.liveness.lock().next_row();
                    // Each partition in turn: one that has no leader must not silence this node.
                    let (log_epoch, partition) = (*log_epoch, self.next_partition());
                    let said = feed.say(NodeMessage { log_epoch, partition, node }).await;
                    if let Err(error) = said {
                        tracing::debug!(error = %Chain(&error), "other nodes not told");
                    }
                }
                Some(said) = heard.recv() => {
                    let now_ms = self.environment.now_ms();
                    self.liveness.lock().step(now_ms, Event::Said(said));
                }
            }
        }
    }

    fn next_partition(&self) -> Partition {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        turn as Partition % self.partitions.max(1)
    }

    async fn probe(&self) -> Probed {
        let began_ms = self.environment.now_ms();
        let row = self.liveness.lock().next_row();
        let (rows, readers, workers) =
            tokio::join!(self.probe_store(&row), self.probe_readers(), self.probe_workers());
        let store = rows.is_some();
        if let Some(rows) = rows {
            self.liveness.lock().step(self.environment.now_ms(), Event::Rows(rows));
        }
        let tried = workers.into_iter().chain(readers).collect();
        Probed { began_ms, store, tried, stored: self.environment.shared.stored() }
    }

    /// Runs a part of a probe for as long as it may take. Returns none if it has failed.
    async fn within<T, E>(&self, what: &str, work: impl Future<Output = Result<T, E>>) -> Option<T>
    where
        E: std::error::Error,
    {
        let clock = &self.environment.clock;
        match clock.timeout(Duration::from_millis(PROBE_MAX_MS), work).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => tracing::debug!(what, error = %Chain(&error), "probe failed"),
            Err(_) => tracing::debug!(what, "probe had no answer in time"),
        }
        None
    }

    async fn probe_store(&self, row: &NodeRow) -> Option<Vec<NodeRow>> {
        let write_and_read = async {
            self.nodes.write_node(row).await?;
            self.nodes.nodes().await
        };
        self.within("store", write_and_read).await
    }

    /// Probes the log of a partition that this node owns, or of any if it owns none. One whose probe has
    /// failed is probed again beside it, until it answers, so that no sound one hides it: neither while
    /// the node owns it, nor when it has left because of it.
    async fn probe_readers(&self) -> Vec<Tried> {
        let (now_ms, turn) = (self.environment.now_ms(), self.turn.load(Ordering::Relaxed));
        let places = &self.environment.shared.places;
        let own = places.to_probe(now_ms, turn);
        let next = own.unwrap_or_else(|| self.next_partition());
        let matters = |it: &Partition| *it != next && (own.is_none() || places.of(*it).is_some());
        let failed = self.failed.lock().iter().copied().find(matters);
        join_all(failed.into_iter().chain([next]).map(|partition| self.probe_reader(partition)))
            .await
    }

    async fn probe_reader(&self, partition: Partition) -> Tried {
        let Environment { log, shared, .. } = &*self.environment;
        let place = shared.places.of(partition);
        let last = place.as_ref().and_then(|place| place.last);
        let read = async {
            let Some(last) = last else { return log.bounds(partition).await.map(drop) };
            let mut reader = log.open(partition, last).await?;
            match reader.read(PROBE_RECORDS).await {
                Ok(records) => {
                    let found = records.last().map(|record| record.offset);
                    found.into_iter().for_each(|offset| shared.places.found(partition, offset));
                    Ok(())
                }
                Err(ReadError::Failed(error)) => Err(error),
                // The log answers. What it says is a matter of the partition, which may halt.
                Err(_) => Ok(()),
            }
        };
        let answered = self.within("reader", read).await.is_some();
        let mut failed = self.failed.lock();
        let _changed = if answered { failed.remove(&partition) } else { failed.insert(partition) };
        let place = place.and_then(|place| place.of_reader(partition));
        Tried { part: Part::Reader, place, answered }
    }

    /// Asks the supervisor, every partition consumer, and the runtime on which they run.
    async fn probe_workers(&self) -> Vec<Tried> {
        let ping = SupervisorMessage::Ping;
        let supervisor = self.answers("supervisor", self.supervisor.call(ping, None));
        let runs = self.within("runtime", self.runtime.spawn(ready(())));
        let consumers =
            self.environment.shared.places.all().into_iter().map(async |(partition, place)| {
                let asked = place.consumer.call(PartitionMessage::Ping, None);
                let answered = self.answers("consumer", asked).await;
                Tried { part: Part::Worker, place: place.of_consumer(partition), answered }
            });
        let (supervisor, runs, mut tried) = tokio::join!(supervisor, runs, join_all(consumers));
        for answered in [supervisor, runs.is_some()] {
            tried.push(Tried { part: Part::Worker, place: None, answered });
        }
        tried
    }

    async fn answers<E: std::error::Error>(
        &self,
        what: &str,
        asked: impl Future<Output = Result<CallResult<()>, E>>,
    ) -> bool {
        matches!(self.within(what, asked).await, Some(CallResult::Success(())))
    }

    fn conclude(&self, probed: Probed) {
        let now_ms = self.environment.now_ms();
        let failed = what_failed(&probed);
        let (verdict, can_decide, standing) = {
            let mut liveness = self.liveness.lock();
            let verdict = liveness.step(now_ms, Event::Probed(probed));
            (verdict, liveness.can_decide(), liveness.standing(now_ms))
        };
        metrics::node_can_decide(can_decide);
        self.environment.shared.note_probe(can_decide);
        let shown = (standing != Standing::Sound).then(|| (standing, failed.clone()));
        self.environment.directory.stands_as(shown);
        let wish = match verdict {
            Verdict::Stay => return,
            Verdict::Leave(why) => {
                metrics::membership_left(match why {
                    Why::AnotherDecides(_) => "another_decides",
                    Why::NothingAnswers => "nothing_answers",
                });
                tracing::error!(failed, ?why, "node cannot decide, it leaves the consumer group");
                Wish::Away
            }
            Verdict::Join => {
                tracing::info!("node can decide again, it joins the consumer group");
                Wish::Member
            }
        };
        // The membership takes each wish at once, also while it waits for a broker.
        if self.wishes.try_send(wish).is_err() {
            tracing::error!("consumer group membership does not answer");
        }
    }

    async fn forget_dead(&self) {
        if !self.liveness.lock().can_decide() {
            return;
        }
        let stale = self.liveness.lock().stale_row(self.environment.now_ms());
        if let Some((name, number)) = stale {
            // The next probe tries again.
            let _forgotten = self.within("forget", self.nodes.forget_node(&name, number)).await;
        }
    }
}

/// Says what has failed in a probe.
fn what_failed(probed: &Probed) -> String {
    let store = (!probed.store).then(|| "the store does not answer".to_owned());
    let tried = probed.tried.iter().filter(|tried| !tried.answered).map(|tried| {
        match (tried.part, tried.place) {
            (Part::Reader, None) => "the log does not answer".to_owned(),
            (Part::Reader, Some(at)) => format!("partition {} cannot be read", at.partition),
            (Part::Worker, None) => "the node's workers do not answer".to_owned(),
            (Part::Worker, Some(at)) => format!("partition {} does not answer", at.partition),
        }
    });
    store.into_iter().chain(tried).collect::<Vec<_>>().join(", ")
}

/// Answers a probe.
pub(super) fn answer(reply: RpcReplyPort<()>) {
    // The probe may have given up.
    let _gone = reply.send(());
}
