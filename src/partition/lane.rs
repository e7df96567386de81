//! What a partition keeps of one campaign.

use std::collections::{BTreeSet, VecDeque};

use crate::planted;

use super::{fold::Batch, restart::Failures};
use crate::domain::{
    campaign::At,
    ids::{Offset, Sequence, Timestamp},
    record::{Change, Record},
    rows::{Hold, HoldKind, HoldState},
};

/// Where a campaign's actor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its rows are being loaded, or a restart waits for its delay.
    Starting,
    /// It decides what is read.
    Live,
    /// A hold is being written; nothing is decided, and nothing may pass yet.
    Opening,
    /// A durable hold: it decides nothing, and what is read passes.
    Held,
    /// A durable hold is being tried again from its `from`; what is read passes, since the replay
    /// will read it again.
    CatchingUp,
}

/// A record that may have to be decided again.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) at: At,
    pub(super) record: Record,
    pub(super) issued: Option<Sequence>,
}

/// One campaign of a partition, as its owner sees it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) phase: Phase,
    /// Tells this actor's messages from those of an earlier one.
    pub(super) incarnation: u64,
    /// Records from durable progress on, in order.
    pub(super) kept: VecDeque<Kept>,
    /// How many of `kept` were sent to this incarnation.
    pub(super) sent: usize,
    /// How many of `kept` this incarnation reported as stored.
    pub(super) stored: usize,
    /// How many of `kept` a mark has counted.
    pub(super) marked: usize,
    /// Records of each batch that is under way, in order.
    pub(super) batches: VecDeque<usize>,
    /// Whether a replayed chunk is under way; `met` when it reaches the live position.
    pub(super) replaying: bool,
    pub(super) met: bool,
    /// Dead letters that the replayed chunk waits for.
    pub(super) letters: BTreeSet<Offset>,
    /// Where this incarnation's log begins.
    pub(super) start_from: Offset,
    /// The highest sequence that replayed chunks issued.
    pub(super) replayed_issued: Option<Sequence>,
    /// No start lies below: what was caught up is stored and not kept.
    pub(super) floor: Offset,
    /// A stored row up to here waits to be derived again.
    pub(super) expects_until: Option<Offset>,
    pub(super) failures: Failures,
    /// Holds that are not closed, or closed by another owner short of what may have passed.
    pub(super) holds: Vec<Hold>,
    /// Holds that this owner closed and keeps extending; `extended` is how far it last did.
    pub(super) closed: Vec<Hold>,
    pub(super) extended: Offset,
    /// How many of them are being closed: marks go before that, so it is not for an extension to
    /// say it first.
    pub(super) closing: usize,
    /// Why it last failed.
    pub(super) reason: Option<String>,
    /// Released records that wait for their hold to be marked.
    pub(super) releasing: Vec<Offset>,
    /// After this time nothing is issued any more, as the actor last said.
    pub(super) over_from: Option<Timestamp>,
    pub(super) active_ms: u64,
}

impl Lane {
    pub(super) fn new(phase: Phase, incarnation: u64, now_ms: u64) -> Self {
        Self {
            phase,
            incarnation,
            kept: VecDeque::new(),
            sent: 0,
            stored: 0,
            marked: 0,
            batches: VecDeque::new(),
            replaying: false,
            met: false,
            letters: BTreeSet::new(),
            start_from: 0,
            replayed_issued: None,
            floor: 0,
            expects_until: None,
            failures: Failures::default(),
            holds: Vec::new(),
            closed: Vec::new(),
            extended: 0,
            closing: 0,
            reason: None,
            releasing: Vec::new(),
            over_from: None,
            active_ms: now_ms,
        }
    }

    /// A new incarnation to which nothing was sent yet.
    pub(super) fn restart(&mut self, incarnation: u64, phase: Phase) {
        self.incarnation = incarnation;
        self.phase = phase;
        self.sent = 0;
        self.stored = 0;
        self.batches.clear();
        self.replaying = false;
        self.met = false;
        self.letters.clear();
        self.replayed_issued = None;
        self.expects_until = None;
    }

    /// The lowest position that a hold touches.
    pub(super) fn held_from(&self) -> Option<Offset> {
        self.holds.iter().map(Hold::unsettled_from).min()
    }

    /// The lowest position that a replay would begin at: closed holds reach no further than they
    /// were last extended.
    pub(super) fn keep_from(&self) -> Option<Offset> {
        self.holds.iter().chain(&self.closed).map(Hold::unsettled_from).min()
    }

    /// Whether a hold may be tried again without an operator.
    pub(super) fn may_retry(&self) -> bool {
        let may = |hold: &Hold| hold.state != HoldState::Open || hold.kind == HoldKind::Failure;
        !self.holds.is_empty() && self.holds.iter().all(may)
    }

    /// Takes over a hold, in place of what was known of it.
    pub(super) fn note(&mut self, hold: &Hold) {
        self.holds.retain(|known| !known.is_same(hold));
        self.closed.retain(|known| !known.is_same(hold));
        self.holds.push(hold.clone());
    }

    /// The holds that this owner closed, extended to `watermark`, where everything of the
    /// campaign below it was decided by this owner.
    pub(super) fn extend(&mut self, watermark: Offset) -> Vec<Hold> {
        let says_it_first = self.closing > 0;
        if self.closed.is_empty()
            || says_it_first
            || watermark <= self.extended
            || planted!(HoldNotExtended)
        {
            return Vec::new();
        }
        self.extended = watermark;
        for hold in &mut self.closed {
            hold.until = watermark;
        }
        self.closed.clone()
    }

    /// The first position not yet stored by this incarnation.
    pub(super) fn first_unstored(&self) -> Option<Offset> {
        self.kept.get(self.stored).map(|kept| kept.at.offset)
    }

    /// The next batch, of at most `max` records. `position` is how far the partition was read.
    pub(super) fn next_batch(&mut self, max: usize, position: Offset) -> Option<Batch> {
        let until = (self.sent + max).min(self.kept.len());
        let records: Vec<_> =
            self.kept.range(self.sent..until).map(|kept| (kept.at, kept.record.clone())).collect();
        let passed = self.kept.get(until).map_or(position, |kept| kept.at.offset);
        let confirms = self.expects_until.is_some_and(|expected| expected < passed);
        if records.is_empty() && !confirms {
            return None;
        }
        if confirms {
            self.expects_until = None;
        }
        self.sent = until;
        self.batches.push_back(records.len());
        Some(Batch { records, passed })
    }

    /// Whether there is something to send.
    pub(super) fn has_unsent(&self, position: Offset) -> bool {
        self.sent < self.kept.len()
            || self.expects_until.is_some_and(|expected| expected < position)
    }

    /// Forgets what is below durable progress and was stored by this incarnation. Gives how many.
    pub(super) fn trim(&mut self, durable: Offset) -> usize {
        let mut trimmed = 0;
        while self.stored > 0 && self.kept.front().is_some_and(|kept| kept.at.offset < durable) {
            self.kept.pop_front();
            self.stored -= 1;
            self.sent -= 1;
            self.marked = self.marked.saturating_sub(1);
            trimmed += 1;
        }
        trimmed
    }

    /// Forgets what is below `from`, before anything was sent. Gives how many.
    pub(super) fn drop_below(&mut self, from: Offset) -> usize {
        let below = self.kept.partition_point(|kept| kept.at.offset < from);
        self.kept.drain(..below);
        self.marked = self.marked.saturating_sub(below);
        below
    }

    /// The highest sequence issued below `watermark` since the last mark, if there is a new one.
    pub(super) fn mark(&mut self, watermark: Offset) -> Option<Sequence> {
        let mut issued = None;
        while let Some(kept) = self.kept.get(self.marked)
            && kept.at.offset < watermark
        {
            issued = kept.issued.or(issued);
            self.marked += 1;
        }
        issued
    }

    /// The highest sequence that is kept below `from`, and so is stored.
    pub(super) fn issued_below(&self, from: Offset) -> Option<Sequence> {
        let below = self.kept.iter().filter(|kept| kept.at.offset < from);
        below.filter_map(|kept| kept.issued).max()
    }

    /// Drops everything kept and gives the offsets, for they pass now: all but releases that wait
    /// for their hold to be marked.
    pub(super) fn drop_kept(&mut self) -> Vec<Offset> {
        self.sent = 0;
        self.stored = 0;
        self.marked = 0;
        let waits = |offset: &Offset| self.releasing.contains(offset);
        self.kept.drain(..).map(|kept| kept.at.offset).filter(|it| !waits(it)).collect()
    }

    /// Offsets of kept records that release a hold from `from`.
    pub(super) fn kept_releases(&self, from: Offset) -> Vec<Offset> {
        let above = self.kept.iter().filter(|kept| kept.at.offset >= from);
        let released = above.filter(|kept| is_release(&kept.record));
        released.map(|kept| kept.at.offset).collect()
    }
}

/// Whether the record lifts a hold.
pub(super) fn is_release(record: &Record) -> bool {
    matches!(record, Record::Control(control) if control.change == Change::Released)
}
