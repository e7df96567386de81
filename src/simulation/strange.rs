//! Records that no node writes: of other producers, forged, cut off, of a newer format.

use super::{
    act::{Foreign, LogDamage},
    node::Engines,
    releases::released_by,
    world::{BEGIN_MS, World},
};
use crate::{
    domain::{
        definition::Amendment,
        ids::{CampaignId, Partition, Timestamp, UserId},
        record::{Change, Control, Record},
    },
    partition::flow::POINT_LOOKUPS_MAX,
    wire::{LogRecord, NewRecord, RECORD_BYTES_MAX},
};

/// How far ahead a record is that must halt its partition, in milliseconds.
const FAR_AHEAD_MS: i64 = 30 * 86_400_000;

/// Records of a burst. Half of them are of as many campaigns, more than are looked up one by one.
const BURST: usize = 3 * POINT_LOOKUPS_MAX;

/// A record before the log has it: its key may be of no campaign, and its MAC of nobody.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) mac: Option<Vec<u8>>,
}

impl From<NewRecord> for Written {
    fn from(NewRecord { campaign, value, mac }: NewRecord) -> Self {
        Self { key: campaign.as_str().as_bytes().to_vec(), value, mac: Some(mac) }
    }
}

/// A request in the documented format, from a producer that has no secret.
fn request(campaign: &CampaignId, user: &UserId) -> Written {
    let value =
        format!(r#"{{"v":1,"type":"request","campaign_id":"{campaign}","user_id":"{user}"}}"#);
    Written { key: campaign.as_str().as_bytes().to_vec(), value: value.into_bytes(), mac: None }
}

/// A control record with a valid MAC.
fn control(engines: &Engines, campaign: &CampaignId, change: Change) -> Written {
    let rows = engines.rows.store.rows.lock();
    let versions = rows.versions.keys().filter(|(of, _)| of == campaign);
    let based_on = versions.map(|(_, offset)| *offset).max();
    let control = Control::once("token", campaign.clone(), based_on, change);
    let (_, record) = engines.codec.encode(&Record::from(control));
    record.into()
}

/// A record of a format that no binary reads yet.
fn newer(engines: &Engines, campaign: &CampaignId) -> Written {
    let epoch = engines.layout.log_epoch;
    let value =
        format!(r#"{{"v":9,"type":"reshuffled","campaign_id":"{campaign}","epoch":{epoch}}}"#);
    let key = campaign.as_str().as_bytes().to_vec();
    let partition = engines.codec.partition_of(campaign);
    let mac = engines.codec.mac(partition, &key, value.as_bytes());
    Written { key, value: value.into_bytes(), mac: Some(mac) }
}

/// Returns the first record of the log that releases a hold, with its campaign.
fn old_release(engines: &Engines) -> Option<(CampaignId, Written)> {
    let brokers = engines.brokers.lock();
    let mut logs = (0..).zip(&brokers.partitions);
    logs.find_map(|(partition, log)| {
        log.records.values().find_map(|record| {
            let (campaign, _) = released_by(&engines.codec, partition, record)?;
            let LogRecord { key, value, mac, .. } = record.clone();
            Some((campaign, Written { key, value, mac }))
        })
    })
}

/// Appends a record that no node wrote. Returns whether there was one.
pub(super) fn append(
    engines: &Engines,
    world: &World,
    kind: Foreign,
    campaign: &CampaignId,
    user: &UserId,
) -> bool {
    let own = engines.codec.partition_of(campaign);
    let (mut partition, mut is_decided) = (own, false);
    let mut decided_of = campaign.clone();
    let written = match kind {
        Foreign::Request | Foreign::Undefined => {
            is_decided = true;
            request(campaign, user)
        }
        Foreign::Unsound | Foreign::Resumption => {
            is_decided = true;
            let (opens, closes) = (Some(Timestamp(BEGIN_MS)), Some(Timestamp(BEGIN_MS - 1)));
            let (opens_at, closes_at) = (Some(opens), Some(closes));
            let amendment = Amendment { opens_at, closes_at, ..Amendment::default() };
            let change = match kind {
                Foreign::Unsound => Change::Amended { amendment },
                _ => Change::Resumed,
            };
            control(engines, campaign, change)
        }
        Foreign::OldRelease => {
            is_decided = true;
            let Some((of, release)) = old_release(engines) else { return false };
            partition = engines.codec.partition_of(&of);
            decided_of = of;
            release
        }
        Foreign::Malformed => {
            let mut cut = request(campaign, user);
            cut.value.truncate(world.below(cut.value.len() as u64) as usize);
            cut
        }
        Foreign::NoMac => Written { mac: None, ..control(engines, campaign, Change::Closed) },
        Foreign::OtherMac | Foreign::NewerForged => {
            let whole = match kind {
                Foreign::OtherMac => control(engines, campaign, Change::Closed),
                _ => newer(engines, campaign),
            };
            let reversed = |mut mac: Vec<u8>| {
                mac.reverse();
                mac
            };
            Written { mac: whole.mac.clone().map(reversed), ..whole }
        }
        Foreign::OtherPartition => {
            partition = (own + 1) % engines.setup.partitions;
            request(campaign, user)
        }
        Foreign::Oversized => {
            Written { value: vec![b' '; RECORD_BYTES_MAX + 1], ..request(campaign, user) }
        }
        Foreign::Burst => {
            burst(engines, world, own, user);
            return true;
        }
    };
    let mut brokers = engines.brokers.lock();
    let offset = brokers.append(world, partition, written).offset;
    // With one partition there is no other.
    if is_decided || kind == Foreign::OtherPartition && partition == own {
        brokers.foreign.insert((partition, offset), decided_of);
    } else {
        brokers.undecidable.insert((partition, offset));
    }
    true
}

fn burst(engines: &Engines, world: &World, partition: Partition, user: &UserId) {
    let names = (0..).filter_map(|number| CampaignId::parse(&format!("unknown-{number}")).ok());
    let unknown = names.filter(|id| engines.codec.partition_of(id) == partition);
    let kinds = [Foreign::Undefined, Foreign::Malformed].into_iter().cycle();
    for (campaign, kind) in unknown.take(BURST).zip(kinds) {
        append(engines, world, kind, &campaign, user);
    }
}

/// Appends what damages a partition, if it is a record.
pub(super) fn damage(engines: &Engines, world: &World, damage: LogDamage, partition: Partition) {
    let names = (0..).map(|number| format!("campaign-{number}"));
    let mut campaigns = names.filter_map(|name| CampaignId::parse(&name).ok());
    let Some(campaign) = campaigns.find(|it| engines.codec.partition_of(it) == partition) else {
        return;
    };
    let mut brokers = engines.brokers.lock();
    match damage {
        LogDamage::Newer => {
            brokers.append(world, partition, newer(engines, &campaign));
        }
        LogDamage::FarAhead => {
            let user = UserId::parse("user-0").expect("a valid id");
            brokers.skew(FAR_AHEAD_MS, u64::MAX);
            brokers.append(world, partition, request(&campaign, &user));
            brokers.skew(0, 0);
        }
        _ => {}
    }
}
