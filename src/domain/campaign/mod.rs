//! One campaign: its definition, its remaining count, its holders, and the fold that decides.

use std::{ops::ControlFlow, sync::Arc};

use super::{
    coupon::Coupon,
    decision::{Decision, DerivedRow, Held, Outcome, Refusal},
    definition::{Amendment, Definition, DefinitionVersion, Terms},
    holders::Holders,
    ids::{CampaignId, Offset, Partition, Position, Timestamp, UserId},
    keys::Keys,
    reason::Situation,
    record::{Change, Control, Record, Request},
    rows::Counts,
};
use crate::check_invariant;

/// Records prefetched per round: enough for their cache misses to overlap, few enough for the
/// lines to be still cached when the records are decided.
const AHEAD: usize = 64;

/// A record's offset and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Offset in the campaign's partition.
    pub offset: Offset,
    /// Record time: the broker's append time, or the wall clock of the embedded log.
    pub time: Timestamp,
}

/// A definition and the offset of the control record that it follows from.
#[derive(Debug, Clone)]
struct InEffect {
    version: Offset,
    definition: Definition,
}

/// The keyed digests under which a campaign looks up a record's user and key.
#[derive(Debug, Clone, Copy)]
struct Digests {
    /// Digest of the user; `None` for a control record.
    user: Option<u128>,
    /// Digest of user and idempotency key, if the request has a key.
    key: Option<u128>,
}

/// The state of one campaign. It is a function of the campaign's versions and coupons alone.
#[derive(Debug)]
pub struct Campaign {
    id: CampaignId,
    log_epoch: u32,
    partition: Partition,
    keys: Arc<Keys>,
    in_effect: Option<InEffect>,
    /// Number of versions so far.
    versions: u32,
    issued: u32,
    users: Holders,
    idempotency_keys: Holders,
}

impl Campaign {
    /// Returns a campaign without definition and coupons.
    #[must_use]
    pub fn new(id: CampaignId, log_epoch: u32, partition: Partition, keys: Arc<Keys>) -> Self {
        Self {
            id,
            log_epoch,
            partition,
            keys,
            in_effect: None,
            versions: 0,
            issued: 0,
            users: Holders::default(),
            idempotency_keys: Holders::default(),
        }
    }

    /// Returns the campaign's id.
    #[must_use]
    pub fn id(&self) -> &CampaignId {
        &self.id
    }

    /// Returns how many coupons are issued: the highest sequence.
    #[must_use]
    pub fn issued(&self) -> u32 {
        self.issued
    }

    /// Returns how many coupons are left; 0 while the campaign is not defined.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.definition().map_or(0, |definition| definition.terms.quota - self.issued)
    }

    /// Returns the definition in effect, if the campaign is defined.
    #[must_use]
    pub fn definition(&self) -> Option<&Definition> {
        self.in_effect.as_ref().map(|in_effect| &in_effect.definition)
    }

    /// Returns the offset of the control record that made the definition in effect.
    #[must_use]
    pub fn version(&self) -> Option<Offset> {
        self.in_effect.as_ref().map(|in_effect| in_effect.version)
    }

    /// Returns whether a user holds a coupon.
    #[must_use]
    pub fn holds(&self, user: &UserId) -> bool {
        self.users.get(self.keys.user_digest(user)).is_some()
    }

    /// Returns how many rows the campaign has; `None` while it is not defined.
    #[must_use]
    pub fn counts(&self) -> Option<Counts> {
        let (issued, versions) = (self.issued, self.versions);
        Some(Counts { issued, versions, latest: self.version()? })
    }

    /// Returns the bytes of memory that the campaign takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.users.memory_bytes() + self.idempotency_keys.memory_bytes()
    }

    /// Decides one record and applies its outcome. Records must come in the order of their
    /// offsets. The same records always give the same outcomes.
    pub fn fold(&mut self, at: At, record: &Record) -> Outcome {
        let digests = self.digests(record);
        self.fold_known(at, record, digests)
    }

    /// Folds records in order and passes each outcome to `take`. After `take` breaks, the records
    /// behind are not folded. Gives the outcomes of [`Self::fold`], but faster: holders are
    /// prefetched for [`AHEAD`] records at a time.
    pub fn fold_all(
        &mut self,
        records: Vec<(At, Record)>,
        mut take: impl FnMut(&Self, At, Record, Outcome) -> ControlFlow<()>,
    ) {
        let mut records = records.into_iter();
        let mut ahead = Vec::with_capacity(AHEAD);
        while !records.as_slice().is_empty() {
            let next = records.as_slice().iter().take(AHEAD);
            ahead.extend(next.map(|(_, record)| self.digests(record)));
            self.users.touch(ahead.iter().filter_map(|digests| digests.user));
            for (digests, (at, record)) in ahead.drain(..).zip(records.by_ref()) {
                let outcome = self.fold_known(at, &record, digests);
                if take(self, at, record, outcome).is_break() {
                    return;
                }
            }
        }
    }

    fn fold_known(&mut self, at: At, record: &Record, digests: Digests) -> Outcome {
        let outcome = match (record, digests.user) {
            (Record::Request(request), Some(user)) => {
                self.decide_request(at, request, user, digests.key)
            }
            (Record::Control(control), _) => self.decide_control(at, control),
            (Record::Request(_), None) => unreachable!("a request has the digest of its user"),
        };
        if let Outcome::Decided { row: Some(row), .. } = &outcome {
            match (row, digests.user) {
                (DerivedRow::Coupon(coupon), Some(user)) => self.take_coupon(coupon, user),
                (DerivedRow::Coupon(_), None) => unreachable!("only a request gets a coupon"),
                (DerivedRow::Version(version), _) => self.apply_version(version),
            }
        }
        outcome
    }

    fn digests(&self, record: &Record) -> Digests {
        let Record::Request(Request { user, idempotency_key, .. }) = record else {
            return Digests { user: None, key: None };
        };
        let key = idempotency_key.as_ref().map(|key| self.keys.key_digest(user, key));
        Digests { user: Some(self.keys.user_digest(user)), key }
    }

    /// Applies a stored coupon. Coupons must come in sequence order.
    ///
    /// # Panics
    /// If the sequence does not follow the last one.
    pub fn apply_coupon(&mut self, coupon: &Coupon) {
        self.take_coupon(coupon, self.keys.user_digest(&coupon.user));
    }

    fn take_coupon(&mut self, coupon: &Coupon, user: u128) {
        let follows = self.issued.checked_add(1) == Some(coupon.sequence);
        let (issued, sequence) = (self.issued, coupon.sequence);
        check_invariant!(Eligibility, follows, "sequence {sequence} after {issued} issued");
        self.issued = sequence;
        let held = Held { sequence, issued_at: coupon.issued_at };
        self.users.add(user, held);
        if let Some(key_digest) = coupon.key_digest {
            self.idempotency_keys.add(u128::from_le_bytes(key_digest), held);
        }
    }

    /// Applies a definition version, either just decided or stored. Versions must come in order.
    ///
    /// # Panics
    /// If the quota is below the number of issued coupons.
    pub fn apply_version(&mut self, version: &DefinitionVersion) {
        let quota = version.definition.terms.quota;
        check_invariant!(
            Remaining,
            version.issued <= quota,
            "quota {quota} below {} issued at offset {}",
            version.issued,
            version.position.offset
        );
        self.versions += 1;
        self.in_effect = Some(InEffect {
            version: version.position.offset,
            definition: version.definition.clone(),
        });
    }

    fn decide_request(
        &self,
        at: At,
        request: &Request,
        user_digest: u128,
        key_digest: Option<u128>,
    ) -> Outcome {
        let Some(definition) = self.definition() else { return Outcome::Undefined };
        // The order of these checks is the contract: a repeated key first, then the limit, then
        // the reasons in their order. `answer/position` gives the same answer from rows.
        let repeated = key_digest.and_then(|digest| self.idempotency_keys.get(digest));
        if let Some(holding) = repeated {
            return answered(Decision::Issued(holding.latest));
        }
        let holding = self.users.get(user_digest);
        let count = holding.map_or(0, |holding| holding.count);
        if let Some(holding) = holding
            && holding.count >= definition.terms.per_user_limit
        {
            return answered(Decision::AlreadyIssued(holding.latest));
        }
        if let Some(reason) = Situation::at(definition, self.issued, at.time).reason() {
            return answered(Decision::Rejected(reason));
        }
        let limit = definition.terms.per_user_limit;
        check_invariant!(PerUserLimit, count < limit, "{count} held of {limit}");
        let bucket = user_bucket(user_digest, definition.user_buckets);
        let coupon = self.coupon(at, request, bucket, key_digest, definition);
        let quota = definition.terms.quota;
        check_invariant!(Quota, coupon.sequence <= quota, "{} of {quota}", coupon.sequence);
        let held = Held { sequence: coupon.sequence, issued_at: coupon.issued_at };
        Outcome::Decided { decision: Decision::Issued(held), row: Some(DerivedRow::Coupon(coupon)) }
    }

    fn coupon(
        &self,
        at: At,
        Request { user, .. }: &Request,
        user_bucket: u8,
        key: Option<u128>,
        definition: &Definition,
    ) -> Coupon {
        let sequence = self.issued + 1;
        let code =
            definition.terms.code.spell(&self.keys, &self.id, self.log_epoch, sequence, user);
        let mut coupon = Coupon {
            campaign: self.id.clone(),
            sequence,
            user: user.clone(),
            code,
            issued_at: at.time,
            position: self.position(at),
            key_digest: key.map(u128::to_le_bytes),
            user_bucket,
            rules_version: definition.rules_version,
            digest: [0; 16],
        };
        coupon.digest = self.keys.coupon_digest(&coupon);
        coupon
    }

    fn decide_control(&self, at: At, control: &Control) -> Outcome {
        // A release changes no definition: the partition's owner acts on it outside the fold.
        if matches!(control.change, Change::Released { .. }) {
            return answered(Decision::Accepted);
        }
        let changed = match (&self.in_effect, &control.change) {
            (None, Change::Defined { terms }) => first_definition(terms),
            (None, _) => return Outcome::Undefined,
            (Some(in_effect), change) if control.based_on == Some(in_effect.version) => {
                self.changed(&in_effect.definition, change)
            }
            (Some(_), _) => Err(Refusal::StaleVersion),
        };
        let definition = match changed {
            Ok(definition) => definition,
            Err(refusal) => return answered(Decision::Refused(refusal)),
        };
        let mut version = DefinitionVersion {
            campaign: self.id.clone(),
            position: self.position(at),
            time: at.time,
            definition,
            issued: self.issued,
            digest: [0; 16],
        };
        version.digest = self.keys.version_digest(&version);
        Outcome::Decided {
            decision: Decision::Accepted,
            row: Some(DerivedRow::Version(Box::new(version))),
        }
    }

    /// Returns the definition after `change`. A change that is in effect already is accepted.
    fn changed(&self, definition: &Definition, change: &Change) -> Result<Definition, Refusal> {
        let mut next = definition.clone();
        match change {
            Change::Defined { .. } => return Err(Refusal::StaleVersion),
            // Before the check for closed campaigns, so that closing twice is accepted.
            Change::Closed => next.closed = true,
            _ if definition.closed => return Err(Refusal::Closed),
            Change::Paused => next.paused = true,
            Change::Resumed => next.paused = false,
            Change::Amended { amendment } => next.terms = self.amended(definition, amendment)?,
            Change::Released { .. } => {}
        }
        if self.issued == 0 {
            next.choose_user_buckets();
        }
        Ok(next)
    }

    fn amended(&self, definition: &Definition, amendment: &Amendment) -> Result<Terms, Refusal> {
        let terms = definition.terms.amended(amendment);
        if !terms.faults().is_empty() {
            return Err(Refusal::Invalid);
        }
        if terms.quota < self.issued {
            return Err(Refusal::QuotaBelowIssued { issued: self.issued });
        }
        Ok(terms)
    }

    /// Returns the position of a record of the campaign.
    #[must_use]
    pub fn position(&self, at: At) -> Position {
        Position { log_epoch: self.log_epoch, partition: self.partition, offset: at.offset }
    }
}

/// Returns the bucket of the by-user view for a user's digest.
#[must_use]
pub fn user_bucket(user_digest: u128, user_buckets: u8) -> u8 {
    // Two 64-bit steps: one 128-bit division takes as long as hashing the user.
    let buckets = u64::from(user_buckets.max(1));
    let (high, low) = ((user_digest >> 64) as u64, user_digest as u64);
    let wrap = (u64::MAX % buckets + 1) % buckets;
    (((high % buckets) * wrap + low % buckets) % buckets) as u8
}

fn first_definition(terms: &Terms) -> Result<Definition, Refusal> {
    if terms.faults().is_empty() {
        Ok(Definition::first(terms.clone()))
    } else {
        Err(Refusal::Invalid)
    }
}

fn answered(decision: Decision) -> Outcome {
    Outcome::Decided { decision, row: None }
}

#[cfg(test)]
mod tests;
