//! The phase of a campaign's actor.

use std::collections::BTreeSet;

use crate::domain::{ids::Offset, rows::Counts};

/// What a replay of a campaign from its hold on has come to.
#[derive(Debug, Default)]
pub(in crate::partition) struct Replay {
    /// The campaign's rows after the last record that has one.
    pub(super) counts: Option<Counts>,
    /// A stored row up to here must still be derived again.
    pub(super) expects_until: Option<Offset>,
    /// Offsets of its dead letters that are not durable yet.
    pub(super) letters: BTreeSet<Offset>,
    /// It has met a contradiction, so it must not end.
    pub(super) is_contradicted: bool,
}

/// The phase of a campaign's actor. Each field exists only where it means something.
#[derive(Debug)]
pub(in crate::partition) enum Phase {
    /// The rows are being loaded, or a restart waits for its delay. Records are kept.
    Starting,
    /// Records are decided as they are read.
    Live {
        /// A stored row up to here must still be derived again.
        expects_until: Option<Offset>,
    },
    /// A hold is being written. Records are kept: none may pass before the hold is durable.
    Opening,
    /// A hold is durable. Records pass undecided.
    Held,
    /// The rows are being loaded, and then the campaign is replayed from its hold on. Records pass:
    /// the replay reads them again.
    CatchingUp {
        /// Every record of the campaign below was handed to it, from the start of the replay on.
        next: Offset,
        is_loaded: bool,
        replay: Replay,
    },
    /// The replay has met the live position. Records are kept again. They are sent once everything
    /// below is stored and the holds are being closed.
    Meeting { replay: Replay },
}

impl Phase {
    /// Returns the phase of a campaign that is to be replayed from `next` on.
    pub(in crate::partition) fn catching_up(next: Offset) -> Self {
        Self::CatchingUp { next, is_loaded: false, replay: Replay::default() }
    }

    /// Returns the phase as operators see it.
    pub(in crate::partition) fn name(&self) -> &'static str {
        match self {
            Self::Starting | Self::CatchingUp { .. } => "recovering",
            Self::Live { .. } | Self::Meeting { .. } => "live",
            Self::Opening | Self::Held => "quarantined",
        }
    }

    pub(super) fn replay(&mut self) -> Option<&mut Replay> {
        match self {
            Self::CatchingUp { replay, .. } | Self::Meeting { replay } => Some(replay),
            Self::Starting | Self::Live { .. } | Self::Opening | Self::Held => None,
        }
    }
}
