//! What happens to a partition, and what is to be done about it.

use crate::{
    domain::{
        decision::Decision,
        ids::{CampaignId, Offset, Timestamp},
        rows::{Hold, Mark, Progress},
    },
    partition::{
        fold::{Batch, FoldedRecord},
        recovery::Contradiction,
    },
    wire::{
        LogRecord,
        decode_step::{Incoming, ReadRecord},
        feed_message::FeedMessage,
    },
};

/// What happens to a partition.
#[derive(Debug)]
pub enum Event {
    /// Records were read, in order.
    Read(Vec<Incoming>),
    /// A campaign's actor has loaded its rows.
    Started {
        /// Whose.
        campaign: CampaignId,
        /// Which incarnation.
        incarnation: u64,
        /// The highest position at which a stored row waits to be derived again.
        expects_until: Option<Offset>,
    },
    /// A batch is stored.
    Report(Report),
    /// A campaign's rows and the log contradict each other.
    Contradicted {
        /// Whose.
        campaign: CampaignId,
        /// Which incarnation.
        incarnation: u64,
        /// What was found.
        contradiction: Contradiction,
    },
    /// A campaign's actor failed.
    Failed {
        /// Whose.
        campaign: CampaignId,
        /// Which incarnation.
        incarnation: u64,
        /// Why.
        reason: String,
    },
    /// A chunk of a campaign's older records was read again.
    Replayed {
        /// Whose.
        campaign: CampaignId,
        /// For which incarnation.
        incarnation: u64,
        /// Its records, in order.
        records: Vec<ReadRecord>,
        /// Every record of the campaign below was in this chunk or an earlier one.
        read_to: Offset,
    },
    /// A hold is durable in this state.
    HoldWritten(Hold),
    /// The partition's holds, as the store has them now.
    Holds(Vec<Hold>),
    /// The dead letter of the record at this offset is durable.
    DeadLettered {
        /// The record's offset.
        offset: Offset,
        /// The campaign that is not defined there; none if the record could not be decoded.
        undefined: Option<CampaignId>,
    },
    /// Marks and progress are durable up to here.
    Persisted(Offset),
    /// The log ends here.
    End(Offset),
    /// Time goes by.
    Tick {
        /// Monotonic, in milliseconds.
        now_ms: u64,
        /// Wall clock; only judges whether a campaign is over.
        wall: Timestamp,
    },
}

impl Event {
    /// What it is called where events are counted.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Started { .. } => "started",
            Self::Report(_) => "report",
            Self::Contradicted { .. } => "contradicted",
            Self::Failed { .. } => "failed",
            Self::Replayed { .. } => "replayed",
            Self::HoldWritten(_) => "hold_written",
            Self::Holds(_) => "holds",
            Self::DeadLettered { .. } => "dead_lettered",
            Self::Persisted(_) => "persisted",
            Self::End(_) => "end",
            Self::Tick { .. } => "time",
        }
    }
}

/// A stored batch of one campaign.
#[derive(Debug)]
pub struct Report {
    /// Whose.
    pub campaign: CampaignId,
    /// Which incarnation.
    pub incarnation: u64,
    /// The batch's records with their outcomes, in order; the rows of all of them are stored.
    pub records: Vec<FoldedRecord>,
    /// Whether [`Event::Contradicted`] follows: not all that the batch passed is decided.
    pub contradicted: bool,
    /// From when on nothing is issued any more, whatever is asked; none: not known to end.
    pub over_from: Option<Timestamp>,
}

/// What is to be done. Effects on one campaign are carried out in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Load the campaign's rows with the log to be read again from `from`, and start its actor.
    Start {
        /// Whose.
        campaign: CampaignId,
        /// Which incarnation.
        incarnation: u64,
        /// Where the log is read again.
        from: Offset,
        /// After this many milliseconds.
        delay_ms: u64,
    },
    /// End the campaign's actor and whatever replays for it.
    Stop {
        /// Whose.
        campaign: CampaignId,
    },
    /// Hand a batch to the campaign's actor.
    Send {
        /// Whose.
        campaign: CampaignId,
        /// Which incarnation.
        incarnation: u64,
        /// The records.
        batch: Batch,
    },
    /// Read the campaign's records again from here on, chunk by chunk.
    Replay {
        /// Whose.
        campaign: CampaignId,
        /// For which incarnation.
        incarnation: u64,
        /// From where.
        from: Offset,
    },
    /// The chunk is stored: give the next one, or end when `met`.
    ReplayOn {
        /// Whose.
        campaign: CampaignId,
        /// Whether the live position was met.
        met: bool,
    },
    /// Make a hold durable in this state; before it, the mark that it makes true again.
    WriteHold {
        /// The hold.
        hold: Hold,
        /// How many coupons its campaign has, where it is closed.
        mark: Option<Mark>,
    },
    /// Write a record as a dead letter: its campaign is not defined at its offset.
    DeadLetter {
        /// The campaign.
        campaign: CampaignId,
        /// The record as it was read.
        record: LogRecord,
    },
    /// Make marks and holds durable, then the progress.
    Persist {
        /// Closed holds that reach further now.
        holds: Vec<Hold>,
        /// Marks that the progress passes.
        marks: Vec<Mark>,
        /// The progress.
        progress: Progress,
    },
    /// Tell the feed.
    Publish(FeedMessage),
    /// Count a decision that was settled for the first time.
    Count(Decision),
    /// Tell the log how far the partition is settled.
    ReportProgress {
        /// Durable progress.
        next: Offset,
        /// Lowest `from` of a hold that is not closed.
        keep_from: Option<Offset>,
    },
    /// So many more records may be read.
    Credit(usize),
}
