//! Fuzz targets: records of the log and messages of the feed, as anyone who may write the topics can
//! write them.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, json};

use super::{
    FORMAT, LogRecord, RECORD_BYTES_MAX,
    codec::{Codec, DeadLetterReason, Decoded},
    feed_codec::{FeedCodec, tests::message},
    feed_message::{AnyMessage, FeedMessage, NodeMessage},
};
use crate::{
    domain::{
        definition::{Amendment, Terms},
        ids::{CampaignId, IdempotencyKey, ProcessName, Timestamp, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
        rows::{Hang, HoldName, NodeRow},
    },
    fuzz,
    random::Random,
};

fn keys() -> Keys {
    Keys::derive(b"a secret of tests and of nothing else")
}

fn campaign() -> CampaignId {
    CampaignId::parse("spring").unwrap()
}

/// A record of each kind, with every optional member and without.
fn records() -> Vec<Record> {
    let key = IdempotencyKey::parse("a:key-1").unwrap();
    let request = |user: &str, idempotency_key| {
        let user = UserId::parse(user).unwrap();
        Record::Request(Request { campaign: campaign(), user, idempotency_key })
    };
    let terms = Terms {
        opens_at: Some(Timestamp(1_700_000_000_123)),
        closes_at: Some(Timestamp::MAX),
        title: Some("Fr\u{fc}hling \"1\"".to_owned()),
        listed: false,
        ..Terms::of(100_000_000)
    };
    let amendment = Amendment {
        quota: Some(7),
        opens_at: Some(None),
        listed: Some(true),
        ..Amendment::default()
    };
    let changes = [
        Change::Defined { terms },
        Change::Defined { terms: Terms::of(0) },
        Change::Amended { amendment },
        Change::Paused,
        Change::Resumed,
        Change::Closed,
        Change::Released { holds: vec![HoldName { from: u64::MAX, number: 1 }; 2] },
    ];
    let control = |(based_on, change)| {
        let based_on = (based_on > 0).then_some(based_on);
        Record::from(Control::once("token", campaign(), based_on, change))
    };
    let requests = [request("ada", None), request("u.1_:@-", Some(key)), request("\"\\/+'~", None)];
    requests.into_iter().chain((0..).zip(changes).map(control)).collect()
}

/// Returns the header of a record or message that has `mac`: as it is, none, or altered. Also returns
/// whether it is right.
fn header(mac: &[u8], random: &mut Random) -> (Option<Vec<u8>>, bool) {
    let mut altered = mac.to_vec();
    match random.below(6) {
        0 => return (None, false),
        1 => altered.truncate(random.index(mac.len())),
        2 => altered.push(random.next() as u8),
        3 => altered[random.index(mac.len())] ^= 1 << random.below(8),
        _ => return (Some(altered), true),
    }
    (Some(altered), false)
}

/// What says how a record is read.
#[derive(Deserialize)]
struct RecordHead {
    v: u32,
    r#type: String,
}

/// How many members a JSON object has; the same name twice is two.
struct MemberCount(usize);

impl<'de> Deserialize<'de> for MemberCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;

        impl<'de> Visitor<'de> for Counting {
            type Value = MemberCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<MemberCount, A::Error> {
                let mut count = 0;
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(MemberCount(count))
            }
        }

        deserializer.deserialize_map(Counting)
    }
}

/// Returns the request that a record is by the documented format, read without the codec.
fn documented_request(value: &[u8]) -> Option<Request> {
    let document: Value = serde_json::from_slice(value).ok()?;
    let members = document.as_object()?;
    let MemberCount(count) = serde_json::from_slice(value).ok()?;
    let is_known = |name: &String| {
        ["v", "type", "campaign_id", "user_id", "idempotency_key"].contains(&name.as_str())
    };
    if count != members.len() || !members.keys().all(is_known) {
        return None;
    }
    if document["v"] != json!(1) || document["type"] != json!("request") {
        return None;
    }
    let idempotency_key = match &document["idempotency_key"] {
        Value::Null => None,
        key => Some(IdempotencyKey::parse(key.as_str()?).ok()?),
    };
    let campaign = CampaignId::parse(document["campaign_id"].as_str()?).ok()?;
    let user = UserId::parse(document["user_id"].as_str()?).ok()?;
    Some(Request { campaign, user, idempotency_key })
}

#[test]
fn a_record_is_a_documented_one_or_a_dead_letter() {
    let codec = Codec::new(&keys(), "one", 1, 2);
    let mut valid: Vec<_> = records().iter().map(|record| codec.encode(record).1.value).collect();
    for odd in [
        r#"{"v":6,"type":"closed","campaign_id":"spring"}"#,
        r#"{"v":2,"type":"request","campaign_id":"spring","user_id":"ada"}"#,
        r#"{"v":1,"type":{"request":null},"campaign_id":"spring","user_id":"ada"}"#,
        r#"[1,"request","spring","ada",null]"#,
        r#"{"v":1,"type":"requ\u0065st","campaign_id":"spring","user_id":"ada"}"#,
    ] {
        valid.push(odd.as_bytes().to_vec());
    }
    let outcomes = [
        "request",
        "control",
        "newer",
        "malformed",
        "forged",
        "wrong_key",
        "foreign_partition",
        "unusable_time",
        "oversized",
    ];
    let home = codec.partition_of(&campaign());
    fuzz::run(&valid, &outcomes, |value, random| {
        let partition = if random.one_in(16) { 1 - home } else { home };
        let key = if random.one_in(16) { "spring-1" } else { "spring" };
        let time = Timestamp(if random.one_in(16) { random.next().cast_signed() } else { 5 });
        let right = codec.mac(partition, key.as_bytes(), value);
        let (mac, authentic) = header(&right, random);
        let (key, value) = (key.as_bytes().to_vec(), value.to_vec());
        let record = LogRecord { offset: 3, time, key, value, mac };
        judge(&codec, partition, &record, authentic)
    });
}

/// Checks how a record was decoded. Returns the outcome.
fn judge(codec: &Codec, partition: u32, record: &LogRecord, authentic: bool) -> &'static str {
    let documented = documented_request(&record.value);
    let decoded = codec.decode(partition, record);
    if record.key.len() + record.value.len() > RECORD_BYTES_MAX {
        assert_eq!(decoded, Decoded::DeadLetter(DeadLetterReason::Oversized));
        return "oversized";
    }
    if record.mac.is_some() && !authentic {
        assert_eq!(decoded, Decoded::DeadLetter(DeadLetterReason::Forged));
        return "forged";
    }
    match decoded {
        Decoded::Record(content) => {
            assert_eq!(record.key, content.campaign().as_str().as_bytes());
            assert_eq!(partition, codec.partition_of(content.campaign()));
            assert!(record.time.is_representable());
            assert_written_again(codec, &content);
            let Record::Request(request) = content else {
                assert!(authentic, "anyone could change a campaign");
                return "control";
            };
            assert_eq!(Some(request), documented);
            "request"
        }
        Decoded::Newer { version } => {
            assert!(authentic, "anyone could halt the partition");
            let head: RecordHead = serde_json::from_slice(&record.value).unwrap();
            assert_eq!(head.v, version);
            let known = if head.r#type == "request" { 1 } else { u32::from(FORMAT) };
            assert!(version > known, "{version}");
            "newer"
        }
        Decoded::DeadLetter(reason) => {
            if let Some(request) = documented {
                let is_ours = record.key == request.campaign.as_str().as_bytes();
                let is_home = codec.partition_of(&request.campaign) == partition;
                let expected = match (is_ours, is_home) {
                    (false, _) => DeadLetterReason::WrongKey,
                    (true, false) => DeadLetterReason::ForeignPartition,
                    (true, true) => DeadLetterReason::Time,
                };
                assert_eq!(reason, expected);
                assert!(reason != DeadLetterReason::Time || !record.time.is_representable());
            }
            assert!(reason != DeadLetterReason::Forged || record.mac.is_none());
            reason.name()
        }
    }
}

/// Asserts that what was read is written as bytes that are read as the same, and written so again.
fn assert_written_again(codec: &Codec, content: &Record) {
    let (partition, written) = codec.encode(content);
    let record = LogRecord {
        offset: 3,
        time: Timestamp(5),
        key: written.campaign.as_str().as_bytes().to_vec(),
        value: written.value.clone(),
        mac: Some(written.mac.clone()),
    };
    let Decoded::Record(again) = codec.decode(partition, &record) else {
        panic!("{content:?} is written as something else")
    };
    assert_eq!(again, *content);
    assert_eq!(codec.encode(&again), (partition, written));
}

#[test]
fn a_feed_message_is_ours_or_is_refused() {
    let codec = FeedCodec::new(&keys(), "one");
    let message = message();
    let node = NodeRow {
        name: ProcessName::of(7),
        number: 9,
        is_member: true,
        can_decide: false,
        hangs: vec![Hang { partition: 3, from: 4, to: 5 }],
    };
    let node = NodeMessage { log_epoch: 1, partition: 3, node };
    let bare = FeedMessage {
        condition: None,
        halted: None,
        unread: None,
        decisions: Vec::new(),
        campaigns: Vec::new(),
        ..message.clone()
    };
    let newer = vec![FORMAT + 1, 0, 1, 0, 0, 0, 3];
    let (message, bare, node) =
        (codec.encode(&message).0, codec.encode(&bare).0, codec.encode_node(&node).0);
    let valid = [message, bare, node, newer];
    let outcomes = ["partition", "node", "malformed", "forged", "newer", "misplaced"];
    fuzz::run(&valid, &outcomes, |value, random| {
        let partition = if random.one_in(16) { 2 } else { 3 };
        let epoch = value.get(2..6).and_then(|bytes| bytes.try_into().ok());
        let log_epoch = epoch.map_or(1, u32::from_le_bytes);
        let right = codec.mac(log_epoch, partition, value);
        let (mac, authentic) = header(&right, random);
        let decoded = codec.decode(partition, value, &mac.unwrap_or_default());
        let message = match decoded {
            Ok(message) => message,
            Err(reason) => {
                assert!(authentic || ["forged", "malformed"].contains(&reason), "{reason}");
                assert!(!authentic || reason != "forged");
                return reason;
            }
        };
        assert!(authentic, "anyone could tell decisions");
        assert_eq!(value[0], FORMAT);
        let (stated, again) = match &message {
            AnyMessage::Partition(message) => (message.partition, codec.encode(message)),
            AnyMessage::Node(message) => (message.partition, codec.encode_node(message)),
        };
        assert_eq!(stated, partition);
        assert_eq!(codec.decode(partition, &again.0, &again.1), Ok(message.clone()));
        if matches!(message, AnyMessage::Node(_)) { "node" } else { "partition" }
    });
}
