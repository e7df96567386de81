//! Membership of the consumer group, which determines the partitions that this node owns.
//!
//! The member reads no records: its partitions are paused, and readers have consumers of their own.
//! So a slow reader never delays a heartbeat, a rebalance never discards fetched records, and the
//! start of a reader does not depend on committed offsets. Offsets are committed for lag tools only.

use std::{
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

use super::failed;
use crate::{
    config::KafkaConfig,
    domain::ids::{Offset, Partition},
    kafka::{
        client::{self, ClientLog, millis, native_offset, native_partition},
        errors::Meaning,
        trouble::missing_right,
    },
    log::{LogError, Ownership, ownership::OwnedPartitions},
};

/// Silence after which a member loses its partitions: half of the 12 s in which another node takes
/// over.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// Interval of heartbeats, by which a member also learns of a rebalance. A cooperative rebalance has
/// two rounds, so a takeover waits for two heartbeats.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

/// Interval of commits. Lag tools read every few seconds at most.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Longest wait for an event, and so for noticing that the receiver of changes was dropped.
const POLL_FOR: Duration = Duration::from_millis(100);

/// Pause before a member in a fatal state joins again.
const REJOIN_AFTER: Duration = Duration::from_secs(1);

/// Most changes of ownership that wait for the receiver: two for each of 512 partitions.
const CHANGES_MAX: usize = 1_024;

/// Handle of a membership, which lives as long as the receiver of its changes. The handle has no
/// sender of changes, so the receiver ends with the thread even if that panics.
pub(super) struct Membership {
    shown: Arc<Shown>,
    left: watch::Receiver<bool>,
}

/// What a membership shows to its handle.
#[derive(Default)]
struct Shown {
    owned: Mutex<OwnedPartitions>,
    /// Why the group gives this node nothing, by its last error since it gave something.
    trouble: Mutex<Option<String>>,
}

impl Membership {
    /// Joins the group on a new thread. When the receiver is dropped, the thread leaves the group and
    /// ends.
    pub(super) fn join(
        config: &KafkaConfig,
        topic: &str,
    ) -> Result<(Self, mpsc::Receiver<Ownership>), LogError> {
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        let (leaving, left) = watch::channel(false);
        let shown = Arc::new(Shown::default());
        let state = State {
            topic: topic.to_owned(),
            config: config.clone(),
            changes,
            shown: Arc::clone(&shown),
        };
        let member = Member { settings: settings(config), state: Arc::new(state) };
        // Started here and not on the thread, so that the caller gets an error about a setting.
        let consumer = member.start().map_err(|error| failed("joining the group", error))?;
        let run = move || {
            member.run(consumer);
            // An error means that the membership was dropped.
            let _ = leaving.send(true);
        };
        std::thread::Builder::new().name("kafka-member".to_owned()).spawn(run).map_err(
            |error| LogError {
                operation: "starting the thread of the group member".to_owned(),
                source: Box::new(error),
            },
        )?;
        Ok((Self { shown, left }, receiver))
    }

    /// Notes the progress of a partition for the next commit.
    pub(super) fn report_progress(&self, partition: Partition, next: Offset) {
        self.shown.owned.lock().note_progress(partition, next);
    }

    /// Returns why the group gives this node nothing, if it says so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shown.trouble.lock().clone()
    }

    /// Waits until this node has left the group. The receiver of changes must be dropped before.
    pub(super) async fn left(&self) {
        // An error means that the thread panicked, which dropped the member.
        let _ = self.left.clone().wait_for(|left| *left).await;
    }
}

fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = client::consumer(config);
    settings
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", millis(SESSION_TIMEOUT))
        .set("heartbeat.interval.ms", millis(HEARTBEAT_EVERY))
        // Records fetched before the partition is paused are discarded, so fetch few.
        .set("queued.min.messages", "1")
        .set("fetch.message.max.bytes", "1024");
    settings
}

/// State of a membership, shared by its thread and the library's callbacks.
struct State {
    topic: String,
    config: KafkaConfig,
    changes: mpsc::Sender<Ownership>,
    shown: Arc<Shown>,
}

impl State {
    /// Makes a change of ownership and reports it.
    fn announce(&self, change: impl FnOnce(&mut OwnedPartitions) -> Vec<Ownership>) {
        let changes = change(&mut self.shown.owned.lock());
        for change in changes {
            let (Ownership::Assigned(partition) | Ownership::Revoked(partition)) = change;
            tracing::info!(partition, ?change, "partition ownership changed");
            // An error means that the receiver was dropped; the thread notices and leaves.
            let _ = self.changes.blocking_send(change);
        }
    }

    /// Notes that the group refuses this member, for example because another consumer in it has
    /// another strategy of assignment. The library tries again for as long as it takes.
    fn noticed(&self, error: &KafkaError) {
        if Meaning::of(error) != Meaning::GroupRefuses {
            // The context logs it. The member reads nothing, so it needs no offset and no record.
            return;
        }
        let code = error.rdkafka_error_code();
        let right = code.and_then(|code| missing_right(code, &self.config));
        let text = match right {
            Some(right) => format!("{error}; {right}"),
            None => error.to_string(),
        };
        let mut trouble = self.shown.trouble.lock();
        if trouble.as_ref() != Some(&text) {
            tracing::error!(error = text, "consumer group gives this node no partitions");
            *trouble = Some(text);
        }
    }

    /// Takes the progress to commit now.
    fn take_progress(&self) -> Option<TopicPartitionList> {
        let progress = self.shown.owned.lock().take_progress();
        let mut list = TopicPartitionList::new();
        for (partition, next) in progress {
            let offset = NativeOffset::Offset(native_offset(next));
            // Fails only for a negative offset.
            let _ = list.add_partition_offset(&self.topic, native_partition(partition), offset);
        }
        (list.count() > 0).then_some(list)
    }
}

type MemberConsumer = BaseConsumer<MemberContext>;

/// The member of the group, on its thread.
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
                    Err(error) => tracing::warn!(%error, "consumer group not joined, retrying"),
                },
            }
            // The consumer that owned the partitions was dropped, without a callback.
            self.state.announce(OwnedPartitions::revoke_all);
            if !self.state.changes.is_closed() {
                std::thread::park_timeout(REJOIN_AFTER);
            }
        }
        tracing::debug!("group member ended");
    }

    /// Serves callbacks until the receiver of changes is dropped or the member is in a fatal state.
    /// The caller then drops the consumer, which leaves the group.
    fn serve(&self, consumer: &MemberConsumer) {
        let mut committed_at = Instant::now();
        while !self.state.changes.is_closed() && !consumer.context().log.is_fatal() {
            // Runs the callbacks. Returns a record only if it was fetched before the pause.
            if let Some(Err(error)) = consumer.poll(POLL_FOR) {
                self.state.noticed(&error);
            }
            if committed_at.elapsed() >= COMMIT_EVERY {
                committed_at = Instant::now();
                self.commit(consumer);
            }
        }
        self.commit(consumer);
    }

    fn commit(&self, consumer: &MemberConsumer) {
        let Some(list) = self.state.take_progress() else { return };
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "offsets not committed");
        }
    }
}

/// Translates callbacks of the library into changes of ownership.
struct MemberContext {
    log: ClientLog,
    state: Arc<State>,
}

impl MemberContext {
    fn partitions<'a>(
        &'a self,
        list: &'a TopicPartitionList,
    ) -> impl Iterator<Item = Partition> + 'a {
        // `elements` panics on an empty list.
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
            Rebalance::Revoke(list) => {
                self.state.announce(|owned| owned.revoke(self.partitions(list)));
            }
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        *self.state.shown.trouble.lock() = None;
        if list.count() > 0
            && let Err(error) = consumer.pause(list)
        {
            // Harmless: the member discards what it fetches.
            tracing::debug!(%error, "partitions of the group member not paused");
        }
        self.state.announce(|owned| owned.assign(self.partitions(list)));
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // For example after a rebalance. The next owner commits.
            tracing::debug!(%error, "offsets not committed");
        }
    }
}
