//! What a node makes of the decision feed: answers for its waiters, and how far every partition
//! has come.
//!
//! The feed may lose messages, so it never proves an absence: a waiter whose position the
//! watermark passed without its decision, and every waiter when messages were lost (as the feed
//! says, or as a watermark that goes on from another one shows), is told to ask the store. It
//! keeps its place meanwhile, because its campaign may be on hold and the decision may still come.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::Moment;
use crate::domain::ids::{Offset, Partition};

/// Decisions that a node remembers: at 10,000 a second about 6 s, longer than a client takes from
/// its `202` to its first `GET`; about 20 MB.
pub const RECENT_DECISIONS_MAX: usize = 65_536;

/// Requests whose latency is measured at once: as many as may be under way and waited for; about
/// 3 MB. What is beyond is not measured.
pub const MEASURED_MAX: usize = 32_768;

/// Time without a message after which an owner counts as not heard of: it sends each second.
pub const OWNER_SILENT_AFTER: Duration = Duration::from_secs(3);

/// Limits of a [`Follower`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Decisions remembered, over all partitions.
    pub decisions: usize,
    /// Waiters of clients at once.
    pub waiters: usize,
}

/// What the feed brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<D> {
    /// A message of one partition's owner.
    Message(Message<D>),
    /// Messages were lost, of any partition.
    Gap,
}

/// What a message of the feed tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<D> {
    /// Which partition.
    pub partition: Partition,
    /// The watermark that the owner's message before this one told; 0 in its first.
    pub from: Offset,
    /// The watermark.
    pub to: Offset,
    /// The end of the log as the owner last saw it.
    pub end: Offset,
    /// Why the partition decides nothing, if it is halted.
    pub halted: Option<String>,
    /// Decisions by offset.
    pub decisions: Vec<(Offset, D)>,
}

/// What is to be done after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<D, W> {
    /// The waiter's decision is known; it has left its place.
    Tell(W, D),
    /// The decision may have been missed: the waiter must ask the store. It keeps its place.
    AskStore(W),
    /// A request of this node was decided, that long after it was received.
    Took(Duration),
    /// Two decisions of one position differ: an owner or the log is not what it should be.
    Contradiction {
        /// The partition.
        partition: Partition,
        /// The position in it.
        offset: Offset,
    },
}

/// Names a waiter's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    partition: Partition,
    offset: Offset,
    number: u64,
}

/// What came of asking for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered<D> {
    /// The decision is known already; nobody waits.
    Known(D),
    /// The waiter has a place. With `ask_store` the watermark had passed its position: nothing
    /// more may come from the feed.
    Waiting {
        /// Its place, to be left with [`Follower::leave`].
        place: Place,
        /// Whether the store must be asked.
        ask_store: bool,
    },
    /// No place is free.
    Full,
}

/// A log that lost its tail, as this node found by itself.
#[derive(Debug)]
struct Truncated {
    reason: String,
    /// Whether the owner has found it as well: from then on its word counts.
    known_to_owner: bool,
}

#[derive(Debug)]
struct PartitionState<D, W> {
    watermark: Option<Offset>,
    end: Offset,
    acknowledged: Option<(Offset, Offset)>,
    heard_at: Option<Moment>,
    halted: Option<String>,
    truncated: Option<Truncated>,
    decisions: BTreeMap<Offset, D>,
    received: BTreeMap<Offset, Moment>,
    /// Those who wait for the feed alone, and those who were told to ask the store as well.
    waiting: BTreeMap<(Offset, u64), W>,
    asking: BTreeMap<(Offset, u64), W>,
}

impl<D, W> Default for PartitionState<D, W> {
    fn default() -> Self {
        Self {
            watermark: None,
            end: 0,
            acknowledged: None,
            heard_at: None,
            halted: None,
            truncated: None,
            decisions: BTreeMap::new(),
            received: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asking: BTreeMap::new(),
        }
    }
}

/// Follows the feed for one node. `D` is a decision, `W` whatever wakes a waiter.
#[derive(Debug)]
pub struct Follower<D, W> {
    limits: Limits,
    partitions: Vec<PartitionState<D, W>>,
    order: VecDeque<(Partition, Offset)>,
    waiters: usize,
    measured: usize,
    places: u64,
}

impl<D: Clone + PartialEq, W: Clone> Follower<D, W> {
    /// Follows that many partitions; nothing of them is known yet.
    #[must_use]
    pub fn new(partitions: u32, limits: Limits) -> Self {
        let limits = Limits { decisions: limits.decisions.max(1), ..limits };
        Self {
            limits,
            partitions: (0..partitions).map(|_| PartitionState::default()).collect(),
            order: VecDeque::new(),
            waiters: 0,
            measured: 0,
            places: 0,
        }
    }

    /// Takes in what the feed brought.
    pub fn step(&mut self, now: Moment, event: Event<D>) -> Vec<Effect<D, W>> {
        match event {
            Event::Message(message) => self.message(now, message),
            Event::Gap => {
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
        partition.heard_at = Some(now);
        partition.owner_says(message.halted);
        partition.end = partition.end.max(message.end);
        for (offset, decision) in message.decisions {
            match partition.decisions.get(&offset) {
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
            self.waiters -= partition.tell(offset, &decision, &mut effects);
            partition.decisions.insert(offset, decision);
            self.order.push_back((number, offset));
        }
        // After its decisions: a waiter who is told one of them has nothing to ask. What was lost
        // may have told of positions that no watermark has passed.
        let lost = partition.watermark.is_some_and(|before| before < message.from);
        let watermark = partition.watermark.map_or(message.to, |before| before.max(message.to));
        partition.watermark = Some(watermark);
        let asking_below = if lost { Offset::MAX } else { watermark };
        partition.ask_store_below(asking_below, &mut effects);
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

    /// Asks for a place for `waiter` at a position. With `reserved` there is one even when the
    /// clients' are taken: its caller bounds how many.
    pub fn register(
        &mut self,
        partition: Partition,
        offset: Offset,
        waiter: W,
        reserved: bool,
    ) -> Registered<D> {
        let Some(state) = self.partitions.get_mut(partition as usize) else {
            return Registered::Full;
        };
        if let Some(decision) = state.decisions.get(&offset) {
            return Registered::Known(decision.clone());
        }
        if self.waiters >= self.limits.waiters && !reserved {
            return Registered::Full;
        }
        self.places += 1;
        self.waiters += 1;
        let ask_store = state.watermark.is_some_and(|watermark| offset < watermark);
        let side = if ask_store { &mut state.asking } else { &mut state.waiting };
        side.insert((offset, self.places), waiter);
        let place = Place { partition, offset, number: self.places };
        Registered::Waiting { place, ask_store }
    }

    /// Frees a place. Harmless when its waiter was told meanwhile.
    pub fn leave(&mut self, place: Place) {
        let Some(state) = self.partitions.get_mut(place.partition as usize) else { return };
        let key = (place.offset, place.number);
        if state.waiting.remove(&key).or_else(|| state.asking.remove(&key)).is_some() {
            self.waiters -= 1;
        }
    }

    /// Waiters now.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.waiters
    }

    /// The decision of a position, if the node remembers it.
    #[must_use]
    pub fn decision(&self, partition: Partition, offset: Offset) -> Option<&D> {
        self.partitions.get(partition as usize)?.decisions.get(&offset)
    }

    /// The watermark of a partition, if its owner was ever heard of.
    #[must_use]
    pub fn watermark(&self, partition: Partition) -> Option<Offset> {
        self.partitions.get(partition as usize)?.watermark
    }

    /// Takes in that an append was acknowledged at `offset`; `known` is the watermark that was
    /// known when it was sent. An offset below it means that the log lost what was decided there:
    /// from then on this node takes nothing for the partition, until its owner has halted it as
    /// well and goes on again.
    ///
    /// # Errors
    /// The reason for which the partition is halted on this node.
    pub fn acknowledged(
        &mut self,
        partition: Partition,
        offset: Offset,
        known: Option<Offset>,
    ) -> Result<(), String> {
        let Some(state) = self.partitions.get_mut(partition as usize) else { return Ok(()) };
        if let Some(watermark) = known
            && offset < watermark
        {
            let reason = format!(
                "the log lost its tail: an append was given offset {offset} of partition \
                 {partition}, below the watermark {watermark}"
            );
            state.truncated = Some(Truncated { reason: reason.clone(), known_to_owner: false });
            return Err(reason);
        }
        let (lowest, highest) = state.acknowledged.unwrap_or((offset, offset));
        state.acknowledged = Some((lowest.min(offset), highest.max(offset)));
        Ok(())
    }

    /// Records of a partition that wait for a decision, as far as this node knows: up to the
    /// owner's end or its own highest append. While no owner was heard of, only its own appends.
    #[must_use]
    pub fn lag(&self, partition: Partition) -> u64 {
        let Some(state) = self.partitions.get(partition as usize) else { return 0 };
        let end =
            state.acknowledged.map_or(state.end, |(_, high)| state.end.max(high.saturating_add(1)));
        let lowest = state.acknowledged.map_or(end, |(low, _)| low);
        end.saturating_sub(state.watermark.unwrap_or(lowest))
    }

    /// Why a partition decides nothing, if it is halted: found here, or told by an owner who is
    /// still heard of.
    #[must_use]
    pub fn halted(&self, now: Moment, partition: Partition) -> Option<&str> {
        let state = self.partitions.get(partition as usize)?;
        let told =
            || state.halted.as_deref().filter(|_| !state.is_silent_for(now, OWNER_SILENT_AFTER));
        let found = state.truncated.as_ref().map(|truncated| truncated.reason.as_str());
        found.or_else(told)
    }

    /// Measures how long the request at a position takes that was received at `received`, unless
    /// it is decided already: then gives how long it took until `now`.
    pub fn measure(
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

    /// Whether the owner of a partition has not been heard of lately.
    #[must_use]
    pub fn is_silent(&self, now: Moment, partition: Partition) -> bool {
        self.is_silent_for(now, partition, OWNER_SILENT_AFTER)
    }

    /// Whether the owner of a partition has not been heard of for longer than `within`, or never.
    #[must_use]
    pub fn is_silent_for(&self, now: Moment, partition: Partition, within: Duration) -> bool {
        let silent = |state: &PartitionState<D, W>| state.is_silent_for(now, within);
        self.partitions.get(partition as usize).is_none_or(silent)
    }

    /// Partitions that are followed.
    #[must_use]
    pub fn partitions(&self) -> std::ops::Range<Partition> {
        0..u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }
}

impl<D: Clone, W: Clone> PartitionState<D, W> {
    /// An owner that has halted the partition goes on only once its log was checked again.
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

    /// Tells everybody who waits at `offset`; gives how many they were.
    fn tell(&mut self, offset: Offset, decision: &D, effects: &mut Vec<Effect<D, W>>) -> usize {
        let before = effects.len();
        for side in [&mut self.waiting, &mut self.asking] {
            let here = (offset, 0)..=(offset, u64::MAX);
            while let Some((&place, _)) = side.range(here.clone()).next() {
                let waiter = side.remove(&place);
                effects.extend(waiter.map(|waiter| Effect::Tell(waiter, decision.clone())));
            }
        }
        effects.len() - before
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
