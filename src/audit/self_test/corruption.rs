//! Everything that the self-test breaks, one enum variant each, with what it must be found as.

use super::{
    damage_answers as answers, damage_log as log, damage_rows as rows, good::Good, world::World,
};
use crate::audit::finding::FindingKind;

macro_rules! corruptions {
    ($($(#[$doc:meta])* $kind:ident: $good:ident, $found:ident, $plant:path;)*) => {
        /// One kind of damage in otherwise good data.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Corruption {
            $($(#[$doc])* $kind,)*
        }

        impl Corruption {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> String {
                spaced(match self { $(Self::$kind => stringify!($kind),)* })
            }

            /// What it must be found as.
            #[must_use]
            pub fn found_as(self) -> FindingKind {
                match self { $(Self::$kind => FindingKind::$found,)* }
            }

            /// The good data that it damages.
            pub(super) fn good(self) -> Good {
                match self { $(Self::$kind => Good::$good,)* }
            }

            /// Damages the world.
            pub(super) fn plant(self, world: &mut World) {
                match self { $(Self::$kind => $plant(world),)* }
            }
        }
    };
}

corruptions! {
    /// A coupon vanished from both views.
    CouponLost: Settled, CouponMissing, rows::coupon_lost;
    /// The newest coupon vanished from both views.
    LastCouponLost: Settled, CouponMissing, rows::last_coupon_lost;
    /// All coupons of a campaign vanished.
    AllCouponsLost: Settled, CouponMissing, rows::all_coupons_lost;
    /// A coupon vanished from the view by sequence alone.
    CouponRowLost: Settled, CouponMissing, rows::coupon_row_lost;
    /// A coupon vanished from the by-user view alone.
    ByUserRowLost: Settled, ByUserMissing, rows::by_user_row_lost;
    /// The by-user view has a coupon more.
    ByUserRowMore: Settled, ByUserExtra, rows::by_user_row_more;
    /// A row of the by-user view has another code.
    ByUserRowChanged: Settled, ByUserWrong, rows::by_user_row_changed;
    /// A row of the by-user view stands under another user.
    ByUserRowMoved: Settled, ByUserExtra, rows::by_user_row_moved;
    /// A code was changed, its digest was not.
    CodeChanged: Settled, CouponAltered, rows::code_changed;
    /// A code was changed by somebody who has the secret.
    CodeSignedAgain: Settled, CouponCode, rows::code_signed_again;
    /// A coupon was given to somebody else.
    UserReplaced: Settled, CouponUnderivable, rows::user_replaced;
    /// The time of a coupon was changed.
    TimeChanged: Settled, CouponWrong, rows::time_changed;
    /// The key of a coupon was changed.
    KeyChanged: Settled, CouponWrong, rows::key_changed;
    /// Two coupons changed places.
    CouponsSwapped: Settled, CouponMoved, rows::coupons_swapped;
    /// A coupon was given another position.
    PositionChanged: Settled, CouponMoved, rows::position_changed;
    /// A coupon stands for two requests.
    RequestTwice: Settled, TwoForOneRequest, rows::request_twice;
    /// One request was given a second coupon.
    SecondForRequest: Settled, TwoForOneRequest, rows::second_for_request;
    /// One coupon more than the quota.
    BeyondQuota: Settled, CouponBeyondQuota, rows::beyond_quota;
    /// One coupon more than a user may hold.
    BeyondLimit: Settled, CouponBeyondLimit, rows::beyond_limit;
    /// A coupon for a request that was refused while a seat was left.
    IssuedWhilePaused: Settled, CouponUnderivable, rows::issued_while_paused;
    /// Two coupons with one code.
    CodeOfAnother: Settled, CodeTwice, rows::code_of_another;
    /// A definition version vanished.
    VersionLost: Settled, VersionMissing, rows::version_lost;
    /// A definition version was changed, its digest was not.
    VersionChanged: Settled, VersionAltered, rows::version_changed;
    /// A quota was raised by somebody who has the secret.
    QuotaSignedAgain: Settled, VersionWrong, rows::quota_signed_again;
    /// A definition version counts one coupon more.
    VersionCountChanged: Settled, VersionMiscounts, rows::version_count_changed;
    /// A definition version that nobody asked for.
    VersionMore: Settled, VersionUnderivable, rows::version_more;
    /// A campaign vanished from the listing.
    ListingLost: Settled, NotListed, rows::listing_lost;
    /// A campaign is listed that there is not.
    ListingMore: Settled, ListedUndefined, rows::listing_more;
    /// A mark counts a coupon more.
    MarkRaised: Settled, MarkWrong, rows::mark_raised;
    /// A mark counts a coupon less.
    MarkLowered: Settled, MarkWrong, rows::mark_lowered;
    /// A mark vanished.
    MarkLost: Settled, MarkBehind, rows::mark_lost;
    /// A mark is set back to where it once was.
    MarkOld: Settled, MarkBehind, rows::mark_old;
    /// A mark lies above the end of the log.
    MarkAbove: Settled, MarkBeyondLog, rows::mark_above;
    /// A coupon stands above the end of the log.
    CouponAbove: Settled, RowAboveLog, rows::coupon_above;
    /// A coupon below progress vanished, while those above may be missing.
    CouponLostBehind: Behind, CouponMissing, rows::coupon_lost;
    /// A row above progress says something else than the log.
    WrongAboveProgress: Behind, CouponUnderivable, rows::wrong_above_progress;
    /// A coupon below the start of the log vanished.
    LostBelowLog: Trimmed, CouponMissing, rows::coupon_lost;
    /// A coupon below the start of the log has another code.
    CodeBelowLog: Trimmed, CouponCode, rows::code_signed_again;
    /// A user below the start of the log holds more than the limit.
    LimitBelowLog: Trimmed, CouponBeyondLimit, rows::limit_below_log;
    /// A coupon below the start of the log was issued before the window.
    EarlyBelowLog: Trimmed, CouponUnderivable, rows::early_below_log;
    /// One request below the start of the log has two coupons.
    TwiceBelowLog: Trimmed, TwoForOneRequest, rows::twice_below_log;
    /// A quota below the start of the log was lowered under what was issued.
    QuotaBelowLog: Trimmed, CouponBeyondQuota, rows::quota_below_log;
    /// A definition version below the start of the log counts one coupon more.
    CountBelowLog: Trimmed, VersionMiscounts, rows::version_count_changed;
    /// A campaign's hold vanished, and its rows are not there.
    HoldLost: Held, CouponMissing, log::hold_lost;
    /// A hold is closed, and its rows are not there.
    HoldClosedEarly: Held, CouponMissing, log::hold_closed_early;
    /// A hold is closed up to where the log is not yet.
    HoldClosedAbove: HoldClosed, HoldImpossible, log::hold_closed_above;
    /// A hold stands in another partition.
    HoldElsewhere: Held, HoldImpossible, log::hold_elsewhere;
    /// The log begins above the start of a hold.
    HeldStartLost: Held, HeldRecordsLost, log::held_start_lost;
    /// The log lost its tail.
    TailLost: Settled, LogEndsEarly, log::tail_lost;
    /// The log was recreated.
    LogRecreated: Settled, LogEndsEarly, log::recreated;
    /// The log lost records that were not settled yet.
    StartLost: Behind, LogStartsLate, log::start_lost;
    /// The last settled record was rewritten.
    LastRewritten: Settled, RecordRewritten, log::last_rewritten;
    /// A record in the middle asks for somebody else.
    RecordRewritten: Settled, CouponUnderivable, log::record_rewritten;
    /// A record in the middle vanished.
    RecordLost: Settled, CouponMoved, log::record_lost;
    /// A control record in the middle was made unreadable.
    ControlForged: Settled, VersionUnderivable, log::control_forged;
    /// Record times were shifted.
    TimesShifted: Settled, CouponWrong, log::times_shifted;
    /// Progress is of another life of the log.
    ProgressOfAnother: Settled, ProgressWrong, log::progress_of_another;
    /// Progress does not name the last record below it.
    ProgressNamesOther: Settled, ProgressWrong, log::progress_names_other;
    /// A client was given an id that nobody made.
    IdInvented: Settled, AnswerUnknownId, answers::id_invented;
    /// A client was given somebody else's id.
    IdOfAnother: Settled, AnswerForeignId, answers::id_of_another;
    /// A client was told "issued", and the coupon is gone.
    ToldAndGone: Settled, AnswerHoldsNothing, answers::told_and_gone;
    /// A client was told "issued", and another holds the coupon.
    ToldOfAnother: Settled, AnswerCoupon, answers::told_of_another;
    /// A client was told "sold out", and was issued a coupon.
    ToldSoldOut: Settled, AnswerWrong, answers::told_sold_out;
    /// A client was told "issued", and there was no seat.
    ToldIssued: Settled, AnswerWrong, answers::told_issued;
    /// A client was told the wrong reason.
    ToldReason: Settled, AnswerWrong, answers::told_reason;
    /// A client was told another code.
    ToldCode: Settled, AnswerCoupon, answers::told_code;
    /// A client was told another code of a coupon below the start of the log.
    ToldCodeBelowLog: Trimmed, AnswerCoupon, answers::told_code;
    /// A client was told two things of one request.
    ToldTwo: Settled, AnswerChanged, answers::told_two;
    /// Two coupons were given for one key.
    ToldTwoForKey: Settled, AnswerTwoForKey, answers::told_two_for_key;
    /// The request of an answer is not in the log.
    ToldAndLost: Settled, AnswerLost, answers::told_and_lost;
    /// A client was told "pending" of a request of a campaign that there is not.
    ToldUndecided: Settled, AnswerUndecided, answers::told_undecided;
}

/// `CouponRowLost` as people read it.
fn spaced(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
