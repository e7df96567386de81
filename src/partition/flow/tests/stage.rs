//! The random generator, store and log of the flow's tests.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    domain::{
        campaign::{At, Campaign},
        coupon::Coupon,
        definition::{Amendment, DefinitionVersion, Terms},
        halt::HoldReason,
        ids::{CampaignId, Offset, Timestamp, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
        rows::{Hold, HoldName, Mark, Progress},
    },
    partition::{fold::Folded, recovery::Contradiction},
    random::Random,
    wire::{LogRecord, decode_step::ReadRecord},
};

pub(super) const CAMPAIGNS: u64 = 3;
pub(super) const USERS: u64 = 40;

#[derive(Default)]
pub(super) struct Store {
    pub(super) coupons: BTreeMap<(CampaignId, u32), Coupon>,
    /// The by-user view.
    pub(super) by_user: BTreeMap<(CampaignId, u32), Coupon>,
    pub(super) versions: BTreeMap<(CampaignId, Offset), DefinitionVersion>,
    pub(super) marks: BTreeMap<CampaignId, Mark>,
    pub(super) holds: BTreeMap<(CampaignId, Offset, u32), Hold>,
    pub(super) progress: Option<Progress>,
    pub(super) holds_ever: u64,
}

impl Store {
    pub(super) fn put_hold(&mut self, hold: &Hold) {
        let key = (hold.campaign.clone(), hold.from, hold.number);
        let known = self.holds.get(&key).map(|known| (known.state, known.until));
        if known.is_none_or(|known| known < (hold.state, hold.until)) {
            self.holds.insert(key, hold.clone());
        }
    }

    pub(super) fn put_by_user(&mut self, coupons: &[Coupon]) {
        for coupon in coupons {
            let key = (coupon.campaign.clone(), coupon.sequence);
            assert_eq!(self.coupons.get(&key), Some(coupon), "its coupon row comes first");
            self.by_user.insert(key, coupon.clone());
        }
    }

    pub(super) fn put_mark(&mut self, mark: &Mark) {
        for (key, coupon) in &self.coupons {
            let is_counted = key.0 == mark.campaign && coupon.position.offset < mark.offset;
            assert!(!is_counted || self.by_user.contains_key(key), "{key:?} is only by sequence");
        }
        let known = self.marks.get(&mark.campaign).map(|known| known.offset);
        if known.is_none_or(|known| known < mark.offset) {
            self.marks.insert(mark.campaign.clone(), mark.clone());
        }
    }

    pub(super) fn put_rows(&mut self, folded: &Folded) {
        for version in &folded.versions {
            let key = (version.campaign.clone(), version.position.offset);
            self.versions.insert(key, version.clone());
        }
        for coupon in &folded.coupons {
            let key = (coupon.campaign.clone(), coupon.sequence);
            if let Some(known) = self.coupons.insert(key, coupon.clone()) {
                assert_eq!(&known, coupon, "a row was replaced by another");
            }
        }
    }

    pub(super) fn put_hold_count(&mut self, count: u64) {
        self.holds_ever = self.holds_ever.max(count);
        assert!(self.holds_ever <= self.holds.len() as u64, "a sound partition would halt");
    }

    pub(super) fn check_hold_count(&self) {
        assert_eq!(self.holds_ever, self.holds.len() as u64, "each hold is counted");
    }

    pub(super) fn all_holds(&self) -> Vec<Hold> {
        self.holds.values().cloned().collect()
    }

    /// Returns the names of the holds of a campaign that are not closed.
    pub(super) fn held(&self, campaign: &CampaignId) -> Vec<HoldName> {
        let held = |hold: &&Hold| hold.campaign == *campaign && hold.is_in_force();
        self.holds.values().filter(held).map(Hold::name).collect()
    }
}

pub(super) fn campaign(index: u64) -> CampaignId {
    CampaignId::parse(&format!("c{index}")).unwrap()
}

/// Returns the contradiction that the log derives another row at `from`.
pub(super) fn differs(from: Offset) -> Contradiction {
    let detail = "another row".to_owned();
    Contradiction { from, reason: HoldReason::RowNotDerived, detail }
}

/// Returns a value that names its offset, so that dead letters can be compared. Some are large.
pub(super) fn value_at(offset: Offset) -> Vec<u8> {
    let mut value = format!("record at {offset}").into_bytes();
    value.resize(if offset.is_multiple_of(7) { 3_000 } else { 100 }, b' ');
    value
}

/// Returns a record as a reader returns it.
pub(super) fn read_of(at: At, record: Record) -> ReadRecord {
    let (offset, time) = (at.offset, at.time);
    let key = record.campaign().as_str().as_bytes().to_vec();
    let raw = LogRecord { offset, time, key, value: value_at(offset), mac: None };
    ReadRecord { raw, record }
}

pub(super) fn keys() -> Arc<Keys> {
    Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"))
}

/// Returns a log of requests and changes, with gaps between the offsets.
pub(super) fn log_of(random: &mut Random, length: u64) -> Vec<(At, Record)> {
    let mut versions: BTreeMap<CampaignId, Campaign> = BTreeMap::new();
    let mut offset = 0;
    let mut log = Vec::new();
    for index in 0..length {
        offset += 1 + random.below(8) / 7;
        let id = campaign(random.below(CAMPAIGNS));
        let state =
            versions.entry(id.clone()).or_insert_with(|| Campaign::new(id.clone(), 1, 0, keys()));
        let control =
            |change| Record::from(Control::once("token", id.clone(), state.version(), change));
        let record = match random.below(40) {
            0 => control(Change::Paused),
            1..=3 => control(Change::Resumed),
            4 => {
                let quota = Some(state.issued() + random.below(20) as u32);
                control(Change::Amended { amendment: Amendment { quota, ..Amendment::default() } })
            }
            _ if state.version().is_none() && index > 5 => {
                control(Change::Defined { terms: Terms { per_user_limit: 2, ..Terms::of(30) } })
            }
            _ => Record::Request(Request {
                campaign: id.clone(),
                user: UserId::parse(&format!("u{}", random.below(USERS))).unwrap(),
                idempotency_key: None,
            }),
        };
        let at = At { offset, time: Timestamp(index as i64) };
        state.fold(at, &record);
        log.push((at, record));
    }
    log
}
