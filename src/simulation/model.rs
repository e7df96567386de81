//! The judge's model: what every record must come to. Written from the invariants and from the
//! promised answers alone, on plain numbers; it shares no code with what it judges.

use std::collections::BTreeMap;

/// A change as its author meant it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Defined { quota: u32, limit: u16, opens: Option<i64>, closes: Option<i64> },
    Amended(Amendment),
    Paused,
    Resumed,
    Closed,
    Released,
}

/// What an amendment changes; the rest stays. `Some(None)` takes an end of the window away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Amendment {
    pub(super) quota: Option<u32>,
    pub(super) limit: Option<u16>,
    pub(super) opens: Option<Option<i64>>,
    pub(super) closes: Option<Option<i64>>,
}

/// A record as its producer meant it. Campaigns, users and keys go by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meant {
    Request {
        campaign: usize,
        user: u16,
        key: Option<u16>,
    },
    Control {
        campaign: usize,
        based_on: Option<u64>,
        change: Change,
    },
    /// Nothing that anybody decides.
    Letter,
}

/// What a record comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Issued { sequence: u32, at: i64 },
    AlreadyIssued { sequence: u32, at: i64 },
    Rejected(&'static str),
    Accepted,
    Refused(&'static str),
    Nothing,
}

/// The definition of a campaign after some record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) version: u64,
    pub(super) quota: u32,
    pub(super) limit: u16,
    pub(super) opens: Option<i64>,
    pub(super) closes: Option<i64>,
    pub(super) paused: bool,
    pub(super) closed: bool,
}

/// A coupon that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coupon {
    pub(super) user: u16,
    pub(super) key: Option<u16>,
    pub(super) offset: u64,
    pub(super) at: i64,
}

/// One campaign after all records.
#[derive(Debug, Default)]
pub(super) struct Campaign {
    pub(super) terms: Option<Terms>,
    /// In the order of sequences, from 1.
    pub(super) coupons: Vec<Coupon>,
    /// The terms in effect above each offset.
    pub(super) history: Vec<(u64, Terms)>,
}

impl Terms {
    fn is_sound(&self) -> bool {
        let window = self.opens.zip(self.closes).is_none_or(|(opens, closes)| opens < closes);
        (0..=100_000_000).contains(&self.quota) && (1..=1_000).contains(&self.limit) && window
    }

    /// Why nobody is given a coupon at `time`, seats aside.
    pub(super) fn refusal(&self, time: i64) -> Option<&'static str> {
        if self.closed || self.closes.is_some_and(|closes| closes <= time) {
            Some("closed")
        } else if self.paused {
            Some("paused")
        } else {
            self.opens.is_some_and(|opens| time < opens).then_some("not_open_yet")
        }
    }
}

impl Campaign {
    /// Takes one record and says what it comes to.
    pub(super) fn take(&mut self, offset: u64, time: i64, meant: &Meant) -> Said {
        match meant {
            Meant::Request { user, key, .. } => self.request(offset, time, *user, *key),
            Meant::Control { based_on, change, .. } => self.control(offset, *based_on, change),
            Meant::Letter => Said::Nothing,
        }
    }

    fn request(&mut self, offset: u64, time: i64, user: u16, key: Option<u16>) -> Said {
        let Some(terms) = &self.terms else { return Said::Nothing };
        let mine = || self.coupons.iter().enumerate().filter(|(_, coupon)| coupon.user == user);
        let sequence = |index: usize| index as u32 + 1;
        if let Some((index, coupon)) = mine().find(|(_, it)| key.is_some() && it.key == key) {
            return Said::Issued { sequence: sequence(index), at: coupon.at };
        }
        if mine().count() >= usize::from(terms.limit)
            && let Some((index, coupon)) = mine().next_back()
        {
            return Said::AlreadyIssued { sequence: sequence(index), at: coupon.at };
        }
        if let Some(reason) = terms.refusal(time) {
            return Said::Rejected(reason);
        }
        if self.coupons.len() as u64 >= u64::from(terms.quota) {
            return Said::Rejected("sold_out");
        }
        self.coupons.push(Coupon { user, key, offset, at: time });
        Said::Issued { sequence: self.coupons.len() as u32, at: time }
    }

    fn control(&mut self, offset: u64, based_on: Option<u64>, change: &Change) -> Said {
        if *change == Change::Released {
            return Said::Accepted;
        }
        let next = match (&self.terms, change) {
            (None, Change::Defined { quota, limit, opens, closes }) => {
                let (quota, limit, opens, closes) = (*quota, *limit, *opens, *closes);
                let (paused, closed) = (false, false);
                Terms { version: offset, quota, limit, opens, closes, paused, closed }
            }
            (None, _) => return Said::Nothing,
            (Some(terms), _) if based_on != Some(terms.version) => return Said::Refused("stale"),
            (Some(_), Change::Defined { .. }) => return Said::Refused("stale"),
            (Some(terms), Change::Closed) => Terms { closed: true, ..terms.clone() },
            (Some(terms), _) if terms.closed => return Said::Refused("closed"),
            (Some(terms), Change::Paused) => Terms { paused: true, ..terms.clone() },
            (Some(terms), Change::Resumed) => Terms { paused: false, ..terms.clone() },
            (Some(terms), Change::Amended(it)) => Terms {
                quota: it.quota.unwrap_or(terms.quota),
                limit: it.limit.unwrap_or(terms.limit),
                opens: it.opens.unwrap_or(terms.opens),
                closes: it.closes.unwrap_or(terms.closes),
                ..terms.clone()
            },
            (Some(_), Change::Released) => return Said::Accepted,
        };
        if !next.is_sound() {
            return Said::Refused("invalid");
        }
        if self.coupons.len() as u64 > u64::from(next.quota) {
            return Said::Refused("quota");
        }
        let next = Terms { version: offset, ..next };
        self.history.push((offset, next.clone()));
        self.terms = Some(next);
        Said::Accepted
    }

    /// Coupons issued below `offset`.
    pub(super) fn issued_below(&self, offset: u64) -> u32 {
        self.coupons.partition_point(|coupon| coupon.offset < offset) as u32
    }

    /// The terms in effect at `offset`: those of the last change below it.
    pub(super) fn terms_at(&self, offset: u64) -> Option<&Terms> {
        let above = self.history.partition_point(|(at, _)| *at < offset);
        above.checked_sub(1).and_then(|index| self.history.get(index)).map(|(_, terms)| terms)
    }
}

/// What a whole log must come to.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// By partition and offset.
    pub(super) said: BTreeMap<(u32, u64), Said>,
    pub(super) campaigns: Vec<Campaign>,
}

impl Verdicts {
    /// Folds the true log of every partition, in order.
    pub(super) fn of(campaigns: usize, partitions: &[&[(u64, i64, Meant)]]) -> Self {
        let mut verdicts = Self::default();
        verdicts.campaigns.resize_with(campaigns, Campaign::default);
        for (partition, records) in (0..).zip(partitions) {
            for (offset, time, meant) in *records {
                let said = match meant {
                    Meant::Request { campaign, .. } | Meant::Control { campaign, .. } => {
                        verdicts.campaigns[*campaign].take(*offset, *time, meant)
                    }
                    Meant::Letter => Said::Nothing,
                };
                verdicts.said.insert((partition, *offset), said);
            }
        }
        verdicts
    }
}
