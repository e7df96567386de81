//! Derives a campaign's state from the log with a naive model that shares no rule with the product.

use std::{collections::HashMap, sync::Arc};

use super::{changes, finding::Location, rejections::Rejections, rules, skipped::Ranges};
use crate::domain::{
    change::ChangeRow,
    coupon::Coupon,
    definition::{Definition, DefinitionVersion},
    ids::{CampaignId, Offset, Partition, Position, Sequence, Timestamp, UserId},
    keys::Keys,
    reason::Reason,
    record::{Change, Control, Record, Request},
    rows,
};

/// One coupon derived from the log, without the members that can be derived again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Derived {
    /// Digest that its row must have.
    pub(super) digest: [u8; 16],
    /// Offset of its request.
    pub(super) offset: Offset,
    /// Record time of its request.
    pub(super) time: Timestamp,
    /// Fingerprint of its user.
    pub(super) user: u64,
}

/// The outcome of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordOutcome {
    /// Issued this coupon, or an earlier request with the same key did.
    Issued(Sequence),
    /// The user already holds the limit; this is the latest coupon.
    AlreadyIssued(Sequence),
    /// Rejected for this reason.
    Rejected(Reason),
    /// A control record, accepted or refused.
    Control,
    /// The campaign is not defined here: a dead letter.
    Undefined,
}

/// The coupons of one user.
#[derive(Debug, Clone, Copy)]
struct Holding {
    count: u32,
    latest: Sequence,
}

/// Counts requests by their outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) already_issued: u64,
    pub(super) repeated: u64,
    pub(super) rejected: Rejections,
}

/// Identifies a partition, and holds the keys by which its campaigns are decided.
#[derive(Debug, Clone)]
pub(super) struct PartitionContext {
    pub(super) log_epoch: u32,
    pub(super) partition: Partition,
    pub(super) keys: Arc<Keys>,
    /// The ranges of the partition that are skipped.
    pub(super) skipped: Ranges,
}

impl PartitionContext {
    pub(super) fn is_skipped(&self, offset: Offset) -> bool {
        self.skipped.iter().any(|&(from, to)| (from..to).contains(&offset))
    }
}

/// One campaign as the log derives it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) id: CampaignId,
    pub(super) place: PartitionContext,
    pub(super) versions: Vec<DefinitionVersion>,
    /// By sequence: the first is that of sequence 1.
    pub(super) coupons: Vec<Derived>,
    /// How many of `coupons` and `versions` come from rows, because the log was trimmed.
    pub(super) coupons_from_rows: usize,
    pub(super) versions_from_rows: usize,
    pub(super) counts: Counts,
    /// What its control records came to, by their offsets.
    pub(super) changes: Vec<changes::Derived>,
    holdings: HashMap<u128, Holding>,
    promised: HashMap<u128, Sequence>,
}

impl Model {
    /// Returns what a mark at `offset` says; none if the campaign is not defined there.
    pub(super) fn counts_below(&self, offset: Offset) -> Option<rows::Counts> {
        let versions = self.versions.iter().map(|version| version.position.offset);
        let below: Vec<_> = versions.filter(|version| *version < offset).collect();
        let (issued, latest) = (self.issued_below(offset), *below.last()?);
        Some(rows::Counts { issued, versions: u32::try_from(below.len()).ok()?, latest })
    }

    /// Returns the place of a finding about this campaign.
    pub(super) fn at(&self, offset: Offset, sequence: Option<Sequence>) -> Location {
        Location {
            partition: Some(self.place.partition),
            campaign: Some(self.id.clone()),
            offset: Some(offset),
            sequence,
        }
    }

    pub(super) fn new(id: CampaignId, place: PartitionContext) -> Self {
        Self {
            id,
            place,
            versions: Vec::new(),
            coupons: Vec::new(),
            coupons_from_rows: 0,
            versions_from_rows: 0,
            counts: Counts::default(),
            changes: Vec::new(),
            holdings: HashMap::new(),
            promised: HashMap::new(),
        }
    }

    pub(super) fn issued(&self) -> u32 {
        u32::try_from(self.coupons.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn definition(&self) -> Option<&Definition> {
        self.versions.last().map(|version| &version.definition)
    }

    /// Returns the definition in effect at `offset`, that of the last version below it.
    pub(super) fn definition_at(&self, offset: Offset) -> Option<&Definition> {
        let above = self.versions.partition_point(|version| version.position.offset < offset);
        above.checked_sub(1).map(|last| &self.versions[last].definition)
    }

    /// Counts the coupons whose request is below `offset`.
    pub(super) fn issued_below(&self, offset: Offset) -> u32 {
        let below = self.coupons.partition_point(|coupon| coupon.offset < offset);
        u32::try_from(below).unwrap_or(u32::MAX)
    }

    /// Returns the coupon of a sequence.
    pub(super) fn coupon(&self, sequence: Sequence) -> Option<&Derived> {
        self.coupons.get((sequence as usize).checked_sub(1)?)
    }

    /// Returns the sequence of the coupon issued at exactly `offset`.
    pub(super) fn issued_at(&self, offset: Offset) -> Option<Sequence> {
        let found = self.coupons.binary_search_by_key(&offset, |coupon| coupon.offset);
        found.ok().and_then(|at| Sequence::try_from(at + 1).ok())
    }

    /// Counts the coupons that a user holds so far.
    pub(super) fn held(&self, user: &UserId) -> u32 {
        let digest = self.place.keys.user_digest(user);
        self.holdings.get(&digest).map_or(0, |holding| holding.count)
    }

    /// Applies the next record of the campaign.
    pub(super) fn record(
        &mut self,
        offset: Offset,
        time: Timestamp,
        record: &Record,
    ) -> RecordOutcome {
        match record {
            Record::Request(request) => self.request(offset, time, request),
            Record::Control(control) => self.control(offset, time, control),
        }
    }

    fn request(&mut self, offset: Offset, time: Timestamp, request: &Request) -> RecordOutcome {
        let Some(definition) = self.definition() else { return RecordOutcome::Undefined };
        let limit = u32::from(definition.terms.per_user_limit);
        let rejection = rules::rejection(definition, self.issued(), time);
        self.counts.requests += 1;
        // A key is looked up before limit and window: a repeated request gets its coupon again,
        // even after the campaign was closed.
        let keys = Arc::clone(&self.place.keys);
        let key_digest =
            request.idempotency_key.as_ref().map(|key| keys.key_digest(&request.user, key));
        if let Some(sequence) = key_digest.and_then(|digest| self.promised.get(&digest)) {
            self.counts.repeated += 1;
            return RecordOutcome::Issued(*sequence);
        }
        let user_digest = keys.user_digest(&request.user);
        if let Some(holding) = self.holdings.get(&user_digest)
            && holding.count >= limit
        {
            self.counts.already_issued += 1;
            return RecordOutcome::AlreadyIssued(holding.latest);
        }
        if let Some(reason) = rejection {
            self.counts.rejected.add(reason);
            return RecordOutcome::Rejected(reason);
        }
        let coupon = self.next_coupon(offset, time, &request.user, user_digest, key_digest);
        self.take(&coupon, coupon.digest);
        RecordOutcome::Issued(coupon.sequence)
    }

    fn next_coupon(
        &self,
        offset: Offset,
        time: Timestamp,
        user: &UserId,
        user_digest: u128,
        key_digest: Option<u128>,
    ) -> Coupon {
        let sequence = self.issued() + 1;
        let (buckets, rules_version) = self
            .definition()
            .map_or((1, 0), |definition| (definition.user_buckets, definition.rules_version));
        let mut coupon = Coupon {
            campaign: self.id.clone(),
            sequence,
            user: user.clone(),
            code: self.code(sequence, user).into(),
            issued_at: time,
            position: self.position(offset),
            key_digest: key_digest.map(u128::to_le_bytes),
            user_bucket: (user_digest % u128::from(buckets.max(1))) as u8,
            rules_version,
            digest: [0; 16],
        };
        coupon.digest = self.place.keys.coupon_digest(&coupon);
        coupon
    }

    /// Adds a coupon: one just issued, or the next row below the start of the log.
    pub(super) fn take(&mut self, coupon: &Coupon, digest: [u8; 16]) {
        let user_digest = self.place.keys.user_digest(&coupon.user);
        self.coupons.push(Derived {
            digest,
            offset: coupon.position.offset,
            time: coupon.issued_at,
            user: fingerprint(user_digest),
        });
        let holding = self.holdings.entry(user_digest).or_insert(Holding { count: 0, latest: 0 });
        holding.count += 1;
        holding.latest = coupon.sequence;
        if let Some(key) = coupon.key_digest {
            self.promised.insert(u128::from_le_bytes(key), coupon.sequence);
        }
    }

    /// Derives the code of the coupon that `user` holds under `sequence`.
    pub(super) fn code(&self, sequence: Sequence, user: &UserId) -> String {
        let PartitionContext { log_epoch, keys, .. } = &self.place;
        self.definition().map_or_else(String::new, |definition| {
            rules::code(&definition.terms.code, keys, &self.id, *log_epoch, sequence, user)
        })
    }

    fn control(&mut self, offset: Offset, time: Timestamp, control: &Control) -> RecordOutcome {
        let before = self.definition().cloned();
        let definition = match (self.versions.last(), &control.change) {
            // A release ends a hold and leaves the definition as it is.
            (None, Change::Released { .. }) => return RecordOutcome::Control,
            (Some(last), Change::Released { .. }) => {
                let same = Some(last.definition.clone());
                self.changed(offset, time, control, (before, same), false);
                return RecordOutcome::Control;
            }
            (None, Change::Defined { terms }) => {
                rules::is_valid(terms).then(|| rules::first(terms))
            }
            (None, _) => return RecordOutcome::Undefined,
            (Some(last), change) if control.based_on == Some(last.position.offset) => {
                rules::changed(&last.definition, change, self.issued())
            }
            (Some(_), _) => None,
        };
        let is_refused = definition.is_none();
        if let Some(definition) = definition {
            let mut version = DefinitionVersion {
                campaign: self.id.clone(),
                position: self.position(offset),
                time,
                definition,
                issued: self.issued(),
                digest: [0; 16],
            };
            version.digest = self.place.keys.version_digest(&version);
            self.versions.push(version);
        }
        // A definition that is refused defines nothing, and has no row.
        if let Some(after) = self.definition().cloned() {
            self.changed(offset, time, control, (before, Some(after)), is_refused);
        }
        RecordOutcome::Control
    }

    /// Adds what a control record came to.
    fn changed(
        &mut self,
        offset: Offset,
        time: Timestamp,
        control: &Control,
        (before, after): (Option<Definition>, Option<Definition>),
        is_refused: bool,
    ) {
        let row = ChangeRow {
            campaign: self.id.clone(),
            position: self.position(offset),
            time,
            by: control.by.clone(),
            retried: control.retried,
            change: control.change.clone(),
            before,
            after,
            refusal: is_refused.then_some(changes::ANY_REFUSAL),
            digest: [0; 16],
        };
        let digest = self.place.keys.change_digest(&row);
        self.changes.push(changes::Derived { offset, digest });
    }

    pub(super) fn position(&self, offset: Offset) -> Position {
        let PartitionContext { log_epoch, partition, .. } = self.place;
        Position { log_epoch, partition, offset }
    }
}

/// Returns 64 bits of a user's digest, enough to tell the users of one campaign apart.
pub(super) fn fingerprint(user_digest: u128) -> u64 {
    (user_digest >> 64) as u64
}
