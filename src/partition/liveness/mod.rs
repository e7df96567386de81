//! Decides when a node that cannot decide leaves the consumer group, and when it joins again. Pure:
//! probes and what other nodes say of themselves in, stay, leave or join out.
//!
//! A node probes every 2 s: it writes its row and reads all rows, opens a reader of a partition that
//! it owns, and asks its partition consumers. It *can decide* while all of that succeeds.

mod others;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::others::Others;
pub use self::others::{FRESH_MS, NODES_MAX, RISES_MIN, STALE_MS};
use crate::domain::{
    ids::{Offset, Partition, ProcessName},
    rows::{Hang, NodeRow},
};

/// How often a node probes, in milliseconds.
pub const PROBE_EVERY_MS: u64 = 2_000;

/// Longest probe, in milliseconds. Longer than a failover of a broker's or a database's node mostly
/// takes to answer, and short enough for five probes within [`FAILING_MS`].
pub const PROBE_MAX_MS: u64 = 3_000;

/// How often a node says over the feed what its row says, in milliseconds.
pub const SAY_EVERY_MS: u64 = 1_000;

/// Time for which probes must have failed before a node leaves, in milliseconds. A rebalance stops
/// partitions for about a second; shorter trouble is better waited for.
pub const FAILING_MS: u64 = 15_000;

/// Failed probes in a row before a node leaves. A process that was paused for longer than
/// [`FAILING_MS`] has failed only one.
pub const FAILED_PROBES_MIN: u32 = 5;

/// Failed probes in a row from which the node says that it is not ready. One slow probe must not make
/// a load balancer remove it.
pub const FAILED_PROBES_SHOWN: u32 = 2;

/// Good probes in a row before a node joins again.
pub const GOOD_PROBES_MIN: u32 = 3;

/// Least time out of the group while another member can decide, in milliseconds; doubled with each
/// leave. Each way back is a rebalance.
pub const AWAY_FIRST_MS: u64 = 60_000;

/// The longest of these times, in milliseconds: 10 min.
pub const AWAY_MAX_MS: u64 = 600_000;

/// Time without a leave after which it is [`AWAY_FIRST_MS`] again, in milliseconds: an hour.
pub const AWAY_FORGOTTEN_MS: u64 = 3_600_000;

/// A part of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A new reader of a partition, or the log where the node owns nothing.
    Reader,
    /// A partition consumer, or the runtime that all of them run on.
    Worker,
}

/// How a reader or worker answered a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// The part.
    pub part: Part,
    /// Its partition, and what it may hang at. None if it has no partition.
    pub place: Option<Hang>,
    /// Whether it answered in time.
    pub answered: bool,
}

/// A probe that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// When it began, in milliseconds.
    pub began_ms: u64,
    /// Whether the node's row was written and all rows were read, in time.
    pub store: bool,
    /// How readers and workers answered.
    pub tried: Vec<Tried>,
    /// How many times the node's actors have stored something, so far, by partition.
    pub stored: BTreeMap<Partition, u64>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// These are all rows of the store.
    Rows(Vec<NodeRow>),
    /// A node said this over the feed.
    Said(NodeRow),
    /// A probe has ended.
    Probed(Probed),
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing changes.
    Stay,
    /// Leave the group.
    Leave(Why),
    /// Join the group again.
    Join,
}

/// Why a node leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// This member can decide instead.
    AnotherDecides(ProcessName),
    /// Neither store nor log answers this node.
    NothingAnswers,
}

/// What the node's own probes say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It can decide, or has failed one probe.
    #[default]
    Sound,
    /// Its probes fail, and another member can decide.
    Failing,
    /// Its probes fail, and no other member is known to do better.
    FailingLikeAll,
}

/// Probes that failed in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Failing {
    since_ms: Option<u64>,
    probes: u32,
}

impl Failing {
    fn count(&mut self, failed: bool, began_ms: u64) {
        match failed {
            true => {
                self.since_ms.get_or_insert(began_ms);
                self.probes = self.probes.saturating_add(1);
            }
            false => *self = Self::default(),
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.probes >= FAILED_PROBES_MIN
            && self.since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= FAILING_MS)
    }
}

/// A node that has left.
#[derive(Debug, Clone, Copy)]
struct Away {
    since_ms: u64,
    for_ms: u64,
}

/// The state of one node.
#[derive(Debug)]
pub struct Liveness {
    name: ProcessName,
    number: u64,
    can_decide: bool,
    by_rows: Others,
    by_feed: Others,
    /// Whether the store answered the last probe: then rows count, and not the feed.
    has_rows: bool,
    stored: BTreeMap<Partition, u64>,
    good: u32,
    /// Probes that failed, and those of them in which neither store nor reader answered.
    failing: Failing,
    failing_both: Failing,
    /// Probes in a row after which the node cannot decide, whatever was stored.
    failed: u32,
    away: Option<Away>,
    /// The last time that it left, and for how long at least.
    last_left: Option<Away>,
    /// Where readers and workers of this process hung.
    hangs: Vec<Hang>,
    /// Up to where they answered last, in the partitions that the node owns.
    sound: BTreeMap<(Part, Partition), Offset>,
}

impl Liveness {
    /// Begins as a member whose probes have not failed.
    #[must_use]
    pub fn new(name: ProcessName) -> Self {
        Self {
            name,
            number: 0,
            can_decide: false,
            by_rows: Others::default(),
            by_feed: Others::default(),
            has_rows: false,
            stored: BTreeMap::new(),
            good: 0,
            failing: Failing::default(),
            failing_both: Failing::default(),
            failed: 0,
            away: None,
            last_left: None,
            hangs: Vec::new(),
            sound: BTreeMap::new(),
        }
    }

    /// Takes an event that happens at `now_ms`.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Verdict {
        match event {
            Event::Rows(rows) => {
                let others: Vec<_> = rows.iter().filter(|row| row.name != self.name).collect();
                self.by_rows.see_all(&others, now_ms);
                Verdict::Stay
            }
            Event::Said(row) => {
                if row.name != self.name {
                    self.by_feed.see(&row, now_ms);
                }
                Verdict::Stay
            }
            Event::Probed(probed) => self.probed(now_ms, &probed),
        }
    }

    /// Returns what the node says of itself next.
    pub fn next_row(&mut self) -> NodeRow {
        self.number = self.number.saturating_add(1);
        NodeRow {
            name: self.name.clone(),
            number: self.number,
            is_member: self.away.is_none(),
            can_decide: self.can_decide,
            hangs: self.hangs.clone(),
        }
    }

    /// Returns the row of a process that has ended long ago, by its number: it is to be deleted.
    #[must_use]
    pub fn stale_row(&self, now_ms: u64) -> Option<(ProcessName, u64)> {
        self.by_rows.stale(now_ms)
    }

    /// Returns whether the last probe succeeded, but for what hangs at any node.
    #[must_use]
    pub fn can_decide(&self) -> bool {
        self.can_decide
    }

    /// Returns what the node's own probes say of it.
    #[must_use]
    pub fn standing(&self, now_ms: u64) -> Standing {
        match self.others().deciding(now_ms, now_ms) {
            _ if self.failed < FAILED_PROBES_SHOWN => Standing::Sound,
            Some(_) => Standing::Failing,
            None => Standing::FailingLikeAll,
        }
    }

    /// The other nodes by their rows, and by the feed where the store does not answer.
    fn others(&self) -> &Others {
        if self.has_rows { &self.by_rows } else { &self.by_feed }
    }

    fn probed(&mut self, now_ms: u64, probed: &Probed) -> Verdict {
        let Probed { began_ms, store, ref tried, ref stored } = *probed;
        self.has_rows = store;
        // Something may have been stored at any moment since the probe before.
        let before = std::mem::replace(&mut self.stored, stored.clone());
        let has_stored = before != *stored;
        let works = |it: &Tried| match it.place {
            Some(Hang { partition, .. }) => before.get(&partition) != stored.get(&partition),
            None => has_stored,
        };
        let failed = |it: &&Tried| !it.answered && !self.is_poisoned(it);
        let failed: Vec<_> = tried.iter().filter(failed).collect();
        self.can_decide = store && failed.is_empty();
        self.good = if self.can_decide { self.good.saturating_add(1) } else { 0 };
        self.failed = if self.can_decide { 0 } else { self.failed.saturating_add(1) };
        let unexcused: Vec<_> = failed.into_iter().filter(|it| !works(it)).collect();
        let store_failed = !store && !has_stored;
        let reader_failed = unexcused.iter().any(|it| it.part == Part::Reader);
        self.failing.count(store_failed || !unexcused.is_empty(), began_ms);
        self.failing_both.count(store_failed && reader_failed, began_ms);
        let answered = tried.iter().filter(|it| it.answered);
        let places = answered.filter_map(|it| Some(((it.part, it.place?.partition), it.place?.to)));
        self.sound.extend(places);
        match self.away {
            None => self.leaves(now_ms, began_ms, tried),
            Some(away) => self.joins(now_ms, away),
        }
    }

    /// Returns whether a hang may be due to a record at which a node hung before, so that it would
    /// hang at any node.
    fn is_poisoned(&self, tried: &Tried) -> bool {
        let Some(hang) = tried.place else { return false };
        // It answered here before, and nothing was read since: the record is not to blame.
        let sound = self.sound.get(&(tried.part, hang.partition));
        let was_sound = sound.is_some_and(|sound| *sound >= hang.to);
        let is_own = self.hangs.iter().any(|own| own.overlaps(&hang));
        !was_sound && (is_own || self.by_rows.has_hung(&hang) || self.by_feed.has_hung(&hang))
    }

    fn leaves(&mut self, now_ms: u64, began_ms: u64, tried: &[Tried]) -> Verdict {
        // Only one that could decide when this probe began: where all were cut off and the first one
        // is back, the others' probes under way fail all the same.
        let deciding = self.others().deciding(began_ms, now_ms).cloned();
        let why = match deciding {
            Some(name) if self.failing.is_due(now_ms) => Why::AnotherDecides(name),
            _ if self.failing_both.is_due(now_ms) => Why::NothingAnswers,
            _ => return Verdict::Stay,
        };
        let before =
            self.last_left.filter(|it| now_ms.saturating_sub(it.since_ms) < AWAY_FORGOTTEN_MS);
        let for_ms = before.map_or(AWAY_FIRST_MS, |it| (it.for_ms * 2).min(AWAY_MAX_MS));
        let away = Away { since_ms: now_ms, for_ms };
        (self.away, self.last_left) = (Some(away), Some(away));
        for hang in tried.iter().filter(|it| !it.answered).filter_map(|it| it.place) {
            self.hangs.retain(|known| *known != hang);
            self.hangs.push(hang);
        }
        let surplus = self.hangs.len().saturating_sub(NodeRow::HANGS_MAX);
        self.hangs.drain(..surplus);
        self.begin_anew();
        Verdict::Leave(why)
    }

    fn joins(&mut self, now_ms: u64, away: Away) -> Verdict {
        let is_over = now_ms.saturating_sub(away.since_ms) >= away.for_ms;
        let is_needed = is_over || self.others().deciding(now_ms, now_ms).is_none();
        if self.good < GOOD_PROBES_MIN || !is_needed {
            return Verdict::Stay;
        }
        self.away = None;
        self.begin_anew();
        Verdict::Join
    }

    fn begin_anew(&mut self) {
        (self.failing, self.failing_both) = (Failing::default(), Failing::default());
        self.good = 0;
        self.sound.clear();
    }
}
