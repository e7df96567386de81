//! What happens in a world: what clients and operators do, and what goes wrong. Everything but the
//! time that messages take is an act, so that a list of acts is a whole story.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::course::Setup;
use super::damage::RowDamage;
use super::link::{Call, Engine, Fate};
use super::probe::ActorKind;
use super::unreachable::Why;

/// What an operator does to a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verb {
    Pause,
    Resume,
    Close,
    Release,
}

/// What becomes of a feed message on its way to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Delivery {
    Lost,
    /// Late, and later ones behind it.
    Late,
    /// Later ones overtake it.
    Overtaken,
    Twice,
    /// It comes with an older message of the partition, of any owner, behind it.
    Replayed,
    /// The follower is told of a gap.
    Gap,
}

impl Delivery {
    pub(super) const ALL: [Self; 6] =
        [Self::Lost, Self::Late, Self::Overtaken, Self::Twice, Self::Replayed, Self::Gap];
}

/// A record that no node wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Foreign {
    /// A valid request.
    Request,
    /// A request of a campaign that is defined late or never.
    Undefined,
    /// No JSON, or cut off.
    Malformed,
    /// A change that no API node asks for, with a valid MAC: to terms that are invalid.
    Unsound,
    /// As before: a resumption, also of a closed campaign.
    Resumption,
    /// A release record of a node, once more. Not drawn: few worlds have one early enough.
    OldRelease,
    /// A control record without a MAC.
    NoMac,
    /// A control record with another MAC.
    OtherMac,
    /// A record of a newer format with another MAC.
    NewerForged,
    /// A valid request in the partition of other campaigns.
    OtherPartition,
    /// Larger than any that is read.
    Oversized,
    /// Hundreds at once: requests of campaigns that never exist, and records that are no JSON. Not drawn:
    /// worlds with the smallest windows take longer to write the dead letters than their bounds allow.
    Burst,
}

impl Foreign {
    pub(super) const ALL: [Self; 10] = [
        Self::Request,
        Self::Undefined,
        Self::Malformed,
        Self::Unsound,
        Self::Resumption,
        Self::NoMac,
        Self::OtherMac,
        Self::NewerForged,
        Self::OtherPartition,
        Self::Oversized,
    ];
}

/// What happens to a partition of the log, after which it must halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogDamage {
    /// Settled records are gone from the end.
    Truncated,
    /// As before, while nodes run: they must notice by themselves.
    CutOff,
    /// Unsettled records are gone from the beginning.
    Trimmed,
    /// It is empty and begins again.
    Recreated,
    /// The last settled record is another one.
    Rewritten,
    /// A record of a newer format, with a valid MAC.
    Newer,
    /// A record a month ahead of every clock.
    FarAhead,
}

impl LogDamage {
    pub(super) const ALL: [Self; 7] = [
        Self::Truncated,
        Self::CutOff,
        Self::Trimmed,
        Self::Recreated,
        Self::Rewritten,
        Self::Newer,
        Self::FarAhead,
    ];
}

/// What becomes of records that an operator skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lost {
    /// They stay as they are.
    Unread,
    /// They are trimmed before they are skipped.
    Trimmed,
    /// They can be read once they are skipped.
    Healed,
}

impl Lost {
    pub(super) const ALL: [Self; 3] = [Self::Unread, Self::Trimmed, Self::Healed];
}

/// Something that happens. Nodes, campaigns, users and keys go by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Act {
    /// A client asks for a coupon.
    Ask {
        client: u32,
        node: usize,
        campaign: u8,
        user: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
    },
    /// A client without an answer asks again.
    Retry {
        client: u32,
        node: usize,
    },
    /// A client asks for the answer to its request.
    Find {
        client: u32,
        node: usize,
        wait_ms: u64,
    },
    /// Somebody looks at a campaign.
    View {
        node: usize,
        campaign: u8,
    },
    /// A user looks at its coupons.
    List {
        node: usize,
        campaign: u8,
        user: u8,
    },
    /// Somebody looks at the list of campaigns.
    Browse {
        node: usize,
    },
    /// An operator defines a campaign, again and again until it is.
    Define {
        node: usize,
        campaign: u8,
        quota: u32,
        limit: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opens_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        closes_ms: Option<u64>,
    },
    /// An operator changes the terms.
    Amend {
        node: usize,
        campaign: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quota: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opens_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        closes_ms: Option<u64>,
    },
    Control {
        node: usize,
        campaign: u8,
        verb: Verb,
    },
    /// The next such call, of one node or of any, has this fate.
    Strike {
        call: Call,
        fate: Fate,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<usize>,
    },
    /// The next feed message to this node has this fate.
    Message {
        node: usize,
        delivery: Delivery,
    },
    /// A node is killed, and starts again.
    Crash {
        node: usize,
        down_ms: u64,
    },
    /// A node settles what it has read and leaves the group, and starts again.
    Stop {
        node: usize,
        down_ms: u64,
    },
    /// A node stands still, and goes on. The group may go on without it.
    Pause {
        node: usize,
        ms: u64,
        expelled: bool,
    },
    /// A partition gets another owner. The old one may hear of it late.
    Move {
        partition: u32,
        told_ms: u64,
    },
    /// A node, or every node, does not reach an engine, or one partition of the log.
    Cut {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<usize>,
        engine: Engine,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partition: Option<u32>,
        ms: u64,
    },
    /// When all else has healed, a node does not reach an engine, or one partition of the log, until the
    /// others have decided what is asked. The last such act counts.
    HalfDead {
        node: usize,
        engine: Engine,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partition: Option<u32>,
    },
    /// An actor of a node, or of any, panics after so many messages.
    PanicAt {
        actor: ActorKind,
        after: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<usize>,
    },
    CrashActor {
        campaign: u8,
    },
    CrashConsumer {
        partition: u32,
    },
    /// A campaign's next writes of coupons and its next loads panic.
    Curse {
        campaign: u8,
        times: u32,
    },
    /// The rows of one campaign cannot be reached for a while, or only one bucket of its by-user view.
    Unreachable {
        campaign: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<u8>,
        why: Why,
        ms: u64,
    },
    /// Records of the log cannot be read, from so many offsets below its end on: for a while, or
    /// until all faults end.
    Unreadable {
        partition: u32,
        back: u64,
        records: u64,
        /// Readers are told that waiting does not help.
        lasting: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ms: Option<u64>,
    },
    /// The next records of a partition can never be read. When all other faults have ended, an operator
    /// skips them. Before, they are trimmed; or right afterwards, they can be read after all.
    Lose {
        partition: u32,
        records: u64,
        why: Lost,
    },
    /// An operator skips what halts a partition, as a node says it, or gives another offset.
    Skip {
        partition: u32,
        wrong: bool,
    },
    /// A node's wall clock jumps.
    Jump {
        node: usize,
        ms: i64,
    },
    /// The wall clock of a node with a log of its own is set, and may be set right after a while.
    SetClock {
        ms: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// Record times differ from the true time for a while.
    RecordTimes {
        skew_ms: i64,
        ms: u64,
    },
    /// A record that no node wrote.
    Foreign {
        kind: Foreign,
        campaign: u8,
        user: u8,
    },
    /// The log forgets what is settled.
    Trim {},
    /// Every node stops, the store is as it was a while ago, and every node starts.
    SetBack {
        ms: u64,
    },
    /// Power fails: what was not synced is gone, or a part of it.
    PowerCut {
        torn: bool,
    },
    /// Free space is short for a while.
    DiskFull {
        ms: u64,
    },
    DamageRows {
        damage: RowDamage,
        campaign: u8,
        which: u64,
    },
    DamageLog {
        damage: LogDamage,
        partition: u32,
    },
}

impl Act {
    /// Name of its kind in the table of what happened.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Control { verb, .. } => word(verb),
            Self::Strike { call, fate, .. } => strike_kind(*call, *fate),
            Self::Message { delivery, .. } => format!("message-{}", word(delivery)),
            Self::Pause { expelled: true, .. } => "pause-expelled".to_owned(),
            Self::Move { told_ms: 1.., .. } => "two-owners".to_owned(),
            Self::Cut { node, engine, partition, .. } => {
                let whom = if node.is_some() { "node" } else { "all" };
                format!("cut-{whom}-{}", link(*engine, *partition))
            }
            Self::HalfDead { engine, partition, .. } => {
                format!("half-dead-{}", link(*engine, *partition))
            }
            Self::PanicAt { actor, .. } => actor.panic_kind(),
            Self::Unreachable { bucket: Some(_), why, .. } => format!("by-user-{}", word(why)),
            Self::Unreachable { why, .. } => format!("campaign-{}", word(why)),
            Self::Unreadable { lasting, .. } => {
                format!("unreadable-{}", if *lasting { "codec" } else { "disk" })
            }
            Self::SetClock { for_ms: Some(_), .. } => "clock-set-and-right-again".to_owned(),
            Self::SetClock { ms: ..0, .. } => "clock-set-back".to_owned(),
            Self::SetClock { .. } => "clock-set-ahead".to_owned(),
            Self::Lose { why, .. } => format!("lost-{}", word(why)),
            Self::Skip { wrong: true, .. } => "skip-elsewhere".to_owned(),
            Self::RecordTimes { skew_ms: ..0, .. } => "record-times-back".to_owned(),
            Self::RecordTimes { .. } => "record-times-ahead".to_owned(),
            Self::Foreign { kind, .. } => format!("foreign-{}", word(kind)),
            Self::PowerCut { torn: true } => "power-cut-torn".to_owned(),
            Self::DamageRows { damage, .. } => format!("rows-{}", word(damage)),
            Self::DamageLog { damage, .. } => format!("log-{}", word(damage)),
            _ => word(self),
        }
    }

    /// What it names by number: the word, the number, and how many there are.
    pub(super) fn names(&self, setup: &Setup) -> Vec<(&'static str, u64, u64)> {
        let Ok(Value::Object(fields)) = serde_json::to_value(self) else { return Vec::new() };
        let known = [
            ("node", setup.nodes as u64),
            ("partition", u64::from(setup.partitions)),
            ("campaign", u64::from(setup.campaigns)),
            ("user", u64::from(setup.users)),
        ];
        let named = known.into_iter().filter_map(|(word, below)| {
            fields.get(word).and_then(Value::as_u64).map(|number| (word, number, below))
        });
        named.collect()
    }

    /// Whether it is what clients and operators do every day, and no fault.
    pub(super) fn is_daily(&self) -> bool {
        matches!(
            self,
            Self::Ask { .. }
                | Self::Retry { .. }
                | Self::Find { .. }
                | Self::View { .. }
                | Self::List { .. }
                | Self::Browse { .. }
                | Self::Define { .. }
                | Self::Amend { .. }
                | Self::Control { .. }
        )
    }
}

/// Name of the kind of a call's fate.
pub(super) fn strike_kind(call: Call, fate: Fate) -> String {
    format!("{}-{}", word(&call), word(&fate))
}

/// What of an engine is cut off.
pub(super) fn link(engine: Engine, partition: Option<u32>) -> String {
    if partition.is_some() { "partition".to_owned() } else { word(&engine) }
}

/// The name of a variant as files have it, with hyphens.
pub(super) fn word(value: &impl Serialize) -> String {
    let name = match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(fields)) => match fields.get("act").and_then(Value::as_str) {
            Some(act) => act.to_owned(),
            None => fields.into_iter().next().map(|(name, _)| name).unwrap_or_default(),
        },
        _ => String::new(),
    };
    name.replace('_', "-")
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask { client, node, campaign, user, key, wait_ms } => {
                let key = key.map(|key| format!(" with key-{key}")).unwrap_or_default();
                let wait = wait_ms.map(|ms| format!(", waits {ms} ms")).unwrap_or_default();
                write!(
                    f,
                    "client {client}: user-{user} asks node {node} for campaign-{campaign}{key}{wait}"
                )
            }
            Self::Retry { client, node } => write!(f, "client {client} asks again at node {node}"),
            Self::Find { client, node, wait_ms } => {
                write!(f, "client {client} wants its answer from node {node}, waits {wait_ms} ms")
            }
            Self::Strike { call, fate, node } => {
                let whose = node.map_or("any node".to_owned(), |node| format!("node {node}"));
                write!(f, "the next {} of {whose}: {}", word(call), word(fate))
            }
            other => {
                let text = serde_json::to_string(other).unwrap_or_default();
                let text = text.replace(['"', '{', '}'], "").replace("act:", "");
                f.write_str(&text.replace(',', ", ").replace(':', " "))
            }
        }
    }
}
