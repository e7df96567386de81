//! How a partition consumer acts on skips.

use ractor::ActorRef;

use super::{PartitionState, generation::claim};
use crate::{
    actors::{
        io,
        messages::PartitionMessage,
        task::{TaskGuard, until_done},
    },
    domain::{
        halt::{Halt, HaltReason},
        ids::Offset,
        rows::{PartitionRows, Skip, SkipState},
    },
    partition::{
        assignment,
        range_search::RangeSearch,
        skips::{Reaction, SkipWatch},
    },
    telemetry::metrics,
};

/// What a partition consumer knows of skips. It outlives halts.
#[derive(Default)]
pub(super) struct Skipping {
    watch: SkipWatch,
    /// The search for the end of what cannot be read. An opening takes it and gives it back.
    pub(super) search: Option<RangeSearch>,
    /// The read of skips while the partition is halted.
    look: Option<TaskGuard>,
    settling: Option<TaskGuard>,
}

impl PartitionState {
    /// Notes how far the running flow has read.
    pub(super) fn note_read(&mut self) {
        if let Some(running) = &self.running {
            self.skipping.watch.read_to(running.flow.position());
        }
    }

    /// Whether the partition cannot be read, and a search for the end of the range has not begun or is
    /// under way: operators need it soon.
    pub(super) fn is_unsearched(&self) -> bool {
        let is_unreadable = |halt: &Halt| halt.reason == HaltReason::Unreadable;
        self.halted.as_ref().is_some_and(is_unreadable)
            && self.skipping.search.as_ref().is_none_or(RangeSearch::is_under_way)
    }

    /// Whether a partition was opened with older skips than those of the latest look.
    pub(super) fn is_overtaken(&self, rows: &PartitionRows) -> bool {
        self.skipping.watch.is_older(&rows.skips)
    }

    /// Looks at the skips with which a partition is opened. Returns why it must not be.
    pub(super) fn look_at_skips(&mut self, rows: &PartitionRows) -> Option<Halt> {
        let next = rows.next();
        let now_ms = self.arguments.environment.now_ms();
        self.skipping.watch.look(now_ms, next, &rows.skips).halt
    }

    /// Reads the skips of a halted partition: an operator may have made one. Claims a higher generation
    /// if another owner has done so: otherwise nobody would hear of the halt.
    pub(super) fn look_while_halted(&mut self, myself: &ActorRef<PartitionMessage>) {
        if self.skipping.look.as_ref().is_some_and(|look| !look.is_finished()) {
            return;
        }
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let (told, own) = (myself.clone(), self.generation);
        self.skipping.look = Some(TaskGuard::spawn(myself, async move {
            // A row that cannot be decoded halts the partition when it is opened.
            let _undecodable = claim(&environment, partition, own, &told).await;
            if let Ok(rows) = io::partition_rows(&environment, partition).await {
                let next = rows.next();
                let _ended = told.cast(PartitionMessage::Skips { next, skips: rows.skips });
            }
        }));
    }

    /// Acts on the skips as they are stored now.
    pub(super) fn skips(
        &mut self,
        next: Offset,
        skips: &[Skip],
        myself: &ActorRef<PartitionMessage>,
    ) {
        self.note_read();
        let now_ms = self.arguments.environment.now_ms();
        let Reaction { halt, settle, reopens } = self.skipping.watch.look(now_ms, next, skips);
        if let Some((skip, state)) = settle {
            self.settle(skip, state, myself);
        }
        let waited = self.halted.as_ref().is_some_and(|it| it.reason == HaltReason::SkipMade);
        match halt {
            Some(halt) => {
                if !self.halted.as_ref().is_some_and(|known| known.is_same(&halt)) {
                    self.halt(halt, myself);
                }
            }
            None => {
                // Only a new reader passes the range.
                if let Some(skip) = reopens.as_ref().filter(|_| self.running.is_some()) {
                    self.halt(assignment::skip_made(skip), myself);
                }
                // What is being opened was begun with older skips.
                if reopens.is_some() || waited && !self.opens() {
                    self.open(myself);
                }
            }
        }
    }

    /// Changes the state of a skip. The next look sees it.
    fn settle(&mut self, skip: Skip, state: SkipState, myself: &ActorRef<PartitionMessage>) {
        if self.skipping.settling.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let environment = self.arguments.environment.clone();
        self.skipping.settling = Some(TaskGuard::spawn(myself, async move {
            let settle = || environment.store.settle_skip(&skip, state);
            let settled = until_done(&environment, "settling a skip", settle).await;
            let Skip { partition, from, to, reason, by, .. } = skip;
            let state = settled.name();
            tracing::error!(partition, from, to, reason, by, state, "skip settled");
            metrics::skip(settled);
        }));
    }
}
