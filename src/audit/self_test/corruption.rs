//! The kinds of damage, each with the finding that it must give.

use super::{
    damage_answers as answers, damage_log as log, damage_rows as rows, good::Good,
    world::AuditWorld,
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

            /// Returns the name as words.
            #[must_use]
            pub fn name(self) -> String {
                spaced(match self { $(Self::$kind => stringify!($kind),)* })
            }

            /// Returns the kind of finding that it must give.
            #[must_use]
            pub fn found_as(self) -> FindingKind {
                match self { $(Self::$kind => FindingKind::$found,)* }
            }

            /// Returns the good data that it damages.
            pub(super) fn good(self) -> Good {
                match self { $(Self::$kind => Good::$good,)* }
            }

            /// Damages the world.
            pub(super) fn plant(self, world: &mut AuditWorld) {
                match self { $(Self::$kind => $plant(world),)* }
            }
        }
    };
}

corruptions! {
    /// A coupon is missing in both views.
    CouponLost: Settled, CouponMissing, rows::coupon_lost;
    /// The newest coupon is missing in both views.
    LastCouponLost: Settled, CouponMissing, rows::last_coupon_lost;
    /// All coupons of a campaign are missing.
    AllCouponsLost: Settled, CouponMissing, rows::all_coupons_lost;
    /// A coupon is missing in the view by sequence.
    CouponRowLost: Settled, CouponMissing, rows::coupon_row_lost;
    /// A coupon is missing in the by-user view.
    ByUserRowLost: Settled, ByUserMissing, rows::by_user_row_lost;
    /// The by-user view has an additional coupon.
    ByUserRowAdded: Settled, ByUserExtra, rows::by_user_row_added;
    /// A row of the by-user view has another code.
    ByUserRowChanged: Settled, ByUserWrong, rows::by_user_row_changed;
    /// A row of the by-user view is stored under another user.
    ByUserRowMoved: Settled, ByUserExtra, rows::by_user_row_moved;
    /// A code was changed without its digest.
    CodeChanged: Settled, CouponAltered, rows::code_changed;
    /// A code was changed together with its digest, which needs the secret.
    CodeSignedAgain: Settled, CouponCode, rows::code_signed_again;
    /// A coupon has another user.
    UserReplaced: Settled, CouponUnderivable, rows::user_replaced;
    /// A coupon has another time.
    TimeChanged: Settled, CouponWrong, rows::time_changed;
    /// A coupon has another idempotency key.
    KeyChanged: Settled, CouponWrong, rows::key_changed;
    /// Two coupons have each other's sequence.
    CouponsSwapped: Settled, CouponMoved, rows::coupons_swapped;
    /// A coupon has another position.
    PositionChanged: Settled, CouponMoved, rows::position_changed;
    /// A coupon also replaces the next one.
    CouponCopied: Settled, TwoForOneRequest, rows::coupon_copied;
    /// A request has a second coupon.
    SecondForRequest: Settled, TwoForOneRequest, rows::second_for_request;
    /// There is one coupon more than the quota.
    BeyondQuota: Settled, CouponBeyondQuota, rows::beyond_quota;
    /// A user holds one coupon more than the limit.
    BeyondLimit: Settled, CouponBeyondLimit, rows::beyond_limit;
    /// A request that was rejected while the campaign was paused has a coupon.
    IssuedWhilePaused: Settled, CouponUnderivable, rows::issued_while_paused;
    /// Two coupons have the same code.
    CodeOfAnother: Settled, CodeTwice, rows::code_of_another;
    /// A definition version is missing.
    VersionLost: Settled, VersionMissing, rows::version_lost;
    /// A definition version was changed without its digest.
    VersionChanged: Settled, VersionAltered, rows::version_changed;
    /// A quota was raised together with the digest, which needs the secret.
    QuotaSignedAgain: Settled, VersionWrong, rows::quota_signed_again;
    /// A definition version counts one coupon too many.
    VersionCountChanged: Settled, VersionMiscounts, rows::version_count_changed;
    /// There is a definition version without a control record.
    VersionAdded: Settled, VersionUnderivable, rows::version_added;
    /// What a control record came to is missing.
    ChangeLost: Settled, ChangeMissing, rows::change_lost;
    /// Somebody else is said to have asked for a change, without its digest.
    ChangeBlamed: Settled, ChangeAltered, rows::change_blamed;
    /// Somebody else is said to have asked for a change, together with its digest, which needs the secret.
    ChangeSignedAgain: Settled, ChangeWrong, rows::change_signed_again;
    /// A refused change is said to have been accepted.
    RefusalHidden: Settled, ChangeWrong, rows::refusal_hidden;
    /// There is a change without a control record.
    ChangeAdded: Settled, ChangeUnderivable, rows::change_added;
    /// A campaign is missing in the listing.
    ListingLost: Settled, NotListed, rows::listing_lost;
    /// The listing has a campaign that does not exist.
    ListingAdded: Settled, ListedUndefined, rows::listing_added;
    /// A mark counts one coupon too many.
    MarkRaised: Settled, MarkWrong, rows::mark_raised;
    /// A mark counts one coupon too few.
    MarkLowered: Settled, MarkWrong, rows::mark_lowered;
    /// A mark is missing.
    MarkLost: Settled, MarkBehind, rows::mark_lost;
    /// A mark was set back to an earlier one.
    MarkOld: Settled, MarkBehind, rows::mark_old;
    /// A mark is above the end of the log.
    MarkAbove: Settled, MarkBeyondLog, rows::mark_above;
    /// A coupon is above the end of the log.
    CouponAbove: Settled, RowAboveLog, rows::coupon_above;
    /// A coupon below progress is missing. Coupons above it may be.
    CouponLostBehind: Behind, CouponMissing, rows::coupon_lost;
    /// A row above progress contradicts the log.
    WrongAboveProgress: Behind, CouponUnderivable, rows::wrong_above_progress;
    /// A coupon below the start of the log is missing.
    LostBelowLog: Trimmed, CouponMissing, rows::coupon_lost;
    /// A coupon below the start of the log has another code.
    CodeBelowLog: Trimmed, CouponCode, rows::code_signed_again;
    /// A user below the start of the log holds more than the limit.
    LimitBelowLog: Trimmed, CouponBeyondLimit, rows::limit_below_log;
    /// A coupon below the start of the log was issued before the window.
    EarlyBelowLog: Trimmed, CouponUnderivable, rows::early_below_log;
    /// One request below the start of the log has two coupons.
    TwiceBelowLog: Trimmed, TwoForOneRequest, rows::twice_below_log;
    /// A quota below the start of the log is lower than the number of issued coupons.
    QuotaBelowLog: Trimmed, CouponBeyondQuota, rows::quota_below_log;
    /// A definition version below the start of the log counts one coupon too many.
    CountBelowLog: Trimmed, VersionMiscounts, rows::version_count_changed;
    /// A hold is missing, and so are the rows of its campaign.
    HoldLost: Held, CouponMissing, log::hold_lost;
    /// A closed hold is missing.
    ClosedHoldLost: HoldClosed, HoldMissing, log::hold_lost;
    /// The number of holds is missing.
    HoldCountLost: HoldClosed, HoldsUncounted, log::hold_count_lost;
    /// A hold is closed, but the rows of its campaign are missing.
    HoldClosedEarly: Held, CouponMissing, log::hold_closed_early;
    /// A hold is closed up to an offset above the end of the log.
    HoldClosedAbove: HoldClosed, HoldImpossible, log::hold_closed_above;
    /// A hold names another partition.
    HoldElsewhere: Held, HoldImpossible, log::hold_elsewhere;
    /// The log begins above the start of a hold.
    HeldStartLost: Held, HeldRecordsLost, log::held_start_lost;
    /// The log lost its tail.
    TailLost: Settled, LogEndsEarly, log::tail_lost;
    /// The log was recreated.
    LogRecreated: Settled, LogEndsEarly, log::recreated;
    /// The log lost records that were not settled.
    StartLost: Behind, LogStartsLate, log::start_lost;
    /// The last settled record was rewritten.
    LastRewritten: Settled, RecordRewritten, log::last_rewritten;
    /// A record in the middle names another user.
    RecordRewritten: Settled, CouponUnderivable, log::record_rewritten;
    /// A record in the middle is missing.
    RecordLost: Settled, CouponMoved, log::record_lost;
    /// A control record in the middle has no MAC.
    ControlForged: Settled, VersionUnderivable, log::control_forged;
    /// Record times were shifted.
    TimesShifted: Settled, CouponWrong, log::times_shifted;
    /// Progress has another log epoch.
    ProgressOfAnother: Settled, ProgressWrong, log::progress_of_another;
    /// Progress does not name the last record below it.
    ProgressNamesOther: Settled, ProgressWrong, log::progress_names_other;
    /// The row of a skip is missing.
    SkipLost: Skipped, CouponMoved, log::skip_lost;
    /// A skip is not in force, but progress has passed its range.
    SkipVoid: Skipped, CouponMoved, log::skip_void;
    /// A coupon is stored inside the range of a skip.
    CouponInSkip: Skipped, CouponSkipped, log::coupon_in_skip;
    /// A client got a final answer to a request that is skipped.
    AnswerInSkip: Skipped, AnswerUndecided, answers::answer_in_skip;
    /// A client got an invalid request id.
    RequestIdInvented: Settled, AnswerUnknownId, answers::request_id_invented;
    /// A client got the request id of another user.
    RequestIdOfAnother: Settled, AnswerForeignId, answers::request_id_of_another;
    /// A client got "issued", but the coupon is missing.
    AnswerCouponLost: Settled, AnswerHoldsNothing, answers::answer_coupon_lost;
    /// A client got the sequence of another coupon.
    AnswerOtherCoupon: Settled, AnswerCoupon, answers::answer_other_coupon;
    /// A client got "sold out", but has a coupon.
    AnswerSoldOut: Settled, AnswerWrong, answers::answer_sold_out;
    /// A client got "issued", but the request was rejected.
    AnswerIssued: Settled, AnswerWrong, answers::answer_issued;
    /// A client got a wrong reason.
    AnswerOtherReason: Settled, AnswerWrong, answers::answer_other_reason;
    /// A client got a wrong code.
    AnswerOtherCode: Settled, AnswerCoupon, answers::answer_other_code;
    /// A client got a wrong code of a coupon below the start of the log.
    AnswerOtherCodeBelowLog: Trimmed, AnswerCoupon, answers::answer_other_code;
    /// A client got two different answers to one request.
    AnswerTwice: Settled, AnswerChanged, answers::answer_twice;
    /// A client got two coupons for one idempotency key.
    AnswerTwoForKey: Settled, AnswerTwoForKey, answers::answer_two_for_key;
    /// A client was told that its request is not in the log.
    AnswerRefused: Settled, AnswerDenied, answers::answer_refused;
    /// The request of an answer is not in the log.
    AnswerRequestLost: Settled, AnswerLost, answers::answer_request_lost;
    /// A client got "pending" for a campaign that does not exist.
    AnswerOfUndefined: Settled, AnswerUndecided, answers::answer_of_undefined;
}

/// Returns a name as words: "coupon row lost" for `CouponRowLost`.
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
