//! Why a campaign issues no coupon: the reasons of a rejection, and the rules that decide them.
//!
//! The fold, answers from rows, admission and views all decide by [`Situation::reason`]. Only the
//! audit has rules of its own.

use serde::{Deserialize, Serialize};

use super::{definition::Definition, ids::Timestamp};

/// Declares the reasons of a rejection in the order of precedence. Each reason is one row: its
/// name, the state of a campaign that rejects for it, and the slug and title of the problem
/// document.
macro_rules! rejection_reasons {
    ($($(#[$doc:meta])* $reason:ident: $name:literal, $state:literal, $slug:literal, $title:literal;)*) => {
        /// The reason of a rejection: the first that holds, in this order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $name)] $reason,)*
        }

        impl Reason {
            /// Every reason, in the order of precedence.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$reason,)*];

            /// Returns the reason as API, stored answers and metrics spell it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)* }
            }

            /// Returns the state that views show while a campaign rejects for this reason.
            #[must_use]
            pub(crate) fn state(self) -> &'static str {
                match self { $(Self::$reason => $state,)* }
            }

            /// Returns the end of the `type` of the problem document.
            #[must_use]
            pub(crate) fn slug(self) -> &'static str {
                match self { $(Self::$reason => $slug,)* }
            }

            /// Returns the title of the problem document.
            #[must_use]
            pub(crate) fn title(self) -> &'static str {
                match self { $(Self::$reason => $title,)* }
            }
        }
    };
}

rejection_reasons! {
    /// Closed by an operator, or past `closes_at`.
    Closed: "closed", "closed", "closed", "Campaign closed";
    /// Paused by an operator.
    Paused: "paused", "paused", "paused", "Campaign paused";
    /// Before `opens_at`.
    NotOpenYet: "not_open_yet", "scheduled", "not-open-yet", "Campaign not open yet";
    /// No seat remains.
    SoldOut: "sold_out", "sold_out", "sold-out", "Sold out";
}

// Rows do not show how many coupons were issued below a position. A request without a coupon row is
// therefore answered "sold out" if no earlier reason holds.
const _: () = assert!(matches!(Reason::ALL[Reason::ALL.len() - 1], Reason::SoldOut));

/// The facts by which a campaign rejects a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    /// The definition in effect.
    pub(crate) definition: &'a Definition,
    /// Coupons issued so far. A lower bound makes every reason found a certain one.
    pub(crate) issued: u32,
    /// The earliest time at which the log may append the request.
    pub(crate) earliest: Timestamp,
    /// The latest time at which the log may append the request.
    pub(crate) latest: Timestamp,
}

impl<'a> Situation<'a> {
    /// Returns the situation of a request with the record time `time`.
    #[must_use]
    pub(crate) fn at(definition: &'a Definition, issued: u32, time: Timestamp) -> Self {
        Self { definition, issued, earliest: time, latest: time }
    }

    /// Returns the reason for which no coupon is issued: the first that holds at every time between
    /// `earliest` and `latest`.
    #[must_use]
    pub(crate) fn reason(&self) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| self.rejects_for(*reason))
    }

    fn rejects_for(&self, reason: Reason) -> bool {
        let Definition { terms, paused, closed, .. } = self.definition;
        match reason {
            Reason::Closed => {
                // The window is half-open: no coupon is issued at `closes_at` itself.
                *closed || terms.closes_at.is_some_and(|end| self.earliest >= end)
            }
            Reason::Paused => *paused,
            Reason::NotOpenYet => terms.opens_at.is_some_and(|start| self.latest < start),
            Reason::SoldOut => self.issued >= terms.quota,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::definition::Terms;

    #[test]
    fn stored_answers_and_slugs_follow_the_name() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
            assert_eq!(reason.slug(), reason.name().replace('_', "-"));
        }
    }

    #[test]
    fn the_first_reason_that_holds_is_returned() {
        let opens_at = Some(Timestamp(100));
        let mut definition = Definition::first(Terms { opens_at, ..Terms::of(1) });
        let reason = |definition: &_, issued, time| {
            Situation::at(definition, issued, Timestamp(time)).reason()
        };
        assert_eq!(reason(&definition, 0, 100), None);
        assert_eq!(reason(&definition, 1, 100), Some(Reason::SoldOut));
        assert_eq!(reason(&definition, 1, 99), Some(Reason::NotOpenYet));
        definition.paused = true;
        assert_eq!(reason(&definition, 1, 99), Some(Reason::Paused));
        definition.closed = true;
        assert_eq!(reason(&definition, 1, 99), Some(Reason::Closed));
    }

    #[test]
    fn a_reason_holds_at_every_possible_time() {
        let window = Terms {
            opens_at: Some(Timestamp(100)),
            closes_at: Some(Timestamp(200)),
            ..Terms::of(1)
        };
        let definition = Definition::first(window);
        let reason = |earliest, latest| {
            let (earliest, latest) = (Timestamp(earliest), Timestamp(latest));
            Situation { definition: &definition, issued: 0, earliest, latest }.reason()
        };
        assert_eq!(reason(98, 99), Some(Reason::NotOpenYet));
        assert_eq!(reason(98, 100), None);
        assert_eq!(reason(199, 201), None);
        assert_eq!(reason(200, 202), Some(Reason::Closed));
    }
}
