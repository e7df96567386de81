//! Membership of the consumer group: which partitions this node owns, and nothing else.
//!
//! The member reads no record: its partitions are paused, and readers fetch for themselves. So a
//! slow reader never delays a heartbeat, a rebalance never throws away what was fetched, and where
//! a reader starts has nothing to do with what is committed. Offsets are committed for people who
//! look at the lag; nothing here reads them back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Offset as NativeOffset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::failed;
use crate::{
    config::KafkaConfig,
    domain::ids::{Offset, Partition},
    kafka::client::{self, ClientLog, millis, native_offset, native_partition},
    log::{LogError, Ownership},
};

/// After which a silent member has lost its partitions: half of the time in which another node
/// takes over.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// By its heartbeat a member learns that the group is being shared out anew; a cooperative group
/// does that twice, so this is paid twice in each takeover.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

/// Offsets are committed no more often: lag tools look every few seconds at most.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How long the member waits for news; also how soon it notices that nobody listens any more.
const POLL_FOR: Duration = Duration::from_millis(100);

/// Pause before a member in a fatal state joins again.
const REJOIN_AFTER: Duration = Duration::from_secs(1);

/// Changes of ownership that may wait for their listener: two for each of 512 partitions.
const CHANGES_MAX: usize = 1_024;

/// Offsets to be committed, by partition.
type ProgressByPartition = Arc<Mutex<BTreeMap<Partition, Offset>>>;

/// A membership, alive as long as the receiver of its changes. It keeps nothing that sends them:
/// the changes end when the thread does, however it ends.
pub(super) struct Membership {
    settled: ProgressByPartition,
    left: watch::Receiver<bool>,
}

impl Membership {
    /// Joins the group on a thread of its own. The thread ends, and leaves the group, when the
    /// receiver is dropped.
    pub(super) fn join(
        config: &KafkaConfig,
        topic: &str,
    ) -> Result<(Self, mpsc::Receiver<Ownership>), LogError> {
        let (changes, listener) = mpsc::channel(CHANGES_MAX);
        let (leaving, left) = watch::channel(false);
        let settled = ProgressByPartition::default();
        let state = State {
            topic: topic.to_owned(),
            changes,
            owned: Mutex::default(),
            settled: Arc::clone(&settled),
        };
        let member = Member { settings: settings(config), state: Arc::new(state) };
        // The first one is made here, so that a setting that can't be is the caller's to know.
        let consumer = member.start().map_err(|error| failed("joining the group", error))?;
        let run = move || {
            member.run(consumer);
            // Nobody may be waiting for it.
            let _ = leaving.send(true);
        };
        std::thread::Builder::new().name("kafka-member".to_owned()).spawn(run).map_err(
            |error| LogError {
                operation: "starting the thread of the group member".to_owned(),
                source: Box::new(error),
            },
        )?;
        Ok((Self { settled, left }, listener))
    }

    /// Notes what is settled, for the next commit.
    pub(super) fn report_progress(&self, partition: Partition, next: Offset) {
        self.settled.lock().insert(partition, next);
    }

    /// Waits until the group was left; the receiver must be dropped first.
    pub(super) async fn left(&self) {
        // An error means that the thread is gone, and so is its member.
        let _ = self.left.clone().wait_for(|left| *left).await;
    }
}

fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = client::consumer(config);
    settings
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", millis(SESSION_TIMEOUT))
        .set("heartbeat.interval.ms", millis(HEARTBEAT_EVERY))
        // What slips in before a partition is paused is thrown away.
        .set("queued.min.messages", "1")
        .set("fetch.message.max.bytes", "1024");
    settings
}

/// What the thread and the callbacks share.
struct State {
    topic: String,
    changes: mpsc::Sender<Ownership>,
    owned: Mutex<BTreeSet<Partition>>,
    /// By partition, what is settled and not yet committed.
    settled: ProgressByPartition,
}

impl State {
    fn say(&self, change: Ownership) {
        let (partition, fresh) = match change {
            Ownership::Assigned(partition) => (partition, self.owned.lock().insert(partition)),
            Ownership::Revoked(partition) => {
                self.settled.lock().remove(&partition);
                (partition, self.owned.lock().remove(&partition))
            }
        };
        if fresh {
            info!(partition, ?change, "ownership changed");
            // Whoever no longer listens is leaving, and the thread finds out by itself.
            let _ = self.changes.blocking_send(change);
        }
    }

    fn revoke_all(&self) {
        let owned = self.owned.lock().clone();
        owned.into_iter().for_each(|partition| self.say(Ownership::Revoked(partition)));
    }

    /// What is to be committed now: settled, and of a partition that is owned.
    fn to_commit(&self) -> Option<TopicPartitionList> {
        let settled = std::mem::take(&mut *self.settled.lock());
        let owned = self.owned.lock();
        let mut list = TopicPartitionList::new();
        for (partition, next) in settled.into_iter().filter(|(p, _)| owned.contains(p)) {
            let offset = NativeOffset::Offset(native_offset(next));
            // Only an offset that is none can be refused, and this is one.
            let _ = list.add_partition_offset(&self.topic, native_partition(partition), offset);
        }
        (list.count() > 0).then_some(list)
    }
}

type MemberConsumer = BaseConsumer<MemberContext>;

/// Lives on its thread.
struct Member {
    settings: ClientConfig,
    state: Arc<State>,
}

impl Member {
    fn start(&self) -> Result<MemberConsumer, KafkaError> {
        let context =
            MemberContext { log: ClientLog::new("member"), state: Arc::clone(&self.state) };
        let consumer = BaseConsumer::from_config_and_context(&self.settings, context)?;
        consumer.subscribe(&[&self.state.topic])?;
        Ok(consumer)
    }

    fn run(self, first: MemberConsumer) {
        let mut consumer = Some(first);
        while !self.state.changes.is_closed() {
            match consumer.take() {
                Some(running) => self.serve(&running),
                None => match self.start() {
                    Ok(again) => {
                        consumer = Some(again);
                        continue;
                    }
                    Err(error) => warn!(%error, "group could not be joined, trying again"),
                },
            }
            self.state.revoke_all();
            if !self.state.changes.is_closed() {
                std::thread::park_timeout(REJOIN_AFTER);
            }
        }
        debug!("group member ended");
    }

    /// Until nobody listens any more, or the member is in a fatal state. Its caller drops the
    /// consumer then, which leaves the group.
    fn serve(&self, consumer: &MemberConsumer) {
        let mut committed = Instant::now();
        while !self.state.changes.is_closed() && !consumer.context().log.is_fatal() {
            // Records that came before a pause and errors of single brokers are nobody's business.
            let _ = consumer.poll(POLL_FOR);
            if committed.elapsed() >= COMMIT_EVERY {
                committed = Instant::now();
                self.commit(consumer);
            }
        }
        self.commit(consumer);
    }

    fn commit(&self, consumer: &MemberConsumer) {
        let Some(list) = self.state.to_commit() else { return };
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            debug!(%error, "offsets not committed");
        }
    }
}

/// Translates what the group says into changes of ownership.
struct MemberContext {
    log: ClientLog,
    state: Arc<State>,
}

impl MemberContext {
    fn partitions<'a>(
        &'a self,
        list: &'a TopicPartitionList,
    ) -> impl Iterator<Item = Partition> + 'a {
        // The library panics when it is asked for the elements of an empty list.
        let elements = if list.count() > 0 { list.elements() } else { Vec::new() };
        elements
            .into_iter()
            .filter(|element| element.topic() == self.state.topic)
            .filter_map(|element| Partition::try_from(element.partition()).ok())
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => self
                .partitions(list)
                .for_each(|partition| self.state.say(Ownership::Revoked(partition))),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => warn!(%error, "rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        if list.count() > 0
            && let Err(error) = consumer.pause(list)
        {
            debug!(%error, "member's partitions not paused");
        }
        self.partitions(list).for_each(|partition| self.state.say(Ownership::Assigned(partition)));
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // Of a generation that is over, for example: the next owner commits.
            debug!(%error, "offsets not committed");
        }
    }
}
