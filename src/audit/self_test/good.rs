//! Good data, made by the product's own fold, in every state that an intact instance can have.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Value, json};

use super::{
    lines::{decision, line},
    world::{AuditWorld, PARTITIONS},
};
use crate::{
    answer::{
        request_id::{RequestContent, RequestIds},
        told::{Asked, answer},
    },
    domain::{
        answer::Answer,
        campaign::{At, Campaign},
        code::CodeFormat,
        definition::{Amendment, Terms},
        ids::{CampaignId, IdempotencyKey, Offset, Partition, Position, Timestamp, UserId},
        record::{Change, Control, Record, Request},
        rows::{
            Counts, Hold, HoldKind, HoldState, LastRecord, Mark, Progress, Register, Row, Skip,
            SkipState,
        },
    },
    partition::{
        fold::{Batch, Folder},
        recovery::{Expectations, Recovered},
    },
    wire::LogRecord,
};

/// Campaigns of every world.
pub(super) const CAMPAIGNS: [&str; 6] = ["plain", "amended", "steered", "keyed", "coded", "held"];

/// The record time of the first record.
const START: i64 = 1_800_000_000_000;

/// Rounds of records.
const ROUNDS: u64 = 90;

/// The rounds in whose place a range is skipped. No campaign is changed in them.
const SKIPPED_ROUNDS: Range<u64> = 31..35;

/// A state of good data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Good {
    /// Everything is settled. Campaigns sell out, and are amended, paused, resumed and closed.
    /// There are limits above 1, windows, idempotency keys, code formats, refused changes and dead
    /// letters.
    Settled,
    /// Progress is below the end of the log. Some rows above it are stored.
    Behind,
    /// A hold is in force. The rows of its campaign end at the hold.
    Held,
    /// A closed hold ends at progress.
    HoldClosed,
    /// A closed hold ends below progress. No record above its end is decided.
    HoldShort,
    /// The start of the log was trimmed.
    Trimmed,
    /// A range of each partition is skipped. Its records are in the log, and nobody decides them.
    Skipped,
    /// An instance without data.
    Empty,
}

impl Good {
    pub(super) const ALL: [Self; 8] = [
        Self::Settled,
        Self::Behind,
        Self::Held,
        Self::HoldClosed,
        Self::HoldShort,
        Self::Trimmed,
        Self::Skipped,
        Self::Empty,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Behind => "progress behind",
            Self::Held => "hold in force",
            Self::HoldClosed => "hold closed",
            Self::HoldShort => "hold closed below progress",
            Self::Trimmed => "log trimmed",
            Self::Skipped => "range skipped",
            Self::Empty => "empty",
        }
    }

    /// Makes the data.
    pub(super) fn make(self) -> AuditWorld {
        if self == Self::Empty {
            return AuditWorld::new();
        }
        let mut maker = Maker::new();
        maker.skips = self == Self::Skipped;
        let mut world = maker.made();
        match self {
            Self::Settled | Self::Skipped | Self::Empty => {}
            Self::Behind => behind(&mut world),
            Self::Held => hold(&mut world, HoldState::Open),
            Self::HoldClosed => close_hold(&mut world),
            Self::HoldShort => hold(&mut world, HoldState::Closed),
            Self::Trimmed => world.trim(),
        }
        world
    }
}

pub(super) fn id(name: &str) -> CampaignId {
    CampaignId::parse(name).expect("a fixed id is valid")
}

pub(super) fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a fixed id is valid")
}

/// Makes a world record by record, as one owner would.
struct Maker {
    world: AuditWorld,
    ids: RequestIds,
    folders: BTreeMap<CampaignId, Folder>,
    time: i64,
    dice: u64,
    /// Rounds of [`SKIPPED_ROUNDS`] are appended, and not decided.
    skips: bool,
}

impl Maker {
    fn new() -> Self {
        let world = AuditWorld::new();
        let ids = RequestIds::new(&world.keys, &world.layout.instance);
        Self { world, ids, folders: BTreeMap::new(), time: START, dice: 7, skips: false }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        (self.dice >> 33) % sides
    }

    fn made(mut self) -> AuditWorld {
        self.dead_letters();
        for campaign in CAMPAIGNS {
            self.define(campaign);
        }
        for round in 0..ROUNDS {
            if self.skips && round == SKIPPED_ROUNDS.start {
                self.skip();
                continue;
            }
            if self.skips && SKIPPED_ROUNDS.contains(&round) {
                continue;
            }
            for campaign in CAMPAIGNS {
                let number = self.roll(60);
                let key = (campaign == "keyed" && !number.is_multiple_of(3))
                    .then(|| format!("k-{}", number % 7));
                self.ask(campaign, &format!("user-{number}"), key.as_deref());
            }
            self.steer(round);
            if round % 16 == 3 {
                self.dead_letters();
            }
        }
        self.settle();
        self.world
    }

    /// Appends requests that nobody decides, and skips their range in each partition.
    fn skip(&mut self) {
        let from: Vec<_> = self.world.logs.iter().map(|log| log.high).collect();
        for number in 0..20 {
            for campaign in CAMPAIGNS {
                let (campaign, user) = (id(campaign), user(&format!("lost-{number}")));
                let request = Request { campaign, user, idempotency_key: None };
                let (partition, new) = self.world.codec.encode(&Record::Request(request.clone()));
                let key = new.campaign.as_str().as_bytes().to_vec();
                let at = self.append(partition, &key, new.value, Some(new.mac));
                self.pending(partition, at, &request);
            }
        }
        for (partition, from) in (0..).zip(from) {
            let to = self.world.logs[partition as usize].high;
            let (reason, by) = ("a disk was lost".to_owned(), "ada".to_owned());
            let skip = Skip { partition, from, to, reason, by, state: SkipState::InForce };
            self.world.rows.make_skip(&skip);
        }
    }

    fn define(&mut self, campaign: &str) {
        let code = match campaign {
            "coded" => CodeFormat::with(Some("X-".into()), Some(40), Some("0123456789".into())),
            _ => CodeFormat::default(),
        };
        let quota = if ["coded", "steered"].contains(&campaign) { 100 } else { 25 };
        let terms = Terms {
            per_user_limit: if campaign == "keyed" { 3 } else { 1 },
            opens_at: (campaign == "steered").then_some(Timestamp(START + 1_000)),
            code,
            ..Terms::of(quota)
        };
        self.control(campaign, Change::Defined { terms });
    }

    fn steer(&mut self, round: u64) {
        let quota = |quota| Change::Amended {
            amendment: Amendment { quota: Some(quota), ..Amendment::default() },
        };
        let limit = |limit| Change::Amended {
            amendment: Amendment { per_user_limit: Some(limit), ..Amendment::default() },
        };
        match round {
            20 => self.control("steered", Change::Paused),
            25 => self.control("steered", Change::Resumed),
            40 => {
                let amendment = Amendment {
                    closes_at: Some(Some(Timestamp(self.time + 500))),
                    ..Amendment::default()
                };
                self.control("steered", Change::Amended { amendment });
            }
            60 => {
                let amendment = Amendment { closes_at: Some(None), ..Amendment::default() };
                self.control("steered", Change::Amended { amendment });
            }
            75 | 76 => self.control("steered", Change::Closed),
            77 => self.control("steered", Change::Resumed),
            // "amended" is sold out by now. A quota below the issued coupons is refused.
            45 => self.control("amended", quota(10)),
            50 => self.control("amended", quota(35)),
            55 => self.control("amended", limit(4)),
            65 => self.control("amended", quota(60)),
            80 => self.control("amended", limit(1)),
            30 => self.stale("amended"),
            _ => {}
        }
    }

    fn control(&mut self, campaign: &str, change: Change) {
        let campaign = id(campaign);
        let based_on = self.folders.get(&campaign).and_then(|folder| folder.campaign().version());
        self.record(Record::from(Control::once("token", campaign, based_on, change)));
    }

    /// Adds a control record that is based on a version which never existed.
    fn stale(&mut self, campaign: &str) {
        let (based_on, change) = (Some(u64::MAX / 4), Change::Closed);
        self.record(Record::from(Control::once("token", id(campaign), based_on, change)));
    }

    fn ask(&mut self, campaign: &str, name: &str, key: Option<&str>) {
        let idempotency_key =
            key.map(|key| IdempotencyKey::parse(key).expect("a fixed key is valid"));
        let request = Request { campaign: id(campaign), user: user(name), idempotency_key };
        self.record(Record::Request(request));
    }

    /// Adds dead letters: invalid JSON, a missing MAC, a wrong partition, an undefined campaign.
    fn dead_letters(&mut self) {
        let at = self.time;
        for partition in 0..PARTITIONS {
            self.append(partition, b"plain", b"{not json".to_vec(), None);
            let forged = br#"{"v":1,"campaign_id":"plain","type":"closed"}"#.to_vec();
            self.append(partition, b"plain", forged, None);
            let foreign = (self.world.codec.partition_of(&id("plain")) + 1) % PARTITIONS;
            let asks = br#"{"v":1,"type":"request","campaign_id":"plain","user_id":"eve"}"#;
            self.append(foreign, b"plain", asks.to_vec(), None);
        }
        self.ask("never-defined", &format!("user-{at}"), None);
    }

    /// Appends a record, folds it, and stores its rows and answers.
    fn record(&mut self, record: Record) {
        let (partition, new) = self.world.codec.encode(&record);
        let key = new.campaign.as_str().as_bytes().to_vec();
        let at = self.append(partition, &key, new.value, Some(new.mac));
        let campaign = record.campaign().clone();
        let keys = self.world.keys.clone();
        let folder = self.folders.entry(campaign.clone()).or_insert_with(|| {
            let campaign = Campaign::new(campaign.clone(), 1, partition, keys.clone());
            let recovered =
                Recovered { campaign, expectations: Expectations::default(), is_repair: false };
            Folder::new(recovered, keys)
        });
        let batch =
            Batch { records: vec![(at, record.clone())], passed: at.offset + 1, is_replay: false };
        let folded = folder.fold(batch);
        for version in folded.versions {
            self.world.put_version(version);
        }
        for change in folded.changes {
            self.world.rows.apply(Row::Change(Box::new(change)));
        }
        for coupon in folded.coupons {
            self.world.put(coupon);
        }
        let format = folder.campaign().definition().map(|it| it.terms.code.clone());
        let decision = folded.records.first().and_then(|it| Some(it.outcome?.decision.decision));
        if let (Record::Request(request), Some(decision)) = (&record, decision) {
            let asked = Asked { campaign: &campaign, user: Some(&request.user), log_epoch: 1 };
            if let Some(answer) = answer(decision, asked, format.as_ref(), &self.world.keys) {
                self.answer(partition, at, request, &answer);
            }
        }
    }

    fn append(
        &mut self,
        partition: Partition,
        key: &[u8],
        value: Vec<u8>,
        mac: Option<Vec<u8>>,
    ) -> At {
        self.time += 11;
        let hole = self.roll(5) / 4;
        let log = &mut self.world.logs[partition as usize];
        let (offset, time) = (log.high + hole, Timestamp(self.time));
        log.records.insert(offset, LogRecord { offset, time, key: key.to_vec(), value, mac });
        log.high = offset + 1;
        At { offset, time }
    }

    /// Adds the answers of a request: pending, and then the decision.
    fn answer(&mut self, partition: Partition, at: At, request: &Request, answer: &Answer) {
        let request_id = self.pending(partition, at, request);
        if let Some(decision) = decision(&request_id, answer) {
            self.world.answers.push(line(request, 200, decision));
        }
    }

    /// Adds the answer that a request gets once it is appended. Returns its id.
    fn pending(&mut self, partition: Partition, at: At, request: &Request) -> String {
        let key = request.idempotency_key.as_ref();
        let content = RequestContent {
            position: Position { log_epoch: 1, partition, offset: at.offset },
            time: at.time,
            campaign: request.campaign.clone(),
            user: request.user.clone(),
            key_digest: key.map(|key| self.world.keys.key_digest(&request.user, key).to_le_bytes()),
        };
        let request_id = self.ids.seal(&content);
        let pending = json!({ "request_id": request_id, "status": "pending" });
        self.world.answers.push(line(request, 202, pending));
        request_id
    }

    /// Sets marks and progress to the end of the log.
    fn settle(&mut self) {
        for partition in 0..PARTITIONS {
            let high = self.world.logs[partition as usize].high;
            set_progress(&mut self.world, partition, high);
        }
        for (campaign, folder) in &self.folders {
            let partition = self.world.codec.partition_of(campaign);
            let offset = self.world.logs[partition as usize].high;
            if let Some(counts) = folder.campaign().counts() {
                let mark = Mark { campaign: campaign.clone(), offset, counts };
                self.world.rows.marks.insert(campaign.clone(), mark);
            }
        }
    }
}

/// Sets progress to `next` with the last record below it.
pub(super) fn set_progress(world: &mut AuditWorld, partition: Partition, next: Offset) {
    let last = world.logs[partition as usize].records.range(..next).next_back();
    let last = last.map(|(offset, record)| LastRecord {
        offset: *offset,
        digest: world.keys.record_digest(&record.key, &record.value),
    });
    world.rows.progress.insert(partition, Progress { partition, log_epoch: 1, next, last });
}

/// Sets progress to two thirds of the log, and removes every third coupon above it.
fn behind(world: &mut AuditWorld) {
    for partition in 0..PARTITIONS {
        let next = world.logs[partition as usize].high * 2 / 3;
        set_progress(world, partition, next);
        let above = world.rows.coupons.values().filter(|coupon| {
            coupon.position.partition == partition && coupon.position.offset >= next
        });
        let missing: Vec<_> =
            above.step_by(3).map(|coupon| (coupon.campaign.clone(), coupon.sequence)).collect();
        for (campaign, sequence) in missing {
            world.remove(&campaign, sequence);
        }
    }
    for campaign in CAMPAIGNS.map(id) {
        mark_at_progress(world, &campaign);
    }
}

fn mark_at_progress(world: &mut AuditWorld, campaign: &CampaignId) {
    let offset = world.rows.progress[&world.codec.partition_of(campaign)].next;
    set_mark(world, campaign, offset);
}

fn set_mark(world: &mut AuditWorld, campaign: &CampaignId, offset: Offset) {
    let below = world
        .rows
        .coupons
        .values()
        .filter(|coupon| coupon.campaign == *campaign && coupon.position.offset < offset);
    let issued = below.map(|coupon| coupon.sequence).max().unwrap_or(0);
    let versions = world.rows.versions.keys().filter(|(of, at)| of == campaign && *at < offset);
    let versions: Vec<Offset> = versions.map(|(_, at)| *at).collect();
    let latest = versions.last().copied().unwrap_or(0);
    let counts = Counts { issued, versions: versions.len() as u32, latest };
    let mark = Mark { campaign: campaign.clone(), offset, counts };
    world.rows.marks.insert(campaign.clone(), mark);
}

/// Adds a hold that starts at the twelfth coupon of "held", and removes the coupons from there on.
fn hold(world: &mut AuditWorld, state: HoldState) {
    let campaign = id("held");
    let from = world.rows.coupons[&(campaign.clone(), 12)].position.offset;
    let above: Vec<_> = world
        .rows
        .coupons
        .values()
        .filter(|coupon| coupon.campaign == campaign && coupon.position.offset >= from)
        .map(|coupon| coupon.sequence)
        .collect();
    for sequence in above {
        world.remove(&campaign, sequence);
    }
    let is_of_held = |line: &&Value| line["campaign"] == "held";
    let of_held: Vec<_> = world.answers.iter().filter(is_of_held).cloned().collect();
    world.answers.retain(|line| line["campaign"] != "held" || line["status"] == 202);
    // Only requests below the hold are decided, so only these have a final answer.
    let below =
        |line: &&Value| line["body"]["coupon"]["sequence"].as_u64().is_some_and(|it| it < 12);
    let decided = of_held.iter().filter(below).filter(|line| line["body"]["status"] == "issued");
    world.answers.extend(decided.cloned());
    set_mark(world, &campaign, from);
    let until = if state == HoldState::Closed { from } else { 0 };
    add_hold(world, &campaign, from, state, until);
}

fn close_hold(world: &mut AuditWorld) {
    let campaign = id("held");
    let from = world.rows.coupons[&(campaign.clone(), 12)].position.offset;
    let until = world.rows.progress[&world.codec.partition_of(&campaign)].next;
    add_hold(world, &campaign, from, HoldState::Closed, until);
}

/// Adds a hold and counts it.
fn add_hold(
    world: &mut AuditWorld,
    campaign: &CampaignId,
    from: Offset,
    state: HoldState,
    until: Offset,
) {
    let partition = world.codec.partition_of(campaign);
    world.rows.apply(Row::Hold(Hold {
        campaign: campaign.clone(),
        partition,
        from,
        number: 1,
        kind: HoldKind::Failure,
        reason: "actor_failed: a bug".to_owned(),
        state,
        until,
    }));
    world.rows.apply(Row::Register(partition, Register::Holds, 1));
}
