//! The inputs and outputs of the flow.

use crate::{
    domain::{
        coupon::Coupon,
        decision::Decision,
        ids::{CampaignId, Offset, Timestamp},
        rows::{Hold, Mark, Progress},
    },
    partition::{
        fold::{Batch, FoldedRecord},
        recovery::Contradiction,
        restart::LoadStep,
    },
    wire::{
        LogRecord,
        decode_step::{Incoming, ReadRecord},
        feed_message::{CampaignNews, FeedDecision},
    },
};

/// An input of the flow.
#[derive(Debug)]
pub enum Event {
    /// Records were read, in order.
    Read(Vec<Incoming>),
    /// Everything below this offset that was not read is passed: a skip in force covers it.
    Passed(Offset),
    /// A campaign's actor has loaded its rows and takes batches.
    Started {
        /// The campaign.
        campaign: CampaignId,
        /// The incarnation of its actor.
        incarnation: u64,
        /// The highest position at which a stored row waits to be derived again.
        expects_until: Option<Offset>,
    },
    /// The rows of a batch are durable.
    Report(BatchReport),
    /// A campaign's rows and the log contradict each other.
    Contradicted {
        /// The campaign.
        campaign: CampaignId,
        /// The incarnation of its actor.
        incarnation: u64,
        /// What was found.
        contradiction: Contradiction,
    },
    /// A campaign's actor failed.
    Failed {
        /// The campaign.
        campaign: CampaignId,
        /// The incarnation of its actor.
        incarnation: u64,
        /// The text of the panic or error.
        reason: String,
    },
    /// Of the campaigns that nobody knew, these exist. The store was read after everything below
    /// `below` had been.
    LookedUp {
        /// As in [`Effect::LookUp`].
        below: Offset,
        /// The campaigns; others may be among them.
        known: Vec<CampaignId>,
    },
    /// Records of any campaign were read again.
    ReadAgain {
        /// The run that read them.
        run: u64,
        /// The records that can be decoded, in order.
        records: Vec<ReadRecord>,
        /// Every record below this offset was in this chunk or an earlier one.
        read_to: Offset,
    },
    /// Records of any campaign were read again, for those that catch up with their holds.
    Replayed {
        /// The run that read them.
        run: u64,
        /// The records that can be decoded, in order.
        records: Vec<ReadRecord>,
        /// As in [`Event::ReadAgain`].
        read_to: Offset,
    },
    /// Campaigns that catch up need records that nobody can read.
    NotReplayed {
        /// The run that found this.
        run: u64,
        /// Campaigns that wait for records below go back on hold.
        below: Offset,
        /// What was found, as a sentence for the operator.
        detail: String,
    },
    /// Records were read again, for those of them that are dead letters.
    LettersRead {
        /// The run that read them.
        run: u64,
        /// The records, in order.
        records: Vec<LogRecord>,
        /// As in [`Event::ReadAgain`].
        read_to: Offset,
    },
    /// The mark behind the version at this offset is durable.
    Marked(Offset),
    /// A hold is durable in this state.
    HoldWritten(Hold),
    /// The partition's holds as they are stored now.
    Holds(Vec<Hold>),
    /// The number of the partition's holds as it is stored now.
    HoldsCounted {
        /// The number.
        found: u64,
        /// [`Flow::holds_counted`](super::Flow::holds_counted) before it was read.
        expected: u64,
    },
    /// The dead letter of the record at this offset is durable.
    DeadLettered {
        /// The record's offset.
        offset: Offset,
        /// Why it was one.
        of: LetterOf,
    },
    /// By-user rows of a campaign are durable: those of the write with this number.
    ByUserStored {
        /// The campaign.
        campaign: CampaignId,
        /// As in [`Effect::WriteByUser`].
        number: u64,
    },
    /// These marks of [`Effect::WriteMarks`] are durable.
    MarksStored(Vec<(CampaignId, Offset)>),
    /// Progress is durable up to this offset, with the marks that it passes.
    Persisted(Offset),
    /// The load of a campaign's rows goes on.
    Loads {
        /// The campaign.
        campaign: CampaignId,
        /// The incarnation of its actor.
        incarnation: u64,
        /// How.
        step: LoadStep,
    },
    /// The log ends at this offset.
    End(Offset),
    /// Time has passed.
    Tick {
        /// Milliseconds of a monotonic clock.
        now_ms: u64,
        /// Wall clock. Used only to see that a campaign is over.
        wall: Timestamp,
    },
}

impl Event {
    /// Returns the name under which probes see the event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Passed(_) => "passed",
            Self::Started { .. } => "started",
            Self::Report(_) => "report",
            Self::Contradicted { .. } => "contradicted",
            Self::Failed { .. } => "failed",
            Self::Replayed { .. } => "replayed",
            Self::NotReplayed { .. } => "not_replayed",
            Self::LookedUp { .. } => "looked_up",
            Self::ReadAgain { .. } => "read_again",
            Self::LettersRead { .. } => "letters_read",
            Self::Marked(_) => "marked",
            Self::HoldWritten(_) => "hold_written",
            Self::Holds(_) => "holds",
            Self::HoldsCounted { .. } => "holds_counted",
            Self::DeadLettered { .. } => "dead_lettered",
            Self::ByUserStored { .. } => "by_user_stored",
            Self::MarksStored(_) => "marks_stored",
            Self::Persisted(_) => "persisted",
            Self::Loads { .. } => "loads",
            Self::End(_) => "end",
            Self::Tick { .. } => "time",
        }
    }
}

/// Why a record is a dead letter, as far as the flow goes by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterOf {
    /// It cannot be decoded, or its campaign is not defined at its offset. It was set aside.
    SetAside,
    /// Its campaign is not defined at its offset, as a replay of the campaign has found.
    Replayed {
        /// The campaign.
        campaign: CampaignId,
        /// What it costs until its letter is durable.
        credit: usize,
    },
}

/// Campaigns to be looked up in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These: few enough for a read of each.
    These(Vec<CampaignId>),
    /// All with one of these hashes ([`id_hash`](crate::partition::acks::id_hash)), sorted: one scan
    /// finds them.
    Hashed(Vec<u32>),
}

/// Why records are read again from a position on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Again {
    /// Campaigns decide what was set aside.
    Campaigns,
    /// Campaigns catch up with their holds.
    Holds,
    /// Dead letters repeat their bytes.
    Letters,
}

/// A batch of one campaign whose rows are durable.
#[derive(Debug)]
pub struct BatchReport {
    /// The campaign.
    pub campaign: CampaignId,
    /// The incarnation of its actor.
    pub incarnation: u64,
    /// The batch's records with their outcomes, in order; the rows of all of them are stored, but
    /// those by user of `by_user`.
    pub records: Vec<FoldedRecord>,
    /// The coupons whose by-user rows are still to be written, in order.
    pub by_user: Vec<Coupon>,
    /// A contradiction ended the batch early; [`Event::Contradicted`] follows.
    pub contradicted: bool,
    /// The time from which on nothing is issued any more; none if it is not known.
    pub over_from: Option<Timestamp>,
}

/// What the owner publishes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The watermark before; 0 at first.
    pub from: Offset,
    /// The watermark.
    pub to: Offset,
    /// The end of the log as last seen.
    pub end: Offset,
    /// The number of records below `end` that wait for a decision.
    pub waiting: u64,
    /// Whether it is time to say also how the partition is.
    pub is_heartbeat: bool,
    /// Decisions that are stored and were not published.
    pub decisions: Vec<FeedDecision>,
    /// The campaigns of these decisions, each with a tally of these.
    pub campaigns: Vec<CampaignNews>,
}

/// An output of the flow. Effects on one campaign must be carried out in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the campaign's actor, in place of an earlier one. It loads the rows below `from`.
    Start {
        /// The campaign.
        campaign: CampaignId,
        /// The incarnation of its actor.
        incarnation: u64,
        /// Where the campaign's records are derived again.
        from: Offset,
        /// Delay of the start, in milliseconds.
        delay_ms: u64,
    },
    /// Stop the campaign's actor.
    Stop {
        /// The campaign.
        campaign: CampaignId,
    },
    /// Send a batch to the campaign's actor.
    Send {
        /// The campaign.
        campaign: CampaignId,
        /// The incarnation of its actor.
        incarnation: u64,
        /// The records.
        batch: Batch,
    },
    /// Make a hold durable in this state, after the mark that goes with its end.
    WriteHold {
        /// The hold.
        hold: Hold,
        /// The mark at the end of a closed hold, if the replay derived rows.
        mark: Option<Mark>,
    },
    /// Make the mark behind a version durable. Everything of the campaign below it is stored.
    WriteMark {
        /// The mark.
        mark: Mark,
        /// The version's offset, for [`Event::Marked`].
        version: Offset,
    },
    /// Write a record as a dead letter: it cannot be decoded, or its campaign is not defined at its
    /// offset.
    DeadLetter {
        /// Who waits for it.
        of: LetterOf,
        /// The record as it was read.
        record: LogRecord,
    },
    /// Look up which of the campaigns that nobody knows exist.
    LookUp {
        /// Everything below was read.
        below: Offset,
        /// The campaigns.
        wanted: Wanted,
    },
    /// Begin to read records again, in place of an earlier run for the same purpose.
    BeginAgain {
        /// The purpose.
        of: Again,
        /// The number of the run.
        run: u64,
        /// The first offset.
        from: Offset,
    },
    /// Read the next chunk again.
    GoOnAgain {
        /// The purpose of the run.
        of: Again,
    },
    /// End the run.
    EndAgain {
        /// Its purpose.
        of: Again,
    },
    /// Make by-user rows of a campaign durable. A campaign has one such write at a time.
    WriteByUser {
        /// The campaign.
        campaign: CampaignId,
        /// The number of the write in its campaign.
        number: u64,
        /// The coupons. Their coupon rows are durable.
        coupons: Vec<Coupon>,
    },
    /// Make marks durable, each by itself if they cannot be written together.
    WriteMarks(Vec<Mark>),
    /// Make holds and their number durable, then progress.
    Persist {
        /// Closed holds that are extended.
        holds: Vec<Hold>,
        /// How many holds the partition ever had, if that is not durable.
        holds_ever: Option<u64>,
        /// The progress.
        progress: Progress,
    },
    /// Tell operators that the number of holds has vanished from the store again after it was written.
    HoldCountLost {
        /// The number that was stored.
        expected: u64,
    },
    /// Publish what is new.
    Publish(News),
    /// Count a decision in the metrics.
    Count(Decision),
    /// Report progress to the log, for lag tools and trimming.
    ReportProgress {
        /// Durable progress.
        next: Offset,
        /// The lowest offset that a hold may still need.
        keep_from: Option<Offset>,
    },
    /// Give the reader more credit.
    Credit(usize),
}
