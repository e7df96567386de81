//! What can go wrong in a world: every kind by name, and how often each strikes in one seed.

use std::collections::BTreeSet;

use crate::random::Random;

/// How a kind strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strikes {
    /// At an opportunity, so many times out of 10,000 at full intensity.
    Chance(u32),
    /// At random moments, at most so many times in a seed.
    Times(u32),
    /// Once, when everything stands still: what must halt, and nothing else in that seed does.
    Halts,
}

/// In which way of running a kind is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    Both,
    Distributed,
    Embedded,
}

macro_rules! faults {
    ($($kind:ident, $name:literal, $runs:ident, $strikes:expr, $about:literal;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Fault {
            $(#[doc = $about] $kind,)*
        }

        impl Fault {
            /// Every kind.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its name on the command line and in reports.
            #[must_use]
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// What happens, in one line.
            #[must_use]
            pub(crate) fn about(self) -> &'static str {
                match self { $(Self::$kind => $about,)* }
            }

            pub(super) fn strikes(self) -> Strikes {
                use Strikes::{Chance, Halts, Times};
                match self { $(Self::$kind => $strikes,)* }
            }

            pub(super) fn runs(self) -> Runs {
                match self { $(Self::$kind => Runs::$runs,)* }
            }
        }
    };
}

faults! {
    AppendLanded, "append-unknown-landed", Both, Chance(120), "an append times out although it landed";
    AppendLost, "append-unknown-lost", Distributed, Chance(120), "an append times out and never lands";
    AppendDuplicated, "append-duplicated", Distributed, Chance(120), "one append lands twice";
    AppendSlow, "append-slow", Both, Chance(200), "an append takes up to a second";
    LogAway, "log-away", Distributed, Times(2), "the log takes nothing and gives nothing for a while";
    DiskFull, "disk-full", Embedded, Times(2), "below the free-space reserve, appends are refused";
    FsyncFailed, "fsync-failed", Embedded, Times(2), "an fsync fails and ends the process";
    TailLost, "unsynced-tail-lost", Embedded, Times(4), "a power cut takes what was not synced, log and store alike";
    TailTorn, "unsynced-tail-torn", Embedded, Times(4), "a power cut keeps a part of what was not synced";
    CrashBeforeAppend, "crash-before-append", Both, Chance(25), "a node dies before it appends";
    CrashAfterAppend, "crash-after-append", Both, Chance(25), "a node dies before it answers an append";
    CrashBeforeStore, "crash-before-store", Both, Chance(60), "a node dies before it writes coupons";
    CrashAfterStore, "crash-after-store", Both, Chance(60), "a node dies before it hears that coupons are stored";
    CrashBeforeVersion, "crash-before-version", Both, Chance(1000), "a node dies before it writes a version";
    CrashAfterVersion, "crash-after-version", Both, Chance(1000), "a node dies before it hears that a version is stored";
    CrashBeforeHold, "crash-before-hold", Both, Chance(1500), "a node dies before it writes a hold";
    CrashAfterHold, "crash-after-hold", Both, Chance(1500), "a node dies before it hears that a hold is stored";
    CrashBeforeProgress, "crash-before-progress", Both, Chance(100), "a node dies between marks and progress";
    CrashAfterProgress, "crash-after-progress", Both, Chance(100), "a node dies before it hears that progress is stored";
    CrashBeforeCommit, "crash-before-commit", Both, Chance(500), "a node dies before it commits";
    CrashAfterCommit, "crash-after-commit", Both, Chance(500), "a node dies right after it committed";
    CrashBeforePublish, "crash-before-publish", Both, Chance(40), "a node dies before it tells the feed";
    CrashAfterPublish, "crash-after-publish", Both, Chance(40), "a node dies right after it told the feed";
    CrashAnytime, "crash-anytime", Both, Times(4), "a node dies at any moment";
    WriteLost, "write-lost", Distributed, Chance(200), "a store write times out and never lands";
    WriteLate, "write-late", Distributed, Chance(200), "a store write times out and lands late, even after a takeover";
    WritePartial, "write-partial", Distributed, Chance(200), "a part of a batch lands, then the write fails";
    AckLost, "write-ack-lost", Distributed, Chance(200), "a store write lands and its answer is lost";
    StoreSlow, "store-slow", Distributed, Chance(100), "a store operation takes up to two seconds";
    StoreAway, "store-away", Distributed, Times(3), "the store answers nobody for a while";
    ReadFailed, "store-read-failed", Distributed, Chance(150), "a read of the store fails";
    SetBackWhole, "store-set-back", Distributed, Times(1), "between two runs the whole store goes back to an older state";
    ProgressBehind, "progress-behind", Distributed, Chance(300), "durable progress stays behind for seconds";
    CommitLost, "commit-lost", Both, Chance(1000), "a commit is lost";
    CommitReset, "commit-reset", Both, Times(3), "the committed offset is set back to zero";
    Rebalance, "rebalance", Distributed, Times(5), "a partition moves to another node, or away and back";
    TwoOwners, "two-owners", Distributed, Times(4), "two nodes own a partition at once, for seconds";
    NodePaused, "node-paused", Distributed, Times(4), "a node stands still and goes on";
    FeedLost, "feed-lost", Distributed, Chance(400), "a feed message is lost";
    FeedDelayed, "feed-delayed", Both, Chance(200), "a feed message comes late, and later ones after it";
    FeedReordered, "feed-reordered", Distributed, Chance(200), "a feed message is overtaken by later ones";
    FeedDuplicated, "feed-duplicated", Distributed, Chance(200), "a feed message comes twice";
    FeedGap, "feed-gap", Both, Chance(200), "a follower is told of a gap";
    FeedAway, "feed-away", Distributed, Times(3), "a node does not follow the feed for a while";
    PanicDeciding, "panic-deciding", Both, Chance(150), "a coupon actor panics before it decides a batch";
    PanicStoring, "panic-storing", Both, Chance(150), "a coupon actor panics while its rows are being stored";
    PanicReporting, "panic-reporting", Both, Chance(150), "a coupon actor panics before it reports a stored batch";
    PanicLoading, "panic-loading", Both, Chance(800), "a coupon actor panics in recovery";
    PanicReplaying, "panic-replaying", Both, Chance(1500), "a coupon actor panics in the replay of a hold";
    PanicConsumer, "panic-consumer", Both, Chance(8), "a partition consumer panics";
    Poison, "failure-repeated", Both, Times(2), "a campaign fails again and again at one position";
    Released, "hold-released", Both, Times(3), "an operator releases a campaign, held or not";
    ZombieHold, "zombie-hold", Distributed, Times(2), "a node that is no longer the owner puts a campaign on hold";
    ClocksApart, "clocks-apart", Both, Times(1), "the nodes' clocks differ within the margin";
    ClockJumps, "clock-jumps", Both, Times(3), "a node's clock jumps within the margin";
    TimeBackwards, "record-time-backwards", Distributed, Times(3), "record times go backwards for a while";
    TimeAhead, "record-time-ahead", Both, Times(1), "record times are hours ahead for a while";
    OffsetHoles, "offset-holes", Distributed, Chance(300), "offsets have holes";
    LogReadFailed, "log-read-failed", Distributed, Chance(200), "a read of the log fails";
    Malformed, "record-malformed", Distributed, Times(4), "a record that is no JSON, or of another shape";
    ForeignPartition, "record-foreign-partition", Distributed, Times(3), "a request of a campaign of another partition";
    Forged, "record-forged", Distributed, Times(3), "a control record, or a newer one, without a valid MAC";
    Oversized, "record-oversized", Distributed, Times(2), "a record larger than any that is read";
    ForeignProducer, "foreign-producer", Distributed, Times(8), "a valid request without a MAC";
    UndefinedCampaign, "undefined-campaign", Distributed, Times(3), "requests of a campaign before it is defined";
    Overload, "overload", Both, Times(2), "more records wait than are admitted";
    UserFlood, "user-flood", Both, Times(2), "one user asks far too often";
    WaitersFull, "waiters-full", Both, Chance(300), "no waiter is free";
    WaiterDropped, "waiter-dropped", Both, Chance(300), "a waiting client goes away";
    QuotaRaised, "quota-raised", Both, Times(4), "the quota is raised, also after the campaign sold out";
    QuotaReduced, "quota-reduced", Both, Times(4), "the quota is reduced, also below what is issued";
    LimitChanged, "limit-changed", Both, Times(3), "the limit per user changes";
    WindowChanged, "window-changed", Both, Times(3), "an end of the window changes";
    PausedResumed, "paused-resumed", Both, Times(3), "the campaign is paused, and resumed later";
    ClosedForEver, "closed", Both, Times(1), "the campaign is closed";
    AdminsRace, "admins-race", Both, Times(3), "two changes are made from one version";
    RetryWithKey, "retry-with-key", Both, Chance(8000), "a client that got no answer asks again with its key";
    RetryWithoutKey, "retry-without-key", Both, Chance(8000), "a client that got no answer asks again without a key";
    KeyRepeated, "key-repeated", Both, Chance(800), "a key is used again, across crashes";
    AnswerLost, "answer-lost", Both, Chance(200), "an answer is lost on the way to the client";
    AskedLater, "asked-later", Both, Chance(2500), "a request id is asked for again much later";
    AskedElsewhere, "asked-elsewhere", Distributed, Chance(2500), "a request id is asked for at another node";
    StaleEdge, "stale-edge", Distributed, Chance(2000), "a node's reads of campaigns fail, its states grow old";
    TrimmedSettled, "log-trimmed-settled", Both, Times(1), "the log forgets settled records";
    Truncated, "log-truncated", Distributed, Halts, "the log loses records that were settled";
    Trimmed, "log-trimmed", Distributed, Halts, "the log loses records that were not settled, from its start";
    Recreated, "log-recreated", Distributed, Halts, "the log is empty and begins again";
    Rewritten, "log-rewritten", Distributed, Halts, "the last settled record is another one";
    Newer, "record-newer", Distributed, Halts, "a record of a newer version with a valid MAC";
    TimeFarAhead, "record-time-far-ahead", Distributed, Halts, "a record more than a day ahead of the clock";
    RowMissing, "row-missing", Both, Halts, "a coupon row vanishes";
    RowAltered, "row-altered", Both, Halts, "a coupon row is altered";
    RowExtra, "row-extra", Both, Halts, "a coupon row too many";
    VersionAltered, "version-altered", Both, Halts, "a version row is altered";
    SetBackPart, "store-set-back-in-part", Both, Halts, "coupon rows of one campaign go back to an older state";
}

impl Fault {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// The kind of this name.
    #[must_use]
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|fault| fault.name() == name)
    }

    fn is_possible(self, embedded: bool) -> bool {
        match self.runs() {
            Runs::Both => true,
            Runs::Distributed => !embedded,
            Runs::Embedded => embedded,
        }
    }
}

/// The kinds that a run may draw from.
pub(crate) type Kinds = BTreeSet<Fault>;

/// One seed in how many has something happen that must halt.
const HALTS_ONE_IN: u64 = 4;

/// The faults of one seed.
#[derive(Debug)]
pub(super) struct Faults {
    chances: [u32; Fault::COUNT],
    /// Every kind has a chance of its own, so that leaving one out changes nothing for others.
    streams: Vec<Random>,
    /// Kinds that strike at random moments, with how many times.
    pub(super) scheduled: Vec<(Fault, u32)>,
    /// What must halt, if anything.
    pub(super) halting: Option<Fault>,
    pub(super) fired: [u32; Fault::COUNT],
    is_over: bool,
    firings: u32,
    /// Firings that are left out, by number: a failure is made short by them.
    spared: BTreeSet<u32>,
}

impl Faults {
    pub(super) fn draw(
        random: &mut Random,
        embedded: bool,
        kinds: &Kinds,
        spared: BTreeSet<u32>,
    ) -> Self {
        let mut faults = Self {
            chances: [0; Fault::COUNT],
            streams: (0..Fault::COUNT).map(|_| Random::of_world(random.next())).collect(),
            scheduled: Vec::new(),
            halting: None,
            fired: [0; Fault::COUNT],
            is_over: false,
            firings: 0,
            spared,
        };
        let density = random.between(1, 4);
        let mut halting = Vec::new();
        for &fault in Fault::ALL {
            // Drawn for every kind, whether it is possible or not.
            let (included, intensity) = (random.below(6) < density, random.between(1, 4) as u32);
            let times = random.next();
            if !fault.is_possible(embedded) || !kinds.contains(&fault) {
                continue;
            }
            match fault.strikes() {
                Strikes::Chance(chance) if included => {
                    faults.chances[fault as usize] = (chance * intensity / 4).max(1);
                }
                Strikes::Times(most) if included => {
                    faults.scheduled.push((fault, 1 + (times % u64::from(most)) as u32));
                }
                Strikes::Halts => halting.push(fault),
                Strikes::Chance(_) | Strikes::Times(_) => {}
            }
        }
        let halts = random.one_in(HALTS_ONE_IN);
        let which = random.next();
        if halts && !halting.is_empty() {
            faults.halting = Some(halting[(which % halting.len() as u64) as usize]);
        }
        faults
    }

    /// Whether `fault` strikes at this opportunity.
    pub(super) fn hit(&mut self, fault: Fault) -> bool {
        let chance = self.chances[fault as usize];
        if chance == 0 || self.is_over {
            return false;
        }
        if self.streams[fault as usize].below(10_000) >= u64::from(chance) {
            return false;
        }
        self.strike(fault)
    }

    /// Counts a fault that strikes now; false when it is one to be spared.
    pub(super) fn strike(&mut self, fault: Fault) -> bool {
        self.firings += 1;
        if self.spared.contains(&self.firings) {
            return false;
        }
        self.fired[fault as usize] += 1;
        true
    }

    /// From now on nothing goes wrong.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn firings(&self) -> u32 {
        self.firings
    }
}
