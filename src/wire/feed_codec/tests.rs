//! Every message round trips, nobody else's is taken, and the bounds of their bytes hold.

use super::*;
use crate::{
    domain::{
        ids::{CampaignId, UserId},
        rows::{Hang, NodeRow},
    },
    wire::feed_message::{QUARANTINED_NAMED_MAX, STUCK_AFTER_S},
};

fn codec(secret: &[u8]) -> FeedCodec {
    FeedCodec::new(&Keys::derive(secret), "one")
}

/// Returns every decision that there is.
fn decisions() -> Vec<Decision> {
    let held = Held { sequence: 7, issued_at: Timestamp(1_700_000_000_123) };
    let last = Held { sequence: u32::MAX, issued_at: Timestamp(i64::MIN) };
    let refusals = [
        Refusal::StaleVersion,
        Refusal::QuotaBelowIssued { issued: u32::MAX },
        Refusal::Closed,
        Refusal::Invalid,
    ];
    let held = [Decision::Issued(held), Decision::AlreadyIssued(last), Decision::Issued(last)];
    let others = Reason::ALL.map(Decision::Rejected).into_iter().chain([Decision::Accepted]);
    held.into_iter().chain(others).chain(refusals.map(Decision::Refused)).collect()
}

/// Returns a message with every member and every kind of decision.
pub(in crate::wire) fn message() -> FeedMessage {
    let both = decisions().into_iter().flat_map(|decision| [(decision, false), (decision, true)]);
    // Only a rejection says whether its user holds a coupon.
    let sayable =
        |(decision, holds): &(Decision, bool)| !holds || matches!(decision, Decision::Rejected(_));
    let decisions: Vec<_> = (10..)
        .zip(both.filter(sayable))
        .map(|(offset, (decision, holds))| {
            let offset = if offset == 12 { u64::MAX } else { offset };
            FeedDecision { offset, decision, holds, check: 0xDEAD_BEEF ^ offset as u32 }
        })
        .collect();
    let tally = Tally([0, 1, 2, 300, u64::MAX, 5]);
    let named = CampaignNews { campaign: u64::MAX, tally, highest: Some(2), version: Some(9) };
    let quiet = CampaignNews { campaign: 0, tally: Tally::default(), highest: None, version: None };
    FeedMessage {
        log_epoch: 1,
        partition: 3,
        sender: Sender { generation: 4, owner: ProcessName::of(7), number: u64::MAX },
        from: 10,
        to: 16,
        end: 20,
        waiting: 4,
        condition: Some(Condition {
            age_s: STUCK_AFTER_S + 2,
            waits_for: Some("spring is being loaded".to_owned()),
            quarantined: QUARANTINED_NAMED_MAX + 1,
            named: vec![CampaignId::parse("autumn").unwrap()],
        }),
        halted: Some("why".to_owned()),
        unread: Some(Unread { from: 16, to: 18, other_build: true }),
        decisions,
        campaigns: vec![named, quiet],
    }
}

/// Returns a message without decisions.
fn bare() -> FeedMessage {
    let (condition, halted, unread) = (None, None, None);
    let (decisions, campaigns) = (Vec::new(), Vec::new());
    FeedMessage { condition, halted, unread, decisions, campaigns, ..message() }
}

#[test]
fn every_kind_of_decision_round_trips() {
    let codec = codec(&[7; 32]);
    for message in [message(), bare()] {
        let (value, mac) = codec.encode(&message);
        assert_eq!(codec.decode(3, &value, &mac), Ok(AnyMessage::Partition(message)));
        assert_eq!(value[0], FORMAT);
    }
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
    let with_mac = |value: &[u8]| reader.decode(3, value, &reader.mac(1, 3, value));
    assert_eq!(with_mac(&[FORMAT, 0, 1]), Err("malformed"));
    assert_eq!(with_mac(&[FORMAT, 9, 1, 0, 0, 0]), Err("malformed"), "no such kind");
    assert_eq!(with_mac(&[FORMAT - 1, 0, 1, 0, 0, 0]), Err("malformed"));
    assert_eq!(with_mac(&[FORMAT + 1, 0, 1, 0, 0, 0]), Err("newer"));
    assert_eq!(with_mac(&[&value[..], &[0]].concat()), Err("malformed"), "more than the message");
    let mac = reader.mac(1, 2, &value);
    assert_eq!(reader.decode(2, &value, &mac), Err("misplaced"));
}

#[test]
fn the_highest_sequence_is_one_that_was_issued() {
    let codec = codec(&[7; 32]);
    let mut message = message();
    assert_eq!(message.highest(&message.campaigns[0]), Some((u32::MAX, u64::MAX)));
    for highest in [1, 4, message.decisions.len()] {
        message.campaigns[0].highest = Some(highest);
        let (value, mac) = codec.encode(&message);
        assert_eq!(codec.decode(3, &value, &mac), Err("malformed"), "{highest}");
    }
}

/// The bytes of a message and its MAC header.
fn bytes(message: &FeedMessage) -> usize {
    let (value, mac) = codec(&[7; 32]).encode(message);
    value.len() + mac.len()
}

/// Offsets, times and counts that no log will ever pass: nine years of a million records a second, the
/// last time of RFC 3339, and the largest quota.
const OFFSET: Offset = 1 << 48;
const SEQUENCE: u32 = crate::domain::definition::QUOTA_MAX;

#[test]
fn a_decision_has_at_most_24_bytes() {
    let held = |sequence, issued_at| Held { sequence, issued_at };
    let all = [
        Decision::Issued(held(SEQUENCE, Timestamp::MAX)),
        Decision::AlreadyIssued(held(SEQUENCE, Timestamp(0))),
        Decision::Refused(Refusal::QuotaBelowIssued { issued: SEQUENCE }),
        Decision::Rejected(Reason::SoldOut),
    ];
    for decision in all {
        // Each step is as far as it can be.
        let told = |(index, offset)| {
            let decision = match decision {
                Decision::Issued(it) if index % 2 == 1 => {
                    Decision::Issued(Held { issued_at: Timestamp(0), ..it })
                }
                decision => decision,
            };
            FeedDecision { offset, decision, holds: false, check: u32::MAX }
        };
        let offsets = [0, OFFSET, 0, OFFSET, 0, OFFSET];
        let decisions: Vec<_> = (0..).zip(offsets).map(told).collect();
        let count = decisions.len();
        let each = (bytes(&FeedMessage { decisions, ..bare() }) - bytes(&bare())).div_ceil(count);
        assert!(each <= 24, "{decision:?} has {each} bytes");
    }
}

#[test]
fn a_campaign_has_at_most_48_bytes_in_a_message() {
    // A generation of 300 million requests of each outcome, and 30 billion of one.
    let tally = Tally([(1 << 35) - 1, 1 << 27, 1 << 27, 1 << 27, 1 << 27, 1 << 27]);
    let held = Held { sequence: SEQUENCE, issued_at: Timestamp::MAX };
    let decision = Decision::Issued(held);
    let told = FeedDecision { offset: OFFSET, decision, holds: false, check: u32::MAX };
    let decisions = vec![told; 1_024];
    let with = |campaigns| FeedMessage { decisions: decisions.clone(), campaigns, ..bare() };
    let news = CampaignNews { campaign: 9, tally, highest: Some(1_023), version: Some(OFFSET) };
    let each = bytes(&with(vec![news.clone(), news])) - bytes(&with(Vec::new()));
    assert!(each <= 2 * 48, "two have {each} bytes");
}

#[test]
fn a_message_has_at_most_128_bytes_besides() {
    let sender =
        Sender { generation: u64::MAX, owner: ProcessName::of(u64::MAX), number: u64::MAX };
    let widest = FeedMessage {
        log_epoch: u32::MAX,
        partition: u32::MAX,
        sender,
        from: u64::MAX,
        to: u64::MAX,
        end: u64::MAX,
        waiting: u64::MAX,
        ..bare()
    };
    let bytes = bytes(&widest);
    assert!(bytes <= 128, "{bytes} bytes with its MAC");
}

/// What an owner sends under load: a batch of requests of one campaign, some of them rejected.
#[test]
fn a_batch_takes_about_10_bytes_a_decision() {
    let (keys, spring) = (Keys::derive(&[7; 32]), CampaignId::parse("spring").unwrap());
    let hash = keys.campaign_hash(&spring);
    let (mut decisions, mut tally) = (Vec::new(), Tally::default());
    for index in 0..40 {
        let issued_at = Timestamp(1_764_536_400_000 + i64::from(index / 8));
        let held = Held { sequence: 41_000 + index, issued_at };
        let decision = match index % 10 {
            0 => Decision::AlreadyIssued(Held { sequence: 39_000 - index, ..held }),
            _ => Decision::Issued(held),
        };
        let user = UserId::parse(&format!("user-{index:06}")).unwrap();
        let check = keys.record_check(hash, Some(&user));
        tally.count(&decision);
        let offset = 5_000_000 + u64::from(index);
        decisions.push(FeedDecision { offset, decision, holds: false, check });
    }
    let (highest, version) = (Some(39), Some(3));
    let campaigns = vec![CampaignNews { campaign: hash, tally, highest, version }];
    let (from, to, end, waiting) = (5_000_000, 5_000_040, 5_000_120, 80);
    let empty = FeedMessage { from, to, end, waiting, ..bare() };
    let batch = FeedMessage { decisions, campaigns: Vec::new(), ..empty.clone() };
    let with_campaign = FeedMessage { campaigns, ..batch.clone() };
    let [empty, batch, whole] = [&empty, &batch, &with_campaign].map(bytes);
    assert_eq!(
        (empty, batch - empty, whole - batch),
        (79, 405, 21),
        "message, 40 decisions, campaign"
    );
}
