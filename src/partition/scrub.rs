//! Compares a campaign's by-user rows with its mark, whose coupons all have one.
//!
//! A vanished by-user row shows nowhere else: the coupon row is there, and the campaign's actor knows
//! the holder. But a request of that user is answered from the by-user rows once it is settled.

use std::{collections::BTreeMap, sync::Arc};

use super::recovery::Contradiction;
use crate::domain::{
    campaign::user_bucket,
    coupon::Coupon,
    halt::HoldReason,
    ids::{Offset, Sequence},
    keys::Keys,
    rows::{ByUserRow, CampaignRows, Hold, HoldState},
};

/// Most coupons that are looked at again in one read: they lie next to each other.
pub const REPAIRED_MAX: u32 = 256;

/// One look at all by-user rows of a campaign.
#[derive(Debug)]
pub struct Scrub {
    keys: Arc<Keys>,
    /// Where the campaign was defined.
    defined: Offset,
    /// Buckets of the view.
    buckets: u8,
    /// Coupons below the mark.
    issued: Sequence,
    /// One bit for each of them: its row was seen. Of 10 million coupons these are 1.25 MB.
    seen: Vec<u64>,
}

impl Scrub {
    /// Begins a look at a campaign. Returns none if it has issued nothing.
    #[must_use]
    pub fn new(rows: &CampaignRows, keys: Arc<Keys>) -> Option<Self> {
        let issued = rows.mark.as_ref()?.counts.issued;
        // The number is fixed by the last version before the first coupon.
        let buckets = rows.versions.last()?.definition.user_buckets;
        let defined = rows.versions.first()?.position.offset;
        let seen = vec![0; issued.div_ceil(u64::BITS) as usize];
        (issued > 0).then_some(Self { keys, defined, buckets, issued, seen })
    }

    /// Returns the number of buckets to be read.
    #[must_use]
    pub fn buckets(&self) -> u8 {
        self.buckets
    }

    /// Takes a row of a bucket. One that was altered, or that readers do not find, counts as missing.
    pub fn take(&mut self, bucket: u8, row: &ByUserRow) {
        let ByUserRow { user, sequence, coupon } = row;
        let is_whole = coupon.as_ref().is_none_or(|it| self.keys.coupon_digest(it) == it.digest);
        let its_bucket = user_bucket(self.keys.user_digest(user), self.buckets);
        if is_whole && its_bucket == bucket && (1..=self.issued).contains(sequence) {
            let at = sequence - 1;
            self.seen[(at / u64::BITS) as usize] |= 1 << (at % u64::BITS);
        }
    }

    /// Returns the first coupons without a row from `from` on, at most [`REPAIRED_MAX`] apart.
    #[must_use]
    pub fn missing(&self, from: Sequence) -> Vec<Sequence> {
        let Some(first) = self.first_missing(from) else { return Vec::new() };
        let last = first.saturating_add(REPAIRED_MAX - 1).min(self.issued);
        let is_missing = |sequence: &Sequence| {
            let at = sequence - 1;
            self.seen[(at / u64::BITS) as usize] >> (at % u64::BITS) & 1 == 0
        };
        (first..=last).filter(is_missing).collect()
    }

    /// Returns the first coupon without a row from `from` on. Goes by whole words: a hundred million bits
    /// one by one would hold up a thread.
    fn first_missing(&self, from: Sequence) -> Option<Sequence> {
        let mut at = from.max(1) - 1;
        while at < self.issued {
            let bit = at % u64::BITS;
            let seen = (self.seen[(at / u64::BITS) as usize] >> bit).trailing_ones();
            at += seen;
            if seen < u64::BITS - bit {
                return (at < self.issued).then_some(at + 1);
            }
        }
        None
    }

    /// Returns the coupon of a missing by-user row, which is then written again. `stored` are the
    /// coupon rows around it, by sequence.
    ///
    /// # Errors
    /// The coupon row is missing too, or was altered. It lies above the last sound one below it, or
    /// anywhere behind the campaign's definition.
    pub fn repairable<'a>(
        &self,
        sequence: Sequence,
        stored: &'a [Coupon],
    ) -> Result<&'a Coupon, Contradiction> {
        let is_sound = |coupon: &&Coupon| self.keys.coupon_digest(coupon) == coupon.digest;
        let found = stored.iter().find(|coupon| coupon.sequence == sequence);
        if let Some(coupon) = found.filter(is_sound) {
            return Ok(coupon);
        }
        let (reason, what) = match found {
            None => (HoldReason::RowsMissing, "is missing"),
            Some(_) => (HoldReason::RowAltered, "was altered"),
        };
        let mut below = stored.iter().filter(|coupon| coupon.sequence < sequence);
        let last = below.rfind(is_sound).map_or(self.defined, |coupon| coupon.position.offset);
        let detail = format!("the row of coupon {sequence} {what}");
        Err(Contradiction { from: last + 1, reason, detail })
    }
}

/// Groups coupons so that the by-user rows of a group are read together: they are of one bucket and of
/// at most `most` users. Keeps their order within a group.
#[must_use]
pub fn read_together(coupons: &[Coupon], most: usize) -> Vec<Vec<&Coupon>> {
    let mut buckets: BTreeMap<u8, Vec<&Coupon>> = BTreeMap::new();
    for coupon in coupons {
        buckets.entry(coupon.user_bucket).or_default().push(coupon);
    }
    let groups = buckets.values().flat_map(|its| its.chunks(most));
    groups.map(<[&Coupon]>::to_vec).collect()
}

/// Compares a coupon with what the by-user view has of its user, after its row was written.
///
/// # Errors
/// The row is still missing.
pub fn restored(coupon: &Coupon, found: &[Coupon], from: Offset) -> Result<(), Contradiction> {
    if found.contains(coupon) {
        return Ok(());
    }
    let Coupon { sequence, user, .. } = coupon;
    let detail = format!(
        "the by-user row of coupon {sequence} ({user}) was written but cannot be read back: if it \
         was deleted, restore the table or insert the row again, then release the campaign"
    );
    Err(Contradiction { from, reason: HoldReason::ByUserRowMissing, detail })
}

/// Returns where a campaign goes back on hold if its by-user rows are still missing: it is being
/// released from such a hold.
#[must_use]
pub fn released(rows: &CampaignRows) -> Option<Offset> {
    let is_of = |hold: &&Hold| {
        hold.state == HoldState::Released
            && hold.reason_parts().0 == HoldReason::ByUserRowMissing.slug()
    };
    rows.holds.iter().filter(is_of).map(|hold| hold.from).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            campaign::Campaign,
            decision::{DerivedRow, Outcome},
            ids::CampaignId,
            rows::Mark,
        },
        partition::fold::tests::{counts, defined, keys, request},
    };

    const ISSUED: u32 = 8;

    /// Returns the rows of a campaign with a few coupons.
    fn rows() -> (CampaignRows, Vec<Coupon>) {
        let mut campaign = Campaign::new(CampaignId::parse("spring").unwrap(), 1, 0, keys());
        let (mut versions, mut coupons) = (Vec::new(), Vec::new());
        let asks = (1..=ISSUED.into()).map(|offset| request(offset, &format!("u{offset}")));
        for (at, record) in std::iter::once(defined()).chain(asks) {
            match campaign.fold(at, &record) {
                Outcome::Decided { row: Some(DerivedRow::Coupon(it)), .. } => coupons.push(it),
                Outcome::Decided { row: Some(DerivedRow::Version(it)), .. } => versions.push(*it),
                outcome => panic!("no row comes of {outcome:?}"),
            }
        }
        let campaign = CampaignId::parse("spring").unwrap();
        let mark = Some(Mark { campaign, offset: 9, counts: counts(ISSUED) });
        (CampaignRows { mark, versions, ..CampaignRows::default() }, coupons)
    }

    fn by_user(coupon: &Coupon) -> ByUserRow {
        let (user, sequence) = (coupon.user.clone(), coupon.sequence);
        ByUserRow { user, sequence, coupon: Some(coupon.clone()) }
    }

    #[test]
    fn rows_of_one_bucket_are_read_together() {
        let (_, mut coupons) = rows();
        for coupon in &mut coupons {
            coupon.user_bucket = u8::from(coupon.sequence == 3);
        }
        let groups = read_together(&coupons, 4);
        let sequences = |group: &Vec<&Coupon>| group.iter().map(|it| it.sequence).collect();
        let sequences: Vec<Vec<_>> = groups.iter().map(sequences).collect();
        assert_eq!(sequences, [vec![1, 2, 4, 5], vec![6, 7, 8], vec![3]]);
    }

    #[test]
    fn rows_that_readers_do_not_find_are_missing() {
        let (rows, coupons) = rows();
        let mut scrub = Scrub::new(&rows, keys()).unwrap();
        assert_eq!(scrub.missing(1), (1..=ISSUED).collect::<Vec<_>>());
        for coupon in &coupons {
            let mut row = by_user(coupon);
            match coupon.sequence {
                2 => continue,
                4 => row.coupon.as_mut().unwrap().issued_at.0 += 1,
                6 => row.coupon = None,
                8 => {
                    scrub.take(coupon.user_bucket + 1, &row);
                    continue;
                }
                _ => {}
            }
            scrub.take(coupon.user_bucket, &row);
        }
        assert_eq!(scrub.missing(1), [2, 4, 8], "one vanished, one altered, one misplaced");
        assert_eq!((scrub.missing(5), scrub.missing(9)), (vec![8], vec![]));
    }

    #[test]
    fn only_what_the_mark_counts_is_looked_at() {
        let (mut rows, coupons) = rows();
        let mark = rows.mark.as_mut().unwrap();
        mark.counts.issued = 3;
        let mut scrub = Scrub::new(&rows, keys()).unwrap();
        coupons.iter().for_each(|coupon| scrub.take(coupon.user_bucket, &by_user(coupon)));
        assert!(scrub.missing(1).is_empty());
        rows.mark.as_mut().unwrap().counts.issued = 0;
        assert!(Scrub::new(&rows, keys()).is_none());
        rows.mark = None;
        assert!(Scrub::new(&rows, keys()).is_none());
    }

    #[test]
    fn missing_rows_are_restored_near_each_other() {
        let (mut rows, _) = rows();
        rows.mark.as_mut().unwrap().counts.issued = REPAIRED_MAX + 2;
        let scrub = Scrub::new(&rows, keys()).unwrap();
        assert_eq!(scrub.missing(1).len(), REPAIRED_MAX as usize);
        assert_eq!(scrub.missing(REPAIRED_MAX + 1), [REPAIRED_MAX + 1, REPAIRED_MAX + 2]);
    }

    #[test]
    fn only_a_sound_coupon_is_written_again() {
        let (rows, coupons) = rows();
        let scrub = Scrub::new(&rows, keys()).unwrap();
        let reason = |sequence, stored: &[Coupon]| {
            let found = scrub.repairable(sequence, stored);
            found.err().map(|found| (found.from, found.reason))
        };
        assert_eq!(reason(2, &coupons), None);
        // The first coupon is that of offset 1.
        assert_eq!(reason(3, &coupons[..2]), Some((3, HoldReason::RowsMissing)));
        assert_eq!(reason(1, &coupons[1..]), Some((1, HoldReason::RowsMissing)));
        let mut altered = coupons[0].clone();
        altered.issued_at.0 += 1;
        assert_eq!(reason(1, &[altered.clone()]), Some((1, HoldReason::RowAltered)));
        assert_eq!(reason(2, &[altered.clone()]), Some((1, HoldReason::RowsMissing)));
        assert_eq!(restored(&coupons[0], &coupons[..1], 9), Ok(()));
        let lost = restored(&coupons[0], &[altered], 9).unwrap_err();
        assert_eq!((lost.from, lost.reason), (9, HoldReason::ByUserRowMissing));
    }
}
