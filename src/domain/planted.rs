//! Bugs that are planted on purpose, one at a time, to test that the simulation finds them. They
//! are compiled only with the feature `planted-bugs`.

/// Returns whether this bug is planted on this thread. Without the feature, `false`.
#[cfg(not(feature = "planted-bugs"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// Returns whether this bug is planted on this thread.
#[cfg(feature = "planted-bugs")]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::domain::planted::is($crate::domain::planted::Bug::$bug)
    };
}

#[cfg(feature = "planted-bugs")]
macro_rules! bugs {
    ($($bug:ident, $about:literal;)*) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $about] $bug,)*
        }

        impl Bug {
            /// Every bug.
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// Describes the bug in one line.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$bug => $about,)* }
            }
        }
    };
}

#[cfg(feature = "planted-bugs")]
bugs! {
    OneSeatTooMany, "sold out is noticed one coupon late";
    OneCouponTooMany, "a user may hold one coupon more than the limit";
    KeyIgnored, "an idempotency key is ignored";
    PauseIgnored, "a paused campaign issues";
    ReasonsSwapped, "paused is reported before closed";
    StaleChangeAccepted, "a change made from an old version is accepted";
    QuotaBelowIssued, "a quota below what is issued is accepted";
    ResumedAfterClose, "a closed campaign can be changed";
    ClosesLate, "the window is inclusive at its end";
    OpensLate, "the window is exclusive at its start";
    CodeRepeats, "the code of a user's second coupon is that of the first";
    KeyForgotten, "idempotency keys are not recovered after a restart";
    AlteredRowTaken, "the digest of a coupon row is not checked";
    AlteredVersionTaken, "the digest of a version row is not checked";
    MarkNotCompared, "coupons missing below the mark go unnoticed";
    VersionLostOnRestart, "versions above the last coupon are not recovered";
    StartTakesTooMuch, "a row at the start is taken as state and not as an expectation";
    WatermarkPassesUnstored, "the watermark passes a record that is not stored";
    DoneWhenRead, "a record counts as settled when it is read";
    LateReportTaken, "reports of an earlier incarnation are taken";
    MarkNotWritten, "progress passes coupons without their mark";
    UndefinedForgotten, "the record of an undefined campaign is not kept as a dead letter";
    HoldNotExtended, "a closed hold is not extended";
    HoldTooHigh, "a hold does not reach down to what was kept";
    CatchUpFromLive, "a released campaign goes on from the live position";
    ReplaySkipsOne, "a replay leaves the first record of each chunk out";
    ReplayEndsEarly, "a hold is closed after the first chunk";
    VersionNotAwaited, "rows are stored before a version below them";
    ReportBeforeStored, "a batch is reported before its rows are stored";
    RewrittenTailTaken, "the last settled record is not compared";
    MissingRowAboveProgress, "a missing row above progress is taken as an answer";
    HoldNotRead, "readers ignore holds";
    LatestVersionAnswers, "a position is answered by the latest version";
    LaterCouponsCount, "coupons above a position count in its answer";
    KeyUnansweredFromRows, "rows answer a repeated key as already issued";
    EdgeRefusesKeyed, "the edge refuses a request with a key";
    EdgeStateTooOld, "the edge refuses by a state that is too old";
    MarginIgnored, "the edge trusts its clock at the ends of the window";
    ViewAhead, "a view claims a position above its figures";
    OldVersionAnswers, "the version at a position is taken from a read that is too old";
    KeyNotEncoded, "the record loses its idempotency key";
    ForgedTaken, "a control record without a MAC is taken";
    ForeignPartitionTaken, "a record on another partition is decided";
    NewerSkipped, "a newer record is a dead letter instead of a halt";
    FutureTaken, "a record from the far future is taken";
    RequestIdLosesKey, "a request id forgets its idempotency key";
    RequestIdLosesTime, "a request id forgets its record time";
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Returns whether `bug` is planted on this thread.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
