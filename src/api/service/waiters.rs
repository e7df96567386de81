//! The waiters of this node, and the task that follows the decision feed for them. A shell around
//! [`Follower`], which is pure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::NodeClock;
use crate::{
    answer::{
        Moment,
        follower::{Effect, Event, Follower, Heard, Limits, Message, Place, Registered, User},
    },
    domain::{
        halt::Unread,
        ids::{Offset, Partition},
        invariant::Invariant,
    },
    feed::{DecisionFeed, FeedEvent, HeardGenerations},
    retry::Backoff,
    telemetry::metrics,
    wire::feed_message::{CampaignNews, Condition, FeedDecision, FeedMessage},
};

/// Pauses between attempts to follow the feed.
const FOLLOW_AGAIN: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(5));

/// An event that wakes a waiter.
#[derive(Debug)]
pub(super) enum Signal {
    /// The decision arrived.
    Decided(FeedDecision),
    /// The feed may have lost the decision.
    AskStore,
    /// Another waiter has taken the place: this one had more than its share.
    Displaced,
}

/// Holds the latest signal of a waiter. Only the latest counts: a decision follows `AskStore`,
/// never the other way round.
#[derive(Debug, Default)]
struct SignalSlot {
    signal: Mutex<Option<Signal>>,
    changed: Notify,
}

impl SignalSlot {
    fn set(&self, signal: Signal) {
        let mut latest = self.signal.lock();
        // Who has lost its place hears nothing any more, and must know it.
        if !matches!(*latest, Some(Signal::Displaced)) {
            *latest = Some(signal);
        }
        self.changed.notify_one();
    }
}

/// The result of registering a waiter.
#[derive(Debug)]
pub(super) enum Registration {
    /// The decision is already known.
    Known(FeedDecision),
    /// The waiter, and whether the store must be asked at once.
    Waiting(Waiter, bool),
    /// No place is free.
    Full,
}

/// A registered waiter. Dropping it frees its place.
#[derive(Debug)]
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    place: Place,
    slot: Arc<SignalSlot>,
}

impl Waiter {
    /// Waits for the next signal. Cancel-safe.
    pub(super) async fn signal(&self) -> Signal {
        loop {
            if let Some(signal) = self.slot.signal.lock().take() {
                return signal;
            }
            self.slot.changed.notified().await;
        }
    }

    /// Waits for the decision, while the store is asked anyway. None if the place is lost. Cancel-safe.
    pub(super) async fn decision(&self) -> Option<FeedDecision> {
        loop {
            match self.signal().await {
                Signal::Decided(decision) => return Some(decision),
                Signal::Displaced => return None,
                Signal::AskStore => {}
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut follower = self.waiters.follower.lock();
        follower.leave(self.place);
        metrics::waiters(follower.waiters());
    }
}

/// The feed follower of this node, and its waiters.
#[derive(Debug)]
pub(super) struct Waiters {
    follower: Mutex<Follower<FeedDecision, Arc<SignalSlot>>>,
    followed: AtomicBool,
    generations: Arc<HeardGenerations>,
    clock: NodeClock,
    log_epoch: u32,
}

impl Waiters {
    pub(super) fn new(
        clock: NodeClock,
        (log_epoch, partitions): (u32, u32),
        (waiters, decisions): (usize, usize),
        generations: Arc<HeardGenerations>,
    ) -> Self {
        let limits = Limits { decisions, waiters };
        Self {
            follower: Mutex::new(Follower::new(partitions, limits)),
            followed: AtomicBool::new(false),
            generations,
            clock,
            log_epoch,
        }
    }

    /// Follows `feed`, again and again with growing pauses. Never returns.
    pub(super) async fn follow(self: Arc<Self>, feed: Arc<dyn DecisionFeed>) {
        let mut pauses = FOLLOW_AGAIN.pauses();
        loop {
            let pause = match feed.follow().await {
                Ok(mut events) => {
                    pauses = FOLLOW_AGAIN.pauses();
                    let _followed = Followed::new(&self);
                    // Messages published before this moment never reach this node: waiters that
                    // registered earlier have to ask the store.
                    self.step(FeedEvent::Gap);
                    while let Some(event) = events.recv().await {
                        self.step(event);
                    }
                    tracing::warn!("decision feed ended, following it again");
                    pauses.next_pause()
                }
                Err(error) => pauses.failed("following the decision feed", &error),
            };
            self.clock.sleep(pause).await;
        }
    }

    /// Returns whether the feed is followed now.
    pub(super) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }

    fn step(&self, event: FeedEvent) {
        let event = match event {
            FeedEvent::Gap => Event::Gap,
            FeedEvent::Message(message) if message.log_epoch == self.log_epoch => {
                self.generations.hear(message.partition, message.sender.generation);
                Event::Message(follower_message(&message))
            }
            // Offsets of another log epoch name other records.
            FeedEvent::Message(_) => return,
        };
        let now = self.clock.now();
        let mut follower = self.follower.lock();
        let effects = follower.step(now, event);
        let waiters = follower.waiters();
        // Released before waiters are woken: each of them takes this lock to leave its place.
        drop(follower);
        if effects.is_empty() {
            return;
        }
        metrics::waiters(waiters);
        for effect in effects {
            match effect {
                Effect::Tell(slot, decision) => slot.set(Signal::Decided(decision)),
                Effect::AskStore(slot) => slot.set(Signal::AskStore),
                Effect::Took(latency) => metrics::issue_latency(latency),
                Effect::Ignored(why) => metrics::feed_lost(why.name()),
                Effect::Contradiction { partition, offset } => {
                    metrics::violation(Invariant::FinalAnswer);
                    tracing::error!(partition, offset, "feed sent two decisions for one position");
                }
            }
        }
    }

    /// Registers a waiter of a user for a position. One without a user has a place beside those of
    /// clients.
    pub(super) fn register(
        self: &Arc<Self>,
        partition: Partition,
        offset: Offset,
        user: Option<User>,
    ) -> Registration {
        let slot = Arc::new(SignalSlot::default());
        let mut follower = self.follower.lock();
        let displaced = user.and_then(|user| follower.make_room(partition, offset, user));
        displaced.into_iter().for_each(|slot| slot.set(Signal::Displaced));
        match follower.register(partition, offset, slot.clone(), user) {
            Registered::Known(decision) => Registration::Known(decision),
            Registered::Full => Registration::Full,
            Registered::Waiting { place, ask_store } => {
                metrics::waiters(follower.waiters());
                Registration::Waiting(Waiter { waiters: self.clone(), place, slot }, ask_store)
            }
        }
    }

    /// Returns the decision of a position, if this node remembers it.
    pub(super) fn decision(&self, partition: Partition, offset: Offset) -> Option<FeedDecision> {
        self.follower.lock().decision(partition, offset).copied()
    }

    /// Returns what was heard of a campaign, by its hash.
    pub(super) fn heard(&self, campaign: u64) -> Option<Heard> {
        self.follower.lock().heard(campaign)
    }

    /// Returns when the definition of some campaign may have changed last.
    pub(super) fn definitions_changed_at(&self) -> Option<Moment> {
        self.follower.lock().definitions_changed_at()
    }

    /// Returns the watermark of a partition, if its owner was ever heard of.
    pub(super) fn watermark(&self, partition: Partition) -> Option<Offset> {
        self.follower.lock().watermark(partition)
    }

    /// Returns whether the owner of a partition tells no decisions: it is silent, or the partition
    /// is halted.
    pub(super) fn tells_nothing(&self, partition: Partition) -> bool {
        self.follower.lock().tells_nothing(self.clock.now(), partition)
    }

    /// Lists the partitions whose owner has been silent for longer than `within`.
    pub(super) fn silent(&self, within: Duration) -> Vec<Partition> {
        let now = self.clock.now();
        let follower = self.follower.lock();
        let silent = |partition: &Partition| follower.is_silent_for(now, *partition, within);
        follower.partitions().filter(silent).collect()
    }

    /// Lists the halted partitions with their reasons.
    pub(super) fn halted(&self) -> Vec<(Partition, String)> {
        let now = self.clock.now();
        let follower = self.follower.lock();
        let halted = |partition| Some((partition, follower.halted(now, partition)?.to_owned()));
        follower.partitions().filter_map(halted).collect()
    }

    /// Lists the partitions that decide, with what their owners say of them.
    pub(super) fn conditions(&self) -> Vec<(Partition, Condition)> {
        let now = self.clock.now();
        let follower = self.follower.lock();
        let condition = |partition| Some((partition, follower.condition(now, partition)?.clone()));
        follower.partitions().filter_map(condition).collect()
    }

    /// Returns what the owner of a partition says of it, while that decides.
    pub(super) fn condition(&self, partition: Partition) -> Option<Condition> {
        self.follower.lock().condition(self.clock.now(), partition).cloned()
    }

    /// Returns why a partition is halted, and the range that halts it, as far as its owner has said.
    pub(super) fn halt(&self, partition: Partition) -> Option<(String, Option<Unread>)> {
        let (now, follower) = (self.clock.now(), self.follower.lock());
        let reason = follower.halted(now, partition)?.to_owned();
        Some((reason, follower.unread(now, partition)))
    }

    /// Returns the number of records of a partition that wait for a decision.
    ///
    /// # Errors
    /// The reason, if the partition is halted.
    pub(super) fn lag(&self, partition: Partition) -> Result<u64, String> {
        let follower = self.follower.lock();
        match follower.halted(self.clock.now(), partition) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(follower.lag(partition)),
        }
    }

    /// Measures the latency of a request that was received at `received`, once it is decided.
    pub(super) fn measure(&self, partition: Partition, offset: Offset, received: Moment) {
        let now = self.clock.now();
        let took = self.follower.lock().measure(now, partition, offset, received);
        took.into_iter().for_each(metrics::issue_latency);
    }

    /// Records an acknowledged append. `known` is the watermark that was known before the append
    /// was sent.
    ///
    /// # Errors
    /// The reason why this node treats the partition as halted from now on: the append landed
    /// below `known`, so the log lost its tail.
    pub(super) fn acknowledged(
        &self,
        partition: Partition,
        offset: Offset,
        known: Option<Offset>,
    ) -> Result<(), String> {
        let result = self.follower.lock().acknowledged(partition, offset, known);
        if let Err(reason) = &result {
            metrics::violation(Invariant::StopRatherThanLie);
            tracing::error!(
                summed = true,
                partition,
                offset,
                reason,
                "partition halted on this node"
            );
        }
        result
    }

    /// Returns the number of waiters.
    #[cfg(test)]
    pub(super) fn waiters(&self) -> usize {
        self.follower.lock().waiters()
    }
}

fn follower_message(message: &FeedMessage) -> Message<FeedDecision> {
    let heard = |news: &CampaignNews| {
        let (issued, below) = match message.highest(news) {
            Some((sequence, offset)) => (sequence, offset.saturating_add(1)),
            None => (0, 0),
        };
        Some((news.campaign, Heard { issued, below, version: news.version? }))
    };
    Message {
        partition: message.partition,
        sender: message.sender.clone(),
        to: message.to,
        end: message.end,
        waiting: message.waiting,
        condition: message.condition.clone(),
        halted: message.halted.clone(),
        unread: message.unread,
        decisions: message.decisions.iter().map(|it| (it.offset, *it)).collect(),
        campaigns: message.campaigns.iter().filter_map(heard).collect(),
    }
}

/// Marks the feed as followed until dropped, also when the following task panics.
struct Followed<'a>(&'a Waiters);

impl<'a> Followed<'a> {
    fn new(waiters: &'a Waiters) -> Self {
        waiters.followed.store(true, Ordering::Relaxed);
        Self(waiters)
    }
}

impl Drop for Followed<'_> {
    fn drop(&mut self) {
        self.0.followed.store(false, Ordering::Relaxed);
    }
}
