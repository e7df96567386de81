//! Why a partition halts, and why a campaign is put on hold.
//!
//! Each reason has a slug: the label of the metric, the start of the text that operators see, and
//! the anchor in README (`#halted-SLUG`, `#held-SLUG`) that names the remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ids::Offset, rows::HoldKind};

/// Declares reasons, each with its slug and what was found.
macro_rules! reasons {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $slug:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable name of the reason.
            #[must_use]
            pub fn slug(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* }
            }
        }
    };
}

reasons! {
    /// Why a partition decides nothing.
    HaltReason {
        /// Progress was written under another log epoch.
        LogEpoch => "log_epoch",
        /// The log begins above progress: records were trimmed before they were decided.
        LogTrimmed => "log_trimmed",
        /// The log ends below what was read or decided: it lost its tail.
        LogTruncated => "log_truncated",
        /// The last settled record is another one now: the log was rewritten.
        LogRewritten => "log_rewritten",
        /// The log refuses an offset that should exist.
        LogOutOfRange => "log_out_of_range",
        /// A stored row was derived from a record above the end of the log.
        RowAboveEnd => "row_above_end",
        /// The row of progress, of a hold, of a skip or of a register cannot be decoded.
        RowUndecodable => "row_undecodable",
        /// There are fewer rows of holds than the partition has had holds.
        HoldMissing => "hold_missing",
        /// A record's time is too far ahead of the node's clock.
        RecordInFuture => "record_in_future",
        /// A record has a newer format than this binary reads.
        RecordFormat => "record_format",
        /// A record has a time that its producer chose.
        RecordTime => "record_time",
        /// The log cannot be read at a position: its codec, checksum, format or size.
        Unreadable => "unreadable",
        /// The live reader got no record that a new reader got, twice in a row.
        ReaderHung => "reader_hung",
        /// An operator has made a skip, which is not in force yet.
        SkipMade => "skip_made",
        /// A skip in force covers positions that this owner has decided.
        SkipDecided => "skip_decided",
        /// A setting of a topic has changed to one that a start would refuse.
        TopicChanged => "topic_changed",
        /// The topic of requests does not exist any more.
        TopicMissing => "topic_missing",
    }
}

reasons! {
    /// Why a campaign decides nothing.
    HoldReason {
        /// The campaign's actor failed repeatedly at one position.
        ActorFailed => "actor_failed",
        /// The campaign's rows could not be loaded or stored for long, while the store answered.
        NotStored => "not_stored",
        /// A row does not have the digest of its contents.
        RowAltered => "row_altered",
        /// A row cannot be decoded.
        RowUndecodable => "row_undecodable",
        /// Rows are missing: sequences have a gap, or a stored count is not reached.
        RowsMissing => "rows_missing",
        /// A row contradicts other rows: its order, its position or the quota.
        RowsConflict => "rows_conflict",
        /// The log derives another row, or none, where the store has one.
        RowNotDerived => "row_not_derived",
        /// A row that was written cannot be read back.
        RowNotReadBack => "row_not_read_back",
        /// A definition version has rules that this binary does not know.
        RulesUnknown => "rules_unknown",
        /// A row of the by-user view has vanished, and cannot be written again.
        ByUserRowMissing => "by_user_row_missing",
        /// The log no longer has the records that a replay of the campaign needs.
        RecordsTrimmed => "records_trimmed",
    }
}

impl HoldReason {
    /// Returns the kind of the hold: only failures are retried without an operator.
    #[must_use]
    pub fn kind(self) -> HoldKind {
        match self {
            Self::ActorFailed | Self::NotStored => HoldKind::Failure,
            Self::RowAltered
            | Self::RowUndecodable
            | Self::RowsMissing
            | Self::RowsConflict
            | Self::RowNotDerived
            | Self::RowNotReadBack
            | Self::RulesUnknown
            | Self::ByUserRowMissing
            | Self::RecordsTrimmed => HoldKind::Contradiction,
        }
    }

    /// Returns the reason as a hold stores it: the slug, then what was found.
    #[must_use]
    pub fn text(self, detail: &str) -> String {
        format!("{}: {detail}", self.slug())
    }
}

/// Positions that no new reader gets a record from, or that were trimmed before they were decided. An
/// operator may skip exactly this range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The position at which the partition halted.
    pub from: Offset,
    /// The first offset at which a new reader gets a record; the end of the log if there is none.
    pub to: Offset,
    /// Another build of this binary may read the range, so it cannot be skipped.
    pub other_build: bool,
}

/// A halt of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// The reason.
    pub reason: HaltReason,
    /// What was found, as a sentence for the operator.
    pub detail: String,
    /// The range that halts the partition, where there is one and its end is known.
    pub unread: Option<Unread>,
}

impl Halt {
    /// Returns a halt for `reason`; `detail` says what was found.
    #[must_use]
    pub fn new(reason: HaltReason, detail: String) -> Self {
        Self { reason, detail, unread: None }
    }

    /// Returns the halt with the range that an operator may skip.
    #[must_use]
    pub fn with_unread(self, unread: Unread) -> Self {
        Self { unread: Some(unread), ..self }
    }

    /// Returns whether both halts are the same finding. The text of a range that cannot be read also
    /// says how far its end has been looked for.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let is_text_same = self.reason == HaltReason::Unreadable || self.detail == other.detail;
        (self.reason, self.unread) == (other.reason, other.unread) && is_text_same
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.slug(), self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_names_the_remedy_of_every_reason() {
        let readme = include_str!("../../README.md");
        let halted = HaltReason::ALL.iter().map(|reason| format!("halted-{}", reason.slug()));
        let held = HoldReason::ALL.iter().map(|reason| format!("held-{}", reason.slug()));
        for id in halted.chain(held) {
            let anchor = format!("| <a id=\"{id}\"></a>`");
            assert_eq!(readme.matches(&anchor).count(), 1, "README has one row {anchor}");
        }
    }

    #[test]
    fn texts_begin_with_the_slug() {
        let halt = Halt::new(HaltReason::LogTrimmed, "it begins at 9".to_owned());
        assert_eq!(halt.to_string(), "log_trimmed: it begins at 9");
        assert_eq!(HoldReason::RowAltered.text("coupon 3"), "row_altered: coupon 3");
    }
}
