//! Messages of the decision feed, which a partition's owner sends to every API node, and their
//! codec.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{FORMAT, codec::mac_text};
use crate::domain::{
    answer::Answer,
    halt::Unread,
    ids::{CampaignId, Offset, Partition, ProcessName, UserId},
    keys::{Keys, Macs},
    rows::NodeRow,
};

const MAC_PURPOSE: &str = "feed";

/// Who sent a message, and in which order. A follower ignores a message of a lower generation than it
/// has heard, and one whose number is not above the owner's last: both may be old messages that were
/// sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// Number of the ownership, from 1.
    pub generation: u64,
    /// The owner's process. Two owners may claim the same generation at once.
    pub owner: ProcessName,
    /// Number of the message, from 1. Rises by 1 with each message of this process about the partition,
    /// also with those that are lost before they are sent, and over all ownerships.
    pub number: u64,
}

/// A message about one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedMessage {
    /// Log epoch.
    pub log_epoch: u32,
    /// Partition.
    pub partition: Partition,
    /// Who sent it, and in which order.
    pub sender: Sender,
    /// Watermark in this owner's message before; 0 in the owner's first.
    pub from: Offset,
    /// Watermark: every position below is decided and stored, except for campaigns on hold.
    pub to: Offset,
    /// High watermark of the log when the owner last looked.
    pub end: Offset,
    /// The number of records below `end` that wait for a decision.
    pub waiting: u64,
    /// How the partition is; told once a second while it is not halted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub condition: Option<Condition>,
    /// Why the partition is halted, if so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub halted: Option<String>,
    /// The range that halts the partition, where an operator may be able to skip it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unread: Option<Unread>,
    /// Decisions stored since the message before.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub decisions: Vec<FeedDecision>,
}

/// Most campaigns on hold that a message names: enough to begin with, and the message stays small.
pub const QUARANTINED_NAMED_MAX: usize = 8;

/// Age of a watermark, in seconds, from which on its partition is degraded. A takeover takes less.
pub const STUCK_AFTER_S: u64 = 15;

/// What operators must know of a partition, on every node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Condition {
    /// For how many seconds the watermark has stood still while records wait; 0 when nothing waits.
    pub age_s: u64,
    /// What the watermark waits for, from an age of [`STUCK_AFTER_S`] on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits_for: Option<String>,
    /// How many campaigns are on hold.
    pub quarantined: usize,
    /// The first of them, at most [`QUARANTINED_NAMED_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub named: Vec<CampaignId>,
}

/// A decision in the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedDecision {
    /// Offset of the record.
    pub offset: Offset,
    /// Campaign of the record.
    pub campaign_id: CampaignId,
    /// User of the request; `None` for a control record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_id: Option<UserId>,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What a node says of itself, once a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMessage {
    /// Log epoch.
    pub log_epoch: u32,
    /// The partition of the feed that carries it: any one will do.
    pub partition: Partition,
    /// What the node's row says.
    pub node: NodeRow,
}

/// A message of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyMessage {
    /// About a partition.
    Partition(FeedMessage),
    /// About a node.
    Node(NodeMessage),
}

/// Encodes messages with a MAC, and decodes only those that this instance wrote.
#[derive(Debug, Clone)]
pub struct FeedCodec {
    macs: Macs,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    message: &'a T,
}

/// The fields that every version has. They determine how to check and decode the others.
#[derive(Deserialize)]
struct Envelope {
    v: u32,
    log_epoch: u32,
    /// In messages about a node.
    node: Option<IgnoredAny>,
}

impl FeedCodec {
    /// Creates the codec of `instance`.
    #[must_use]
    pub fn new(keys: &Keys, instance: &str) -> Self {
        Self { macs: keys.macs(instance) }
    }

    /// Returns the bytes of a message and its MAC header.
    #[must_use]
    pub fn encode(&self, message: &FeedMessage) -> (Vec<u8>, Vec<u8>) {
        self.seal(message.log_epoch, message.partition, message)
    }

    /// Returns the bytes of a message about a node and its MAC header.
    #[must_use]
    pub fn encode_node(&self, message: &NodeMessage) -> (Vec<u8>, Vec<u8>) {
        self.seal(message.log_epoch, message.partition, message)
    }

    fn seal(
        &self,
        log_epoch: u32,
        partition: Partition,
        message: &impl Serialize,
    ) -> (Vec<u8>, Vec<u8>) {
        let value = serde_json::to_vec(&Versioned { v: FORMAT.into(), message })
            .expect("text and numbers are always JSON");
        let mac = self.mac(log_epoch, partition, &value);
        (value, mac)
    }

    /// Decodes a message that was read from `partition`.
    ///
    /// # Errors
    /// The reason as a metric label: `malformed`, `forged`, `newer` or `misplaced`.
    pub fn decode(
        &self,
        partition: Partition,
        value: &[u8],
        mac: &[u8],
    ) -> Result<AnyMessage, &'static str> {
        let envelope: Envelope = serde_json::from_slice(value).map_err(|_| "malformed")?;
        if mac != self.mac(envelope.log_epoch, partition, value) {
            return Err("forged");
        }
        match envelope.v.cmp(&FORMAT.into()) {
            Ordering::Greater => return Err("newer"),
            Ordering::Less => return Err("malformed"),
            Ordering::Equal => {}
        }
        let (stated, message) = match envelope.node {
            Some(_) => {
                let message: NodeMessage = decode(value)?;
                (message.partition, AnyMessage::Node(message))
            }
            None => {
                let message: FeedMessage = decode(value)?;
                (message.partition, AnyMessage::Partition(message))
            }
        };
        if stated == partition { Ok(message) } else { Err("misplaced") }
    }

    pub(super) fn mac(&self, log_epoch: u32, partition: Partition, value: &[u8]) -> Vec<u8> {
        mac_text(self.macs.of(MAC_PURPOSE, log_epoch, partition, &[value])).to_vec()
    }
}

fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, &'static str> {
    serde_json::from_slice(value).map_err(|_| "malformed")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{
        answer::CouponFace, decision::Refusal, ids::Timestamp, reason::Reason, rows::Hang,
    };

    fn codec(secret: &[u8]) -> FeedCodec {
        FeedCodec::new(&Keys::derive(secret), "one")
    }

    /// Returns a message with every member and every kind of answer.
    pub(in crate::wire) fn message() -> FeedMessage {
        let coupon = CouponFace { sequence: 7, code: "SPRING-1".into(), issued_at: Timestamp(5) };
        let answers = [
            Answer::Issued { coupon: coupon.clone() },
            Answer::AlreadyIssued { coupon },
            Answer::Rejected { reason: Reason::SoldOut },
            Answer::Accepted,
            Answer::Refused { refusal: Refusal::StaleVersion },
            Answer::Refused { refusal: Refusal::QuotaBelowIssued { issued: 3 } },
        ];
        let decision = |(offset, answer)| FeedDecision {
            offset,
            campaign_id: CampaignId::parse("spring").unwrap(),
            user_id: (offset % 2 == 0).then(|| UserId::parse("u1").unwrap()),
            answer,
        };
        FeedMessage {
            log_epoch: 1,
            partition: 3,
            sender: Sender { generation: 4, owner: ProcessName::of(7), number: u64::MAX },
            from: 10,
            to: 16,
            end: 20,
            waiting: 4,
            condition: Some(Condition {
                age_s: 17,
                waits_for: Some("spring is being loaded".to_owned()),
                quarantined: 9,
                named: vec![CampaignId::parse("autumn").unwrap()],
            }),
            halted: Some("why".to_owned()),
            unread: Some(Unread { from: 16, to: 18, other_build: true }),
            decisions: (10..).zip(answers).map(decision).collect(),
        }
    }

    #[test]
    fn every_kind_of_answer_round_trips() {
        let codec = codec(&[7; 32]);
        let (value, mac) = codec.encode(&message());
        assert_eq!(codec.decode(3, &value, &mac), Ok(AnyMessage::Partition(message())));
        assert!(value.starts_with(br#"{"v":3,"#), "{}", String::from_utf8_lossy(&value));
    }

    #[test]
    fn a_message_about_a_node_round_trips() {
        let codec = codec(&[7; 32]);
        let (name, hang) = (ProcessName::of(7), Hang { partition: 3, from: 4, to: 5 });
        for hangs in [vec![], vec![hang; NodeRow::HANGS_MAX]] {
            let name = name.clone();
            let node = NodeRow { name, number: 9, is_member: true, can_decide: false, hangs };
            let message = NodeMessage { log_epoch: 1, partition: 3, node };
            let (value, mac) = codec.encode_node(&message);
            assert_eq!(codec.decode(2, &value, &mac), Err("forged"), "moved");
            assert_eq!(codec.decode(3, &value, &mac), Ok(AnyMessage::Node(message)));
        }
    }

    #[test]
    fn messages_of_others_are_refused() {
        let (value, mac) = codec(&[7; 32]).encode(&message());
        let reader = codec(&[7; 32]);
        assert_eq!(reader.decode(2, &value, &mac), Err("forged"), "moved to another partition");
        assert_eq!(reader.decode(3, &value, b""), Err("forged"), "no MAC");
        assert_eq!(codec(&[8; 32]).decode(3, &value, &mac), Err("forged"), "another secret");
        let other = FeedCodec::new(&Keys::derive(&[7; 32]), "other");
        assert_eq!(other.decode(3, &value, &mac), Err("forged"), "another instance");
        assert_eq!(reader.decode(3, b"[]", &reader.mac(1, 3, b"[]")), Err("malformed"));
        let newer = br#"{"v":4,"log_epoch":1}"#;
        assert_eq!(reader.decode(3, newer, &reader.mac(1, 3, newer)), Err("newer"));
        let misplaced = reader.encode(&message()).0;
        let mac = reader.mac(1, 2, &misplaced);
        assert_eq!(reader.decode(2, &misplaced, &mac), Err("misplaced"));
    }
}
