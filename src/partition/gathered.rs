//! The by-user rows of one campaign that are not durable yet, gathered over many batches.
//!
//! A coupon is issued once its coupon row is durable. Its by-user row lies in one of several database
//! partitions, so one batch of coupons would be as many requests; gathered, they are few.

use crate::domain::{coupon::Coupon, ids::Offset};

/// A write under way.
#[derive(Debug)]
struct Writing {
    number: u64,
    first: Offset,
    rows: usize,
}

/// The by-user rows of one campaign that are not durable yet. Each keeps one credit.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    coupons: Vec<Coupon>,
    writing: Option<Writing>,
    /// Writes begun so far.
    writes: u64,
}

impl Gathered {
    /// Adds a coupon whose coupon row is durable.
    pub(super) fn push(&mut self, coupon: Coupon) {
        self.coupons.push(coupon);
    }

    /// Returns the number of rows that are not durable.
    pub(super) fn rows(&self) -> usize {
        self.coupons.len() + self.writing.as_ref().map_or(0, |writing| writing.rows)
    }

    /// Returns the number of those that no write has taken.
    pub(super) fn untaken(&self) -> usize {
        self.coupons.len()
    }

    /// Returns the lowest position whose row is not durable.
    pub(super) fn first(&self) -> Option<Offset> {
        let gathered = self.coupons.first().map(|coupon| coupon.position.offset);
        self.writing.as_ref().map(|writing| writing.first).or(gathered)
    }

    /// Returns whether [`Self::write`] would begin a write.
    pub(super) fn may_write(&self) -> bool {
        self.writing.is_none() && !self.coupons.is_empty()
    }

    /// Begins to write everything gathered, unless a write is under way. Returns its number and rows.
    pub(super) fn write(&mut self) -> Option<(u64, Vec<Coupon>)> {
        if !self.may_write() {
            return None;
        }
        let first = self.first()?;
        let coupons = std::mem::take(&mut self.coupons);
        self.writes += 1;
        let number = self.writes;
        self.writing = Some(Writing { number, first, rows: coupons.len() });
        Some((number, coupons))
    }

    /// Notes that the rows of a write are durable. Returns their number; 0 if it was forgotten.
    pub(super) fn stored(&mut self, number: u64) -> usize {
        self.writing.take_if(|writing| writing.number == number).map_or(0, |writing| writing.rows)
    }

    /// Forgets everything: a hold covers it, so it is derived again. Returns the number of rows.
    pub(super) fn clear(&mut self) -> usize {
        let rows = self.rows();
        self.coupons.clear();
        self.writing = None;
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            decision::{DerivedRow, Outcome},
            ids::CampaignId,
        },
        partition::fold::tests::{defined, keys, request},
    };

    fn coupons(count: u64) -> Vec<Coupon> {
        let spring = CampaignId::parse("spring").unwrap();
        let mut campaign = crate::domain::campaign::Campaign::new(spring, 1, 0, keys());
        let asks = (1..=count).map(|offset| request(offset, &format!("u{offset}")));
        let mut coupons = Vec::new();
        for (at, record) in std::iter::once(defined()).chain(asks) {
            if let Outcome::Decided { row: Some(DerivedRow::Coupon(coupon)), .. } =
                campaign.fold(at, &record)
            {
                coupons.push(coupon);
            }
        }
        coupons
    }

    #[test]
    fn rows_are_written_one_write_after_the_other() {
        let mut gathered = Gathered::default();
        let mut coupons = coupons(3).into_iter();
        assert_eq!(gathered.write(), None);
        coupons.by_ref().take(2).for_each(|coupon| gathered.push(coupon));
        let (first, written) = gathered.write().unwrap();
        assert_eq!(written.len(), 2);
        coupons.for_each(|coupon| gathered.push(coupon));
        assert_eq!((gathered.rows(), gathered.first()), (3, Some(1)));
        assert_eq!(gathered.write(), None, "a write is under way");
        assert_eq!(gathered.stored(first), 2);
        assert_eq!((gathered.rows(), gathered.first()), (1, Some(3)));
        assert!(gathered.write().is_some());
    }

    #[test]
    fn a_forgotten_write_counts_no_more() {
        let mut gathered = Gathered::default();
        coupons(2).into_iter().for_each(|coupon| gathered.push(coupon));
        let (number, _) = gathered.write().unwrap();
        assert_eq!(gathered.clear(), 2);
        assert_eq!((gathered.rows(), gathered.first()), (0, None));
        coupons(1).into_iter().for_each(|coupon| gathered.push(coupon));
        let (next, _) = gathered.write().unwrap();
        assert_eq!(gathered.stored(number), 0, "it is not the write under way");
        assert_eq!(gathered.stored(next), 1);
    }
}
