//! Who waits for which decision: the shell around the feed follower.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::Notify;

use super::{NodeClock, tasks::lock};
use crate::{
    answer::{
        Moment,
        follower::{
            Effect, Event, Follower, Limits, Message, Place, RECENT_DECISIONS_MAX, Registered,
        },
    },
    domain::{
        ids::{Offset, Partition},
        invariant::Invariant,
    },
    feed::{DecisionFeed, FeedEvent},
    telemetry::metrics,
    wire::feed_message::{FeedDecision, FeedMessage},
};

/// Pauses between attempts to follow the feed: the first, doubled up to the last.
const FOLLOW_AGAIN_AFTER: Duration = Duration::from_millis(100);
const FOLLOW_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

/// A decision as the feed brought it; shares the message.
#[derive(Debug, Clone)]
pub(super) struct HeardDecision {
    message: Arc<FeedMessage>,
    index: usize,
}

impl HeardDecision {
    /// The decision.
    pub(super) fn settled(&self) -> &FeedDecision {
        &self.message.decisions[self.index]
    }
}

impl PartialEq for HeardDecision {
    fn eq(&self, other: &Self) -> bool {
        self.settled() == other.settled()
    }
}

/// What a waiter is told.
#[derive(Debug)]
pub(super) enum Signal {
    /// Its decision.
    HeardDecision(HeardDecision),
    /// That the feed may have lost it.
    AskStore,
}

#[derive(Debug, Default)]
struct Cell {
    signal: Mutex<Option<Signal>>,
    changed: Notify,
}

impl Cell {
    fn set(&self, signal: Signal) {
        *lock(&self.signal) = Some(signal);
        self.changed.notify_one();
    }
}

/// What came of asking for a waiter's place.
#[derive(Debug)]
pub(super) enum Waiting {
    /// The decision is known already.
    Known(HeardDecision),
    /// A place, and whether the store must be asked at once.
    At(Waiter, bool),
    /// No place is free.
    Full,
}

/// A waiter's place; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    place: Place,
    cell: Arc<Cell>,
}

impl Waiter {
    /// Waits for the next signal. Cancel-safe.
    pub(super) async fn signal(&self) -> Signal {
        loop {
            if let Some(signal) = lock(&self.cell.signal).take() {
                return signal;
            }
            self.cell.changed.notified().await;
        }
    }

    /// Waits for the decision alone. Cancel-safe.
    pub(super) async fn told(&self) -> HeardDecision {
        loop {
            if let Signal::HeardDecision(told) = self.signal().await {
                return told;
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut follower = lock(&self.waiters.follower);
        follower.leave(self.place);
        metrics::waiters(follower.waiters());
    }
}

/// The feed follower of this node.
#[derive(Debug)]
pub(super) struct Waiters {
    follower: Mutex<Follower<HeardDecision, Arc<Cell>>>,
    followed: std::sync::atomic::AtomicBool,
    clock: NodeClock,
    log_epoch: u32,
}

impl Waiters {
    pub(super) fn new(clock: NodeClock, log_epoch: u32, partitions: u32, waiters: usize) -> Self {
        let limits = Limits { decisions: RECENT_DECISIONS_MAX, waiters };
        Self {
            follower: Mutex::new(Follower::new(partitions, limits)),
            followed: std::sync::atomic::AtomicBool::new(false),
            clock,
            log_epoch,
        }
    }

    /// Follows `feed` until it ends, again and again with growing pauses; never returns.
    pub(super) async fn follow(self: Arc<Self>, feed: Arc<dyn DecisionFeed>) {
        let mut pause = FOLLOW_AGAIN_AFTER;
        loop {
            match feed.follow().await {
                Ok(mut events) => {
                    pause = FOLLOW_AGAIN_AFTER;
                    let _followed = Followed::new(&self);
                    // Whatever was sent before this moment is lost on this node.
                    self.step(FeedEvent::Gap);
                    while let Some(event) = events.recv().await {
                        self.step(event);
                    }
                    tracing::warn!("decision feed ended, following it again");
                }
                Err(error) => {
                    let error = super::chain(&error);
                    tracing::warn!(error, "decision feed can't be followed, trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FOLLOW_AGAIN_AFTER_MAX);
        }
    }

    /// Whether the feed is followed now.
    pub(super) fn is_followed(&self) -> bool {
        self.followed.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn step(&self, event: FeedEvent) {
        let event = match event {
            FeedEvent::Gap => Event::Gap,
            FeedEvent::Message(message) if message.log_epoch == self.log_epoch => {
                Event::Message(read(&message))
            }
            FeedEvent::Message(_) => return,
        };
        let now = self.clock.now();
        let mut follower = lock(&self.follower);
        let effects = follower.step(now, event);
        let waiters = follower.waiters();
        drop(follower);
        if effects.is_empty() {
            return;
        }
        metrics::waiters(waiters);
        for effect in effects {
            match effect {
                Effect::Tell(cell, told) => cell.set(Signal::HeardDecision(told)),
                Effect::AskStore(cell) => cell.set(Signal::AskStore),
                Effect::Took(latency) => metrics::issue_latency(latency),
                Effect::Contradiction { partition, offset } => {
                    metrics::violation(Invariant::FinalAnswer);
                    tracing::error!(partition, offset, "the feed told two decisions of a position");
                }
            }
        }
    }

    /// Asks for a place; `reserved` places are beside those of clients.
    pub(super) fn wait_for(
        self: &Arc<Self>,
        partition: Partition,
        offset: Offset,
        reserved: bool,
    ) -> Waiting {
        let cell = Arc::new(Cell::default());
        let mut follower = lock(&self.follower);
        match follower.register(partition, offset, cell.clone(), reserved) {
            Registered::Known(told) => Waiting::Known(told),
            Registered::Full => Waiting::Full,
            Registered::Waiting { place, ask_store } => {
                metrics::waiters(follower.waiters());
                Waiting::At(Waiter { waiters: self.clone(), place, cell }, ask_store)
            }
        }
    }

    /// The decision of a position, if this node remembers it.
    pub(super) fn decision(&self, partition: Partition, offset: Offset) -> Option<HeardDecision> {
        lock(&self.follower).decision(partition, offset).cloned()
    }

    /// The watermark of a partition, if its owner was ever heard of.
    pub(super) fn watermark(&self, partition: Partition) -> Option<Offset> {
        lock(&self.follower).watermark(partition)
    }

    /// Whether the owner of a partition has not been heard of lately.
    pub(super) fn is_silent(&self, partition: Partition) -> bool {
        lock(&self.follower).is_silent(self.clock.now(), partition)
    }

    /// Partitions whose owner has not been heard of for longer than `within`, or never.
    pub(super) fn silent(&self, within: Duration) -> Vec<Partition> {
        let now = self.clock.now();
        let follower = lock(&self.follower);
        let silent = |partition: &Partition| follower.is_silent_for(now, *partition, within);
        follower.partitions().filter(silent).collect()
    }

    /// Why a partition is halted, if it is, and how many of its records wait for a decision.
    pub(super) fn admission(&self, partition: Partition) -> (Option<String>, u64) {
        let follower = lock(&self.follower);
        let halted = follower.halted(self.clock.now(), partition).map(str::to_owned);
        (halted, follower.lag(partition))
    }

    /// Measures how long a request takes that was received at `received`.
    pub(super) fn measure(&self, partition: Partition, offset: Offset, received: Moment) {
        let now = self.clock.now();
        let took = lock(&self.follower).measure(now, partition, offset, received);
        took.into_iter().for_each(metrics::issue_latency);
    }

    /// Takes in an acknowledged append; `known` is the watermark before it was sent.
    ///
    /// # Errors
    /// Why the partition is halted on this node from now on.
    pub(super) fn acknowledged(
        &self,
        partition: Partition,
        offset: Offset,
        known: Option<Offset>,
    ) -> Result<(), String> {
        let result = lock(&self.follower).acknowledged(partition, offset, known);
        if let Err(reason) = &result {
            metrics::violation(Invariant::StopRatherThanLie);
            tracing::error!(partition, offset, reason, "partition halted on this node");
        }
        result
    }

    /// Waiters now.
    #[cfg(test)]
    pub(super) fn waiters(&self) -> usize {
        lock(&self.follower).waiters()
    }
}

fn read(message: &Arc<FeedMessage>) -> Message<HeardDecision> {
    let told = |(index, settled): (usize, &FeedDecision)| {
        (settled.offset, HeardDecision { message: message.clone(), index })
    };
    Message {
        partition: message.partition,
        from: message.from,
        to: message.to,
        end: message.end,
        halted: message.halted.clone(),
        decisions: message.decisions.iter().enumerate().map(told).collect(),
    }
}

/// Says that the feed is followed, until it is dropped.
struct Followed<'a>(&'a Waiters);

impl<'a> Followed<'a> {
    fn new(waiters: &'a Waiters) -> Self {
        waiters.followed.store(true, std::sync::atomic::Ordering::Relaxed);
        Self(waiters)
    }
}

impl Drop for Followed<'_> {
    fn drop(&mut self) {
        self.0.followed.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}
