//! What can happen next in a world, and to whom it happens.

use std::rc::Rc;

use super::{
    appends::{Confirmed, Pending},
    client::Reply,
    faults::Fault,
    world::World,
};
use crate::{
    domain::{
        ids::{Offset, Partition},
        rows::Row,
    },
    partition::flow::Event,
    wire::feed_message::FeedMessage,
};

/// One thing that happens.
pub(super) enum Act {
    // To an owner of a partition, by its number.
    Tick(usize),
    Open(usize),
    Tell(usize, Box<Event>),
    Read(usize),
    Letter(usize),
    Undefined(usize, usize, Offset),
    Load(usize, usize, u64),
    Decide(usize, usize, u64),
    Replay(usize, usize, u64),
    Look(usize, bool),
    Commit(usize, Offset),
    // To the store.
    Land(Rc<Vec<Row>>, Option<u64>, u32),
    Ack(u64),
    Retry(u64),
    // To the log.
    Append(Box<Pending>),
    Sync,
    Appended(Box<Confirmed>),
    AppendUnknown(Box<Confirmed>),
    // To an API node, by its number and life.
    Feed(usize, u32, Rc<FeedMessage>),
    Gap(usize, u32),
    Fly(usize, u32, usize, bool),
    Question(usize),
    QuestionEnds(usize),
    Silence(usize),
    Arrives { campaign: usize, user: u16, key: Option<u16> },
    Ask(usize),
    Get { kept: usize, node: usize, wait: u64, is_final: bool },
    View { node: usize, campaign: usize },
    Holdings { node: usize, campaign: usize, user: u16 },
    // To a client or an administrator.
    Reply(usize, Reply),
    TimedOut(usize),
    Errand(usize),
    // To the whole.
    Assign { partition: Partition, overlap: Option<u64> },
    Revoke(usize),
    Boot(usize),
    Trouble(Fault),
    Heal,
    Mend,
    Ruin,
    Check,
}

impl Act {
    /// The node that it happens on: one that is paused lets it wait.
    pub(super) fn node(&self, world: &World) -> Option<usize> {
        match self {
            Self::Tick(owner)
            | Self::Open(owner)
            | Self::Tell(owner, _)
            | Self::Read(owner)
            | Self::Letter(owner)
            | Self::Undefined(owner, ..)
            | Self::Load(owner, ..)
            | Self::Decide(owner, ..)
            | Self::Replay(owner, ..)
            | Self::Look(owner, _)
            | Self::Commit(owner, _)
            | Self::Revoke(owner) => world.owners[*owner].as_ref().map(|owner| owner.node),
            Self::Ack(job) | Self::Retry(job) => {
                let owner = world.jobs.get(job)?.owner;
                world.owners[owner].as_ref().map(|owner| owner.node)
            }
            Self::Appended(confirmed) | Self::AppendUnknown(confirmed) => Some(confirmed.node),
            Self::Feed(node, ..) | Self::Gap(node, _) | Self::Fly(node, ..) => Some(*node),
            Self::Question(at) | Self::QuestionEnds(at) | Self::Silence(at) => {
                world.questions[*at].as_ref().map(|question| question.node)
            }
            Self::Ask(ask) => Some(world.asks[*ask].node),
            Self::Get { node, .. } | Self::View { node, .. } | Self::Holdings { node, .. } => {
                Some(*node)
            }
            _ => None,
        }
    }

    /// What it is and to whom, as numbers for the hash of the trace.
    pub(super) fn fingerprint(&self) -> (u8, u64) {
        match self {
            Self::Tick(owner) => (0, *owner as u64),
            Self::Open(owner) => (1, *owner as u64),
            Self::Tell(owner, _) => (2, *owner as u64),
            Self::Read(owner) => (3, *owner as u64),
            Self::Letter(owner) => (4, *owner as u64),
            Self::Undefined(_, _, offset) => (5, *offset),
            Self::Load(_, campaign, incarnation) => (6, incarnation << 8 | *campaign as u64),
            Self::Decide(_, campaign, incarnation) => (7, incarnation << 8 | *campaign as u64),
            Self::Replay(_, campaign, incarnation) => (8, incarnation << 8 | *campaign as u64),
            Self::Look(owner, _) => (9, *owner as u64),
            Self::Commit(_, next) => (10, *next),
            Self::Land(rows, job, _) => (11, job.unwrap_or(0) << 16 | rows.len() as u64),
            Self::Ack(job) => (12, *job),
            Self::Retry(job) => (13, *job),
            Self::Append(pending) => (14, u64::from(pending.partition)),
            Self::Sync => (15, 0),
            Self::Appended(confirmed) => (16, confirmed.offset),
            Self::AppendUnknown(confirmed) => (17, confirmed.offset),
            Self::Feed(node, _, message) => (18, message.to << 8 | *node as u64),
            Self::Gap(node, _) => (19, *node as u64),
            Self::Fly(node, _, campaign, _) => (20, (*node << 8 | *campaign) as u64),
            Self::Question(at) => (21, *at as u64),
            Self::QuestionEnds(at) => (22, *at as u64),
            Self::Silence(at) => (23, *at as u64),
            Self::Ask(ask) => (24, *ask as u64),
            Self::Get { kept, node, .. } => (25, (*kept << 8 | *node) as u64),
            Self::View { campaign, .. } => (26, *campaign as u64),
            Self::Holdings { user, .. } => (27, u64::from(*user)),
            Self::Reply(ask, _) => (28, *ask as u64),
            Self::TimedOut(ask) => (29, *ask as u64),
            Self::Errand(errand) => (30, *errand as u64),
            Self::Assign { partition, .. } => (31, u64::from(*partition)),
            Self::Revoke(owner) => (32, *owner as u64),
            Self::Boot(node) => (33, *node as u64),
            Self::Trouble(fault) => (34, *fault as u64),
            Self::Heal => (35, 0),
            Self::Mend => (36, 0),
            Self::Check => (37, 0),
            Self::Ruin => (38, 0),
            Self::Arrives { user, .. } => (39, u64::from(*user)),
        }
    }

    /// As a line of the trace.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Tick(owner) => format!("tick of owner {owner}"),
            Self::Open(owner) => format!("owner {owner} opens its partition"),
            Self::Tell(owner, event) => format!("owner {owner} is told {event:?}"),
            Self::Read(owner) => format!("owner {owner} reads on"),
            Self::Letter(owner) => format!("owner {owner} keeps a dead letter"),
            Self::Undefined(owner, _, at) => format!("owner {owner} keeps {at} as undefined"),
            Self::Load(owner, campaign, number) => {
                format!("owner {owner} loads c{campaign}, incarnation {number}")
            }
            Self::Decide(owner, campaign, number) => {
                format!("owner {owner} decides a batch of c{campaign}, incarnation {number}")
            }
            Self::Replay(owner, campaign, _) => format!("owner {owner} replays c{campaign}"),
            Self::Look(owner, _) => format!("owner {owner} looks at log and holds"),
            Self::Commit(owner, next) => format!("owner {owner} commits {next}"),
            Self::Land(rows, _, _) => format!("{} rows land: {:?}", rows.len(), rows.first()),
            Self::Ack(job) => format!("write {job} is answered"),
            Self::Retry(job) => format!("write {job} is tried again"),
            Self::Append(pending) => format!("append arrives: {:?}", pending.fresh.meant),
            Self::Sync => "the log is synced".to_owned(),
            Self::Appended(confirmed) => format!("append confirmed: {confirmed:?}"),
            Self::AppendUnknown(confirmed) => format!("append unknown: {confirmed:?}"),
            Self::Feed(node, _, message) => format!("node {node} follows {message:?}"),
            Self::Gap(node, _) => format!("node {node} is told of a gap"),
            Self::Fly(node, _, campaign, _) => format!("node {node} reads c{campaign}"),
            Self::Question(at) => format!("question {at} asks the store"),
            Self::QuestionEnds(at) => format!("question {at} ends"),
            Self::Silence(at) => format!("question {at} listens for its owner"),
            Self::Ask(ask) => format!("ask {ask} arrives"),
            Self::Get { kept, node, .. } => format!("node {node} is asked for request {kept}"),
            Self::View { node, campaign } => format!("node {node} shows c{campaign}"),
            Self::Holdings { node, campaign, user } => {
                format!("node {node} lists the coupons of u{user} in c{campaign}")
            }
            Self::Reply(ask, reply) => format!("ask {ask} is answered {reply:?}"),
            Self::TimedOut(ask) => format!("ask {ask} gives up"),
            Self::Errand(errand) => format!("errand {errand}"),
            Self::Assign { partition, overlap } => {
                format!("partition {partition} is assigned, overlap {overlap:?}")
            }
            Self::Revoke(owner) => format!("owner {owner} is revoked"),
            Self::Boot(node) => format!("node {node} starts"),
            Self::Trouble(fault) => format!("!! {}", fault.name()),
            Self::Heal => "everything heals".to_owned(),
            Self::Mend => "held campaigns are released".to_owned(),
            Self::Check => "is everything settled?".to_owned(),
            Self::Ruin => "what must halt".to_owned(),
            Self::Arrives { campaign, user, key } => {
                format!("u{user} wants a coupon of c{campaign}, key {key:?}")
            }
        }
    }
}
