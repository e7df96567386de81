//! The messages of a node's actors.
//!
//! They are separate from the actors, so that no two actors need to import each other.

use std::time::Duration;

use ractor::{ActorId, ActorRef, RpcReplyPort};

use super::{
    io::{NotOpened, OpenedPartition},
    load::LoadFailure,
};
use crate::{
    domain::{
        coupon::Coupon,
        halt::Halt,
        ids::{CampaignId, Offset, Partition},
        rows::Skip,
    },
    log::Ownership,
    partition::{
        actor_view::Crashed,
        flow::Event,
        fold::Batch,
        recovery::{Contradiction, Recovered},
    },
};

/// Messages of the supervisor.
pub enum SupervisorMessage {
    /// This node was given a partition, or lost one.
    Ownership(Ownership),
    /// Start a coupon actor after `delay`, in place of any earlier one of the campaign.
    Start {
        /// The actor to be started.
        start: CouponStart,
        /// Zero for a first start.
        delay: Duration,
    },
    /// The delay of a start is over.
    StartNow(Box<CouponStart>),
    /// Stop a campaign's actor, if this consumer had it started.
    Stop {
        /// The campaign whose actor is to be stopped.
        campaign: CampaignId,
        /// The partition consumer that had it started.
        consumer: ActorId,
    },
    /// Stop every coupon actor that a partition consumer had started.
    StopAll {
        /// The partition consumer.
        consumer: ActorId,
    },
    /// The pause after a failure of this partition's consumer is over.
    RestartConsumer(Partition),
    /// Count actors and campaigns for the metrics.
    Census,
    /// Stop reading in every partition and settle what was read; answered when that is done.
    Drain(RpcReplyPort<()>),
    /// Answer, so that the node's probes see that actors run.
    Ping(RpcReplyPort<()>),
    /// Crash an actor as a bug would. For tests and for chaos. Answered whether it runs here.
    Crash(Crashed, Option<RpcReplyPort<bool>>),
}

/// A coupon actor to be started.
pub struct CouponStart {
    /// The actor's campaign.
    pub campaign: CampaignId,
    /// Distinguishes the actor's messages from those of earlier actors of the campaign.
    pub incarnation: u64,
    /// Rows below this offset are loaded. Rows from here on are derived from the log again.
    pub from: Offset,
    /// The campaign's partition.
    pub partition: Partition,
    /// The partition's consumer: the actor reports to it directly.
    pub consumer: ActorRef<PartitionMessage>,
}

/// Messages of a partition consumer.
pub enum PartitionMessage {
    /// An input of the partition's flow.
    Event(Event),
    /// This generation of the partition is claimed and durable.
    Claimed(u64),
    /// The partition was opened, or must halt.
    Opened(Box<Result<OpenedPartition, NotOpened>>),
    /// The skips of the partition as they are stored now.
    Skips {
        /// Durable progress, read before.
        next: Offset,
        /// The skips.
        skips: Vec<Skip>,
    },
    /// What operators are told of undecided records that the log is about to remove, if there are any.
    Expiring(Option<String>),
    /// A coupon actor has loaded its campaign and takes batches.
    Started {
        /// The actor's campaign.
        campaign: CampaignId,
        /// The actor's incarnation.
        incarnation: u64,
        /// The highest offset at which a stored row waits to be derived again.
        expects_until: Option<Offset>,
        /// The actor; the consumer wraps it in a `CouponHandle`, which bounds its mailbox.
        actor: ActorRef<CouponMessage>,
    },
    /// The partition must halt.
    Halt(Halt),
    /// The partition must halt at its position. What was read below it is sound, and is settled
    /// before.
    HaltOnceSettled(Halt),
    /// Answer, so that the node's probes see that the partition is worked on.
    Ping(RpcReplyPort<()>),
    /// Time has passed.
    Tick,
    /// Stop reading and settle what was read; answered when that is done.
    Drain(RpcReplyPort<()>),
}

/// Messages of a coupon actor.
#[derive(Debug)]
pub enum CouponMessage {
    /// The load of the campaign's rows has ended.
    Loaded(Box<Result<Recovered, LoadFailure>>),
    /// Decide these records, in order.
    Decide(Batch),
    /// The rows of a batch are durable.
    Stored {
        /// The number of the batch.
        number: u64,
        /// The coupons whose by-user rows are still to be written.
        by_user: Vec<Coupon>,
    },
    /// Rows that were written could not be read back.
    Vanished(Contradiction),
    /// Panic as a bug would. For tests, and for chaos by hand.
    Crash,
}

impl SupervisorMessage {
    /// Returns the name of the message for probes.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ownership(_) => "ownership",
            Self::Start { .. } => "start",
            Self::StartNow(_) => "start_now",
            Self::Stop { .. } => "stop",
            Self::StopAll { .. } => "stop_all",
            Self::RestartConsumer(_) => "restart_consumer",
            Self::Census => "census",
            Self::Drain(_) => "drain",
            Self::Ping(_) => "ping",
            Self::Crash(..) => "crash",
        }
    }
}

impl PartitionMessage {
    /// Returns the name of the message for probes.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Event(event) => event.name(),
            Self::Claimed(_) => "claimed",
            Self::Opened(_) => "opened",
            Self::Expiring(_) => "expiring",
            Self::Skips { .. } => "skips",
            Self::Started { .. } => "started",
            Self::Halt(_) => "halt",
            Self::HaltOnceSettled(_) => "halt_once_settled",
            Self::Ping(_) => "ping",
            Self::Tick => "tick",
            Self::Drain(_) => "drain",
        }
    }
}

impl CouponMessage {
    /// Returns the name of the message for probes.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Loaded(_) => "loaded",
            Self::Decide(_) => "decide",
            Self::Stored { .. } => "stored",
            Self::Vanished(_) => "vanished",
            Self::Crash => "crash",
        }
    }
}
