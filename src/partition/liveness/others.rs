//! What a node knows of the other nodes, from their rows or from the feed.

use std::collections::BTreeMap;

use crate::domain::{
    ids::ProcessName,
    rows::{Hang, NodeRow},
};

/// Time since the number of another node rose, in milliseconds, within which it counts as running. A
/// probe takes at most 3 s and the next one begins 2 s after it began, so a number that is written
/// by one of two probes in a row is still seen in time.
pub const FRESH_MS: u64 = 5_000;

/// Rises of a number after it was first seen. A row of a dead process never rises. One rise may be
/// a write that was late; a second one shows that somebody writes.
pub const RISES_MIN: u32 = 2;

/// Most nodes that are remembered of one source. Far more than a group has; the feed and the table
/// may name any number of processes that have ended.
pub const NODES_MAX: usize = 1_000;

/// Time without a rise after which a row is deleted, in milliseconds: an hour. Long enough that a
/// process which was paused finds its row again, and that an owner learns where the one before
/// hung; short enough that restarts leave few rows.
pub const STALE_MS: u64 = 3_600_000;

/// One other node.
#[derive(Debug, Clone)]
struct Seen {
    number: u64,
    rises: u32,
    /// When it was first seen, or its number last rose.
    at_ms: u64,
    /// Since when every row of it said that it is a member and can decide.
    deciding_since_ms: Option<u64>,
    hangs: Vec<Hang>,
}

impl Seen {
    fn new(row: &NodeRow, now_ms: u64) -> Self {
        let (number, rises, at_ms, hangs) = (row.number, 0, now_ms, row.hangs.clone());
        Self { number, rises, at_ms, deciding_since_ms: decides(row).then_some(now_ms), hangs }
    }

    fn see(&mut self, row: &NodeRow, now_ms: u64) {
        // A row that is read again, or a message that comes late or is repeated.
        if row.number <= self.number {
            return;
        }
        (self.number, self.at_ms) = (row.number, now_ms);
        self.rises = self.rises.saturating_add(1);
        self.hangs.clone_from(&row.hangs);
        self.deciding_since_ms = decides(row).then(|| self.deciding_since_ms.unwrap_or(now_ms));
    }

    /// Returns whether it can decide now, and could at `since_ms` already.
    fn can_decide(&self, since_ms: u64, now_ms: u64) -> bool {
        self.rises >= RISES_MIN
            && now_ms.saturating_sub(self.at_ms) <= FRESH_MS
            && self.deciding_since_ms.is_some_and(|at| at <= since_ms)
    }
}

fn decides(row: &NodeRow) -> bool {
    row.is_member && row.can_decide
}

/// The other nodes, as one source shows them.
#[derive(Debug, Clone, Default)]
pub(super) struct Others(BTreeMap<ProcessName, Seen>);

impl Others {
    /// Takes what one node says.
    pub(super) fn see(&mut self, row: &NodeRow, now_ms: u64) {
        if let Some(seen) = self.0.get_mut(&row.name) {
            return seen.see(row, now_ms);
        }
        if self.0.len() >= NODES_MAX {
            self.0.retain(|_, seen| now_ms.saturating_sub(seen.at_ms) <= FRESH_MS);
        }
        if self.0.len() < NODES_MAX {
            self.0.insert(row.name.clone(), Seen::new(row, now_ms));
        }
    }

    /// Takes all rows of the store. Nodes without a row are forgotten.
    pub(super) fn see_all(&mut self, rows: &[&NodeRow], now_ms: u64) {
        self.0.retain(|name, _| rows.iter().any(|row| row.name == *name));
        rows.iter().for_each(|row| self.see(row, now_ms));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns a member that can decide now, and could at `since_ms` already.
    pub(super) fn deciding(&self, since_ms: u64, now_ms: u64) -> Option<&ProcessName> {
        self.0.iter().find_map(|(name, it)| it.can_decide(since_ms, now_ms).then_some(name))
    }

    /// Returns whether a node has hung at the same record.
    pub(super) fn has_hung(&self, hang: &Hang) -> bool {
        self.0.values().flat_map(|seen| &seen.hangs).any(|other| other.overlaps(hang))
    }

    /// Returns a node whose row is to be deleted, with its number.
    pub(super) fn stale(&self, now_ms: u64) -> Option<(ProcessName, u64)> {
        let is_stale = |seen: &Seen| now_ms.saturating_sub(seen.at_ms) >= STALE_MS;
        self.0.iter().find_map(|(name, it)| is_stale(it).then(|| (name.clone(), it.number)))
    }
}
