//! The codec of feed messages.
//!
//! A message is `format, kind, log epoch` and a body. The body of a message about a node is JSON: it is
//! sent once a second. The body of a message about a partition goes to every node with every batch, so it
//! is bytes: sender and watermark; what is rare, as JSON; decisions, each as steps from the one before;
//! and one entry for each of their campaigns.

mod bytes;

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use self::bytes::{Reader, Writer};
use super::{
    FORMAT,
    codec::mac_text,
    feed_message::{
        AnyMessage, CampaignNews, Condition, FeedDecision, FeedMessage, NodeMessage, Sender, Tally,
    },
};
use crate::domain::{
    decision::{Decision, Held, Refusal},
    halt::Unread,
    ids::{Offset, Partition, ProcessName, Timestamp},
    keys::{Keys, Macs},
    reason::Reason,
};

const MAC_PURPOSE: &str = "feed";

/// The kinds of messages.
const PARTITION: u8 = 0;
const NODE: u8 = 1;

/// Fewest bytes of a decision and of a campaign.
const DECISION_BYTES_MIN: usize = 6;
const CAMPAIGN_BYTES_MIN: usize = 10 + Tally::LEN;

/// Outcomes, each as a byte. Those of rejections follow: two for each reason, the second for users who
/// hold a coupon.
const ISSUED: u8 = 0;
const ALREADY_ISSUED: u8 = 1;
const ACCEPTED: u8 = 2;
const STALE_VERSION: u8 = 3;
const QUOTA_BELOW_ISSUED: u8 = 4;
const CLOSED: u8 = 5;
const INVALID: u8 = 6;
const REJECTED: u8 = 8;

/// Encodes messages with a MAC, and decodes only those that this instance wrote.
#[derive(Debug, Clone)]
pub struct FeedCodec {
    macs: Macs,
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
        let mut bytes = begun(PARTITION, message.log_epoch);
        write_message(message, &mut bytes);
        self.seal(message.log_epoch, message.partition, bytes)
    }

    /// Returns the bytes of a message about a node and its MAC header.
    #[must_use]
    pub fn encode_node(&self, message: &NodeMessage) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = begun(NODE, message.log_epoch);
        bytes.fixed(&json(message));
        self.seal(message.log_epoch, message.partition, bytes)
    }

    fn seal(&self, log_epoch: u32, partition: Partition, bytes: Writer) -> (Vec<u8>, Vec<u8>) {
        let mac = self.mac(log_epoch, partition, &bytes.0);
        (bytes.0, mac)
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
        // Every format begins so.
        let mut bytes = Reader(value);
        let [format, kind] = bytes.fixed().ok_or("malformed")?;
        let log_epoch = u32::from_le_bytes(bytes.fixed().ok_or("malformed")?);
        if mac != self.mac(log_epoch, partition, value) {
            return Err("forged");
        }
        match format.cmp(&FORMAT) {
            Ordering::Greater => return Err("newer"),
            Ordering::Less => return Err("malformed"),
            Ordering::Equal => {}
        }
        let (stated, message) = match kind {
            PARTITION => {
                let message = read_message(log_epoch, &mut bytes).ok_or("malformed")?;
                (message.partition, AnyMessage::Partition(message))
            }
            NODE => {
                let message = serde_json::from_slice(bytes.0);
                let message: NodeMessage = message.map_err(|_| "malformed")?;
                // The MAC was checked for the epoch in front.
                if message.log_epoch != log_epoch {
                    return Err("malformed");
                }
                (message.partition, AnyMessage::Node(message))
            }
            _ => return Err("malformed"),
        };
        if stated == partition { Ok(message) } else { Err("misplaced") }
    }

    pub(super) fn mac(&self, log_epoch: u32, partition: Partition, value: &[u8]) -> Vec<u8> {
        mac_text(self.macs.of(MAC_PURPOSE, log_epoch, partition, &[value])).to_vec()
    }
}

fn begun(kind: u8, log_epoch: u32) -> Writer {
    let mut bytes = Writer::default();
    bytes.fixed(&[FORMAT, kind]);
    bytes.fixed(&log_epoch.to_le_bytes());
    bytes
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("text and numbers are always JSON")
}

/// The members that few messages have.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rare {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    condition: Option<Condition>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    halted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    unread: Option<Unread>,
}

fn write_message(message: &FeedMessage, bytes: &mut Writer) {
    let FeedMessage { partition, sender, from, to, end, waiting, .. } = message;
    let Sender { generation, owner, number } = sender;
    bytes.fixed(&partition.to_le_bytes());
    bytes.fixed(&owner.number().to_le_bytes());
    for value in [generation, number, from, to, end, waiting] {
        bytes.number(*value);
    }
    let FeedMessage { condition, halted, unread, decisions, campaigns, .. } = message;
    if condition.is_some() || halted.is_some() || unread.is_some() {
        let (condition, halted) = (condition.clone(), halted.clone());
        let rare = json(&Rare { condition, halted, unread: *unread });
        bytes.number(rare.len() as u64);
        bytes.fixed(&rare);
    } else {
        bytes.number(0);
    }
    bytes.number(decisions.len() as u64);
    let mut before = Before { offset: *to, time: 0 };
    decisions.iter().for_each(|decision| before.write(decision, bytes));
    bytes.number(campaigns.len() as u64);
    campaigns.iter().for_each(|news| write_campaign(news, *to, bytes));
}

fn read_message(log_epoch: u32, bytes: &mut Reader<'_>) -> Option<FeedMessage> {
    let partition = u32::from_le_bytes(bytes.fixed()?);
    let owner = ProcessName::of(u64::from_le_bytes(bytes.fixed()?));
    let [generation, number, from, to, end, waiting] = numbers(bytes)?;
    let rare = bytes.number()?;
    let Rare { condition, halted, unread } = match usize::try_from(rare).ok()? {
        0 => Rare { condition: None, halted: None, unread: None },
        len => serde_json::from_slice(bytes.slice(len)?).ok()?,
    };
    let mut before = Before { offset: to, time: 0 };
    let decisions = bytes.items(DECISION_BYTES_MIN, |bytes| before.read(bytes))?;
    let campaigns = bytes.items(CAMPAIGN_BYTES_MIN, |bytes| read_campaign(to, bytes))?;
    let sender = Sender { generation, owner, number };
    let message = FeedMessage {
        log_epoch,
        partition,
        sender,
        from,
        to,
        end,
        waiting,
        condition,
        halted,
        unread,
        decisions,
        campaigns,
    };
    let is_issued = |news: &CampaignNews| news.highest.is_none() || message.highest(news).is_some();
    (bytes.0.is_empty() && message.campaigns.iter().all(is_issued)).then_some(message)
}

fn numbers<const N: usize>(bytes: &mut Reader<'_>) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = bytes.number()?;
    }
    Some(numbers)
}

/// What the next decision steps on from: offsets and times of a message lie close together.
struct Before {
    offset: Offset,
    time: u64,
}

impl Before {
    fn write(&mut self, told: &FeedDecision, bytes: &mut Writer) {
        let FeedDecision { offset, decision, holds, check } = *told;
        bytes.fixed(&[outcome(&decision, holds)]);
        bytes.step(self.offset, offset);
        self.offset = offset;
        match decision {
            Decision::Issued(Held { sequence, issued_at })
            | Decision::AlreadyIssued(Held { sequence, issued_at }) => {
                bytes.number(sequence.into());
                let time = issued_at.0.cast_unsigned();
                bytes.step(self.time, time);
                self.time = time;
            }
            Decision::Refused(Refusal::QuotaBelowIssued { issued }) => bytes.number(issued.into()),
            Decision::Rejected(_) | Decision::Accepted | Decision::Refused(_) => {}
        }
        bytes.fixed(&check.to_le_bytes());
    }

    fn read(&mut self, bytes: &mut Reader<'_>) -> Option<FeedDecision> {
        let [outcome] = bytes.fixed()?;
        self.offset = bytes.step(self.offset)?;
        let (decision, holds) = match outcome {
            ISSUED => (Decision::Issued(self.held(bytes)?), false),
            ALREADY_ISSUED => (Decision::AlreadyIssued(self.held(bytes)?), false),
            ACCEPTED => (Decision::Accepted, false),
            STALE_VERSION => (Decision::Refused(Refusal::StaleVersion), false),
            QUOTA_BELOW_ISSUED => {
                let issued = bytes.small()?;
                (Decision::Refused(Refusal::QuotaBelowIssued { issued }), false)
            }
            CLOSED => (Decision::Refused(Refusal::Closed), false),
            INVALID => (Decision::Refused(Refusal::Invalid), false),
            rejected => {
                let number = usize::from(rejected.checked_sub(REJECTED)?);
                (Decision::Rejected(*Reason::ALL.get(number / 2)?), number % 2 == 1)
            }
        };
        let check = u32::from_le_bytes(bytes.fixed()?);
        Some(FeedDecision { offset: self.offset, decision, holds, check })
    }

    fn held(&mut self, bytes: &mut Reader<'_>) -> Option<Held> {
        let sequence = bytes.small()?;
        self.time = bytes.step(self.time)?;
        Some(Held { sequence, issued_at: Timestamp(self.time.cast_signed()) })
    }
}

fn outcome(decision: &Decision, holds: bool) -> u8 {
    match decision {
        Decision::Issued(_) => ISSUED,
        Decision::AlreadyIssued(_) => ALREADY_ISSUED,
        Decision::Accepted => ACCEPTED,
        Decision::Refused(Refusal::StaleVersion) => STALE_VERSION,
        Decision::Refused(Refusal::QuotaBelowIssued { .. }) => QUOTA_BELOW_ISSUED,
        Decision::Refused(Refusal::Closed) => CLOSED,
        Decision::Refused(Refusal::Invalid) => INVALID,
        Decision::Rejected(reason) => REJECTED + 2 * *reason as u8 + u8::from(holds),
    }
}

fn write_campaign(news: &CampaignNews, to: Offset, bytes: &mut Writer) {
    let CampaignNews { campaign, tally, highest, version } = news;
    bytes.fixed(&campaign.to_le_bytes());
    tally.0.iter().for_each(|count| bytes.number(*count));
    bytes.option(highest.map(|index| index as u64));
    match version {
        None => bytes.fixed(&[0]),
        Some(version) => {
            bytes.fixed(&[1]);
            bytes.step(to, *version);
        }
    }
}

fn read_campaign(to: Offset, bytes: &mut Reader<'_>) -> Option<CampaignNews> {
    let campaign = u64::from_le_bytes(bytes.fixed()?);
    let tally = Tally(numbers(bytes)?);
    let highest = match bytes.option()? {
        None => None,
        Some(index) => Some(usize::try_from(index).ok()?),
    };
    let version = match bytes.fixed()? {
        [0] => None,
        [1] => Some(bytes.step(to)?),
        _ => return None,
    };
    Some(CampaignNews { campaign, tally, highest, version })
}

#[cfg(test)]
pub(super) mod tests;
