//! Follows the decision feed for one API node: answers waiters, and tracks the watermark, end and
//! halt of every partition.
//!
//! The feed may lose messages, so it never proves an absence. A waiter must ask the store in two
//! cases: the watermark passed its position without its decision, or messages were lost. A loss is
//! reported by the feed, or shows as a number that an owner's messages leave out. The waiter stays
//! registered, because its campaign may be on hold and the decision may still come.
//!
//! Anyone who can write to the feed can send old messages again. `owners` ignores them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::Moment;
use crate::{
    domain::{
        halt::{Halt, HaltReason, Unread},
        ids::{Offset, Partition},
    },
    wire::feed_message::Condition,
};

mod event;
mod heard;
mod owners;
mod shares;

pub(crate) use self::{
    event::{Effect, Event, Message},
    heard::{HEARD_BYTES, Heard},
    owners::Ignored,
    shares::{User, WAITER_BYTES},
};
use self::{heard::HeardCampaigns, owners::Owners, shares::Shares};

/// Decisions that a node remembers: about 6 s at 10,000 a second, longer than a client takes from
/// its `202` to its first `GET`. About 12 MB. Fewer where memory is short.
pub(crate) const RECENT_DECISIONS_MAX: usize = 65_536;

/// Requests whose latency is measured at once: as many as may be in flight with a waiter. Further
/// requests are not measured.
pub(crate) const MEASURED_MAX: usize = 32_768;

/// Time without a message after which an owner counts as silent. Owners send once a second.
pub(crate) const OWNER_SILENT_AFTER: Duration = Duration::from_secs(3);

/// Limits of a [`Follower`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Decisions remembered, summed over all partitions.
    pub decisions: usize,
    /// Waiters of clients.
    pub waiters: usize,
}

/// Names a waiter's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    partition: Partition,
    offset: Offset,
    number: u64,
}

/// The result of [`Follower::register`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered<D> {
    /// The decision is known already. No place was taken.
    Known(D),
    /// The waiter has a place. With `ask_store`, the watermark had passed its position, so the
    /// feed may not bring the decision.
    Waiting {
        /// The place; free it with [`Follower::leave`].
        place: Place,
        /// Whether the store must be asked.
        ask_store: bool,
    },
    /// No place is free.
    Full,
}

/// A log that lost its tail, found by an append of this node.
#[derive(Debug)]
struct Truncated {
    reason: String,
    /// Whether the owner has reported a halt since. From then on we follow its reports.
    known_to_owner: bool,
}

#[derive(Debug)]
struct FollowedPartition<D, W> {
    owners: Owners,
    watermark: Option<Offset>,
    end: Offset,
    /// Records below `end` that wait, as the owner counts them.
    undecided: u64,
    condition: Option<Condition>,
    acknowledged: Option<(Offset, Offset)>,
    heard_at: Option<Moment>,
    halted: Option<String>,
    unread: Option<Unread>,
    truncated: Option<Truncated>,
    decisions: BTreeMap<Offset, D>,
    received: BTreeMap<Offset, Moment>,
    /// Waiters that wait for the feed alone, by position.
    waiting: BTreeMap<(Offset, u64), W>,
    /// Waiters that also ask the store, by position.
    asking: BTreeMap<(Offset, u64), W>,
}

impl<D, W> Default for FollowedPartition<D, W> {
    fn default() -> Self {
        Self {
            owners: Owners::default(),
            watermark: None,
            end: 0,
            undecided: 0,
            condition: None,
            acknowledged: None,
            heard_at: None,
            halted: None,
            unread: None,
            truncated: None,
            decisions: BTreeMap::new(),
            received: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asking: BTreeMap::new(),
        }
    }
}

/// Follows the feed for one node. `D` is a decision, `W` a handle that wakes a waiter.
#[derive(Debug)]
pub(crate) struct Follower<D, W> {
    limits: Limits,
    partitions: Vec<FollowedPartition<D, W>>,
    order: VecDeque<(Partition, Offset)>,
    heard: HeardCampaigns,
    waiters: usize,
    shares: Shares,
    measured: usize,
    places: u64,
}

impl<D: Clone + PartialEq, W: Clone> Follower<D, W> {
    /// Returns a follower of `partitions` partitions that has heard nothing yet.
    #[must_use]
    pub(crate) fn new(partitions: u32, limits: Limits) -> Self {
        let limits = Limits { decisions: limits.decisions.max(1), ..limits };
        Self {
            limits,
            partitions: (0..partitions).map(|_| FollowedPartition::default()).collect(),
            order: VecDeque::new(),
            heard: HeardCampaigns::default(),
            waiters: 0,
            shares: Shares::default(),
            measured: 0,
            places: 0,
        }
    }

    /// Applies an event of the feed and returns the actions that follow.
    pub(crate) fn step(&mut self, now: Moment, event: Event<D>) -> Vec<Effect<D, W>> {
        match event {
            Event::Message(message) => self.message(now, message),
            Event::Gap => {
                self.heard.lose(now);
                let mut effects = Vec::new();
                for partition in &mut self.partitions {
                    partition.ask_store_below(Offset::MAX, &mut effects);
                }
                effects
            }
        }
    }

    fn message(&mut self, now: Moment, message: Message<D>) -> Vec<Effect<D, W>> {
        let mut effects = Vec::new();
        let number = message.partition;
        let Some(partition) = self.partitions.get_mut(number as usize) else { return effects };
        let lost = match partition.owners.hear(now, &message.sender) {
            Ok(lost) => lost,
            Err(ignored) => return vec![Effect::Ignored(ignored)],
        };
        // Also a halt is a sign of life: `is_silent_for` is about the owner, not about decisions.
        partition.heard_at = Some(now);
        partition.owner_says(message.halted);
        partition.unread = message.unread;
        if message.end >= partition.end {
            (partition.end, partition.undecided) = (message.end, message.waiting);
        }
        partition.condition = message.condition.or(partition.condition.take());
        // With the decisions, so that views count what waiters are told.
        self.heard.hear(now, partition.watermark.unwrap_or(0), &message.campaigns);
        if lost {
            self.heard.lose(now);
        }
        for (offset, decision) in message.decisions {
            match partition.decisions.get(&offset) {
                // Told twice: by a second owner, or again after a takeover.
                Some(before) if *before == decision => continue,
                Some(_) => {
                    effects.push(Effect::Contradiction { partition: number, offset });
                    continue;
                }
                None => {}
            }
            if let Some(received) = partition.received.remove(&offset) {
                self.measured -= 1;
                effects.push(Effect::Took(now.saturating_sub(received)));
            }
            for number in partition.tell(offset, &decision, &mut effects) {
                self.waiters -= 1;
                self.shares.free(message.partition, number);
            }
            partition.decisions.insert(offset, decision);
            self.order.push_back((number, offset));
        }
        // After the decisions, because a waiter that got one of them need not ask the store. A lost
        // message may have held decisions above every watermark, so then all waiters must ask.
        let watermark = partition.watermark.map_or(message.to, |before| before.max(message.to));
        partition.watermark = Some(watermark);
        let asking_below = if lost { Offset::MAX } else { watermark };
        partition.ask_store_below(asking_below, &mut effects);
        // A request below the watermark without a decision was lost from the feed or is held: its
        // latency is unknown.
        while let Some(entry) = partition.received.first_entry()
            && *entry.key() < watermark
        {
            entry.remove();
            self.measured -= 1;
        }
        self.forget_old_decisions();
        effects
    }

    fn forget_old_decisions(&mut self) {
        while self.order.len() > self.limits.decisions {
            if let Some((partition, offset)) = self.order.pop_front() {
                self.partitions[partition as usize].decisions.remove(&offset);
            }
        }
    }

    /// Takes a place for `waiter` at a position. The limit of client waiters does not apply where no
    /// user is given; the caller bounds the number of these places.
    pub(crate) fn register(
        &mut self,
        partition: Partition,
        offset: Offset,
        waiter: W,
        user: Option<User>,
    ) -> Registered<D> {
        let Some(state) = self.partitions.get_mut(partition as usize) else {
            return Registered::Full;
        };
        if let Some(decision) = state.decisions.get(&offset) {
            return Registered::Known(decision.clone());
        }
        if self.shares.taken() >= self.limits.waiters && user.is_some() {
            return Registered::Full;
        }
        self.places += 1;
        self.waiters += 1;
        if let Some(user) = user {
            self.shares.take(partition, offset, self.places, user);
        }
        let ask_store = state.watermark.is_some_and(|watermark| offset < watermark);
        let side = if ask_store { &mut state.asking } else { &mut state.waiting };
        side.insert((offset, self.places), waiter);
        let place = Place { partition, offset, number: self.places };
        Registered::Waiting { place, ask_store }
    }

    /// Frees a place. Does nothing if its waiter got its decision meanwhile.
    pub(crate) fn leave(&mut self, place: Place) {
        self.remove(place);
    }

    /// Returns the number of waiters.
    #[must_use]
    pub(crate) fn waiters(&self) -> usize {
        self.waiters
    }

    /// Returns the decision of a position, if this node remembers it.
    #[must_use]
    pub(crate) fn decision(&self, partition: Partition, offset: Offset) -> Option<&D> {
        self.partitions.get(partition as usize)?.decisions.get(&offset)
    }

    /// Returns what was heard of a campaign, by its hash.
    #[must_use]
    pub(crate) fn heard(&self, campaign: u64) -> Option<Heard> {
        self.heard.of(campaign)
    }

    /// Returns when the definition of some campaign may have changed last, as far as this node knows.
    #[must_use]
    pub(crate) fn definitions_changed_at(&self) -> Option<Moment> {
        self.heard.changed_at()
    }

    /// Returns the watermark of a partition, if its owner was ever heard.
    #[must_use]
    pub(crate) fn watermark(&self, partition: Partition) -> Option<Offset> {
        self.partitions.get(partition as usize)?.watermark
    }

    /// Notes that an append was acknowledged at `offset`. `known` is the watermark that was known
    /// when the append was sent. An offset below it proves that the log lost decided records. From
    /// then on this node refuses requests for the partition, until the owner has halted it too and
    /// goes on again.
    ///
    /// # Errors
    /// The reason of the halt, if the log lost its tail.
    pub(crate) fn acknowledged(
        &mut self,
        partition: Partition,
        offset: Offset,
        known: Option<Offset>,
    ) -> Result<(), String> {
        let Some(state) = self.partitions.get_mut(partition as usize) else { return Ok(()) };
        if let Some(watermark) = known
            && offset < watermark
        {
            let detail = format!(
                "an append was given offset {offset} of partition {partition}, below the \
                 watermark {watermark}"
            );
            let reason = Halt::new(HaltReason::LogTruncated, detail).to_string();
            state.truncated = Some(Truncated { reason: reason.clone(), known_to_owner: false });
            return Err(reason);
        }
        let (lowest, highest) = state.acknowledged.unwrap_or((offset, offset));
        state.acknowledged = Some((lowest.min(offset), highest.max(offset)));
        Ok(())
    }

    /// Returns the number of records that wait for a decision, as far as this node knows: those that
    /// the owner counts below its end, and what this node has appended above it. Before any owner was
    /// heard, counts only this node's appends.
    #[must_use]
    pub(crate) fn lag(&self, partition: Partition) -> u64 {
        let Some(state) = self.partitions.get(partition as usize) else { return 0 };
        let Some((low, high)) = state.acknowledged else { return state.undecided };
        let counted = if state.watermark.is_some() { state.end } else { low };
        state.undecided + (high + 1).saturating_sub(counted)
    }

    /// Returns how a partition is, as its owner has said, unless that is silent or has halted it.
    #[must_use]
    pub(crate) fn condition(&self, now: Moment, partition: Partition) -> Option<&Condition> {
        let state = self.partitions.get(partition as usize)?;
        state.condition.as_ref().filter(|_| !self.tells_nothing(now, partition))
    }

    /// Returns the reason of a partition's halt: found by this node, or reported by an owner that
    /// is not silent.
    #[must_use]
    pub(crate) fn halted(&self, now: Moment, partition: Partition) -> Option<&str> {
        let state = self.partitions.get(partition as usize)?;
        let told =
            || state.halted.as_deref().filter(|_| !state.is_silent_for(now, OWNER_SILENT_AFTER));
        let found = state.truncated.as_ref().map(|truncated| truncated.reason.as_str());
        found.or_else(told)
    }

    /// Returns the range that halts a partition, as reported by an owner that is not silent.
    #[must_use]
    pub(crate) fn unread(&self, now: Moment, partition: Partition) -> Option<Unread> {
        let state = self.partitions.get(partition as usize)?;
        state.unread.filter(|_| !state.is_silent_for(now, OWNER_SILENT_AFTER))
    }

    /// Starts to measure the latency of the request at a position, received at `received`. Returns
    /// the latency if the request is decided already.
    pub(crate) fn measure(
        &mut self,
        now: Moment,
        partition: Partition,
        offset: Offset,
        received: Moment,
    ) -> Option<Duration> {
        let state = self.partitions.get_mut(partition as usize)?;
        if state.decisions.contains_key(&offset) {
            return Some(now.saturating_sub(received));
        }
        let passed = state.watermark.is_some_and(|watermark| offset < watermark);
        if self.measured < MEASURED_MAX && !passed {
            let before = state.received.insert(offset, received);
            self.measured += usize::from(before.is_none());
        }
        None
    }

    /// Returns whether a partition's owner tells no decisions: it has been silent for
    /// [`OWNER_SILENT_AFTER`], or it has halted the partition. What was decided before that is only
    /// in the store, and the messages of a halted owner carry no watermark that says so.
    #[must_use]
    pub(crate) fn tells_nothing(&self, now: Moment, partition: Partition) -> bool {
        self.is_silent_for(now, partition, OWNER_SILENT_AFTER)
            || self.halted(now, partition).is_some()
    }

    /// Returns whether a partition's owner has been silent for longer than `within`, or was never
    /// heard.
    #[must_use]
    pub(crate) fn is_silent_for(
        &self,
        now: Moment,
        partition: Partition,
        within: Duration,
    ) -> bool {
        let silent = |state: &FollowedPartition<D, W>| state.is_silent_for(now, within);
        self.partitions.get(partition as usize).is_none_or(silent)
    }

    /// Returns the numbers of the followed partitions.
    #[must_use]
    pub(crate) fn partitions(&self) -> std::ops::Range<Partition> {
        0..u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }
}

impl<D: Clone, W: Clone> FollowedPartition<D, W> {
    /// Applies the owner's halt. An owner leaves a halt only after it has checked the log again, so
    /// that also ends a truncation found here.
    fn owner_says(&mut self, halted: Option<String>) {
        if let Some(truncated) = &mut self.truncated {
            truncated.known_to_owner |= halted.is_some();
            if truncated.known_to_owner && halted.is_none() {
                self.truncated = None;
            }
        }
        self.halted = halted;
    }

    fn is_silent_for(&self, now: Moment, within: Duration) -> bool {
        self.heard_at.is_none_or(|at| now.saturating_sub(at) > within)
    }

    /// Gives the decision to every waiter at `offset`. Returns the numbers of their places.
    fn tell(&mut self, offset: Offset, decision: &D, effects: &mut Vec<Effect<D, W>>) -> Vec<u64> {
        let mut numbers = Vec::new();
        for side in [&mut self.waiting, &mut self.asking] {
            let here = (offset, 0)..=(offset, u64::MAX);
            while let Some((&place, _)) = side.range(here.clone()).next() {
                numbers.push(place.1);
                let waiter = side.remove(&place);
                effects.extend(waiter.map(|waiter| Effect::Tell(waiter, decision.clone())));
            }
        }
        numbers
    }

    fn ask_store_below(&mut self, end: Offset, effects: &mut Vec<Effect<D, W>>) {
        while let Some(entry) = self.waiting.first_entry()
            && entry.key().0 < end
        {
            let (place, waiter) = entry.remove_entry();
            effects.push(Effect::AskStore(waiter.clone()));
            self.asking.insert(place, waiter);
        }
    }
}

#[cfg(test)]
mod tests;
