//! The kinds of faults: what each needs, how long it lasts, and within which time all campaigns decide
//! again.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

/// From when recovery is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// From the fault: others take over while it lasts.
    Strike,
    /// From its end: nothing can be decided before.
    Mend,
}

/// What a kind needs of the place where it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A node.
    Node,
    /// An embedded node, with a data folder on a small disk of its own. The disk needs root.
    SmallDisk,
    /// Several nodes.
    Nodes,
    /// Nodes on engines.
    Engines,
    /// Nodes on three brokers and three database nodes.
    ThreeEngines,
    /// Nodes on engines in a network namespace of their own. It needs root and nftables.
    Network,
    /// The same, with three brokers.
    ThreeBrokersAndNetwork,
    /// The library libfaketime.
    FakeTime,
}

macro_rules! kinds {
    ($($kind:ident: $name:literal, $needs:ident, lasts $lasts:expr, $within:literal s after the $since:ident,
        $about:literal;)+) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub(crate) enum Kind {
            $(#[doc = $about] #[serde(rename = $name)] $kind,)+
        }

        impl Kind {
            /// All kinds.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind),+];

            fn row(self) -> Row {
                match self {
                    $(Self::$kind => Row {
                        name: $name,
                        about: $about,
                        needs: Needs::$needs,
                        lasts_ms: $lasts,
                        within_ms: ($within * 1_000.0) as u64,
                        since: Since::$since,
                    },)+
                }
            }
        }
    };
}

struct Row {
    name: &'static str,
    about: &'static str,
    needs: Needs,
    lasts_ms: RangeInclusive<u64>,
    within_ms: u64,
    since: Since,
}

// The bounds are those of README's chapter on recovery, where it has one, which says what each is made of.
kinds! {
    Kill: "kill", Node, lasts 1_000..=6_000, 12.0 s after the Strike,
        "a node is killed (SIGKILL), and started again";
    Pause: "pause", Node, lasts 9_000..=15_000, 12.0 s after the Strike,
        "a node is stopped (SIGSTOP), and goes on later as if it had never been away";
    Terminate: "terminate", Node, lasts 500..=3_000, 12.0 s after the Strike,
        "a node is asked to end (SIGTERM), and started again";
    RollingRestart: "rolling-restart", Nodes, lasts 0..=0, 12.0 s after the Mend,
        "all nodes are restarted, one after the other";
    ActorPanic: "actor-panic", Node, lasts 0..=0, 1.0 s after the Strike,
        "the coupon actors of all campaigns panic";
    ConsumerPanic: "consumer-panic", Node, lasts 0..=0, 12.0 s after the Strike,
        "the consumers of all partitions panic";
    SupervisorPanic: "supervisor-panic", Node, lasts 1_000..=3_000, 12.0 s after the Strike,
        "the supervisor of a node panics, with which the node ends";
    RebalanceStorm: "rebalance-storm", Nodes, lasts 0..=0, 12.0 s after the Mend,
        "one more node comes and goes, five times in a row";
    KafkaKilled: "kafka-killed", Engines, lasts 500..=6_000, 30.0 s after the Mend,
        "a broker is killed, and started again";
    KafkaPaused: "kafka-paused", Engines, lasts 3_000..=15_000, 30.0 s after the Mend,
        "a broker hangs";
    KafkaRestarted: "kafka-restarted", Engines, lasts 500..=3_000, 30.0 s after the Mend,
        "a broker is shut down in order, and started again";
    DatabaseKilled: "database-killed", Engines, lasts 500..=6_000, 30.0 s after the Mend,
        "a database node is killed, and started again";
    DatabasePaused: "database-paused", Engines, lasts 3_000..=15_000, 30.0 s after the Mend,
        "a database node hangs";
    DatabaseRestarted: "database-restarted", Engines, lasts 500..=3_000, 30.0 s after the Mend,
        "a database node is shut down in order, and started again";
    NoQuorum: "no-quorum", ThreeEngines, lasts 3_000..=12_000, 30.0 s after the Mend,
        "two of three database nodes hang: ranges without a quorum";
    KafkaAway: "kafka-away", Engines, lasts 30_000..=30_000, 60.0 s after the Mend,
        "all brokers hang for half a minute";
    DatabaseAway: "database-away", Engines, lasts 60_000..=60_000, 60.0 s after the Mend,
        "the whole database hangs for a minute, in which campaigns go on hold";
    CutFromKafka: "cut-from-kafka", Network, lasts 26_000..=30_000, 25.0 s after the Strike,
        "a node is cut off from all brokers";
    CutFromDatabase: "cut-from-database", Network, lasts 26_000..=30_000, 25.0 s after the Strike,
        "a node is cut off from the database alone";
    CutFromBoth: "cut-from-both", Network, lasts 26_000..=30_000, 25.0 s after the Strike,
        "a node is cut off from everything";
    CutFromBroker: "cut-from-broker", ThreeBrokersAndNetwork, lasts 26_000..=30_000,
        25.0 s after the Strike, "a node is cut off from one broker";
    SlowLink: "slow-link", Network, lasts 3_000..=10_000, 12.0 s after the Mend,
        "what a node sends to the engines beyond 30 kB/s is dropped";
    LossyLink: "lossy-link", Network, lasts 3_000..=10_000, 12.0 s after the Mend,
        "one packet in six that a node sends to the engines is dropped";
    DescriptorsExhausted: "descriptors-exhausted", Node, lasts 3_000..=8_000, 12.0 s after the Mend,
        "a node may open no further file or connection";
    MemoryExhausted: "memory-exhausted", Node, lasts 3_000..=8_000, 12.0 s after the Mend,
        "a node gets no further memory; where it ends of it, it is started again";
    BurstAtTakeover: "burst-at-takeover", Nodes, lasts 1_000..=4_000, 12.0 s after the Strike,
        "a node is killed while two thousand requests arrive at once";
    TopicChanged: "topic-changed", Engines, lasts 2_000..=6_000, 12.0 s after the Mend,
        "the request topic gets another compression type, which is taken back later";
    RowRemoved: "row-removed", Engines, lasts 0..=0, 12.0 s after the Mend,
        "a coupon row vanishes and an actor restarts: the campaign must stop, and not lie";
    RowAltered: "row-altered", Engines, lasts 0..=0, 12.0 s after the Mend,
        "a coupon row names another user and an actor restarts: the campaign must stop, and not lie";
    ClockStep: "clock-step", FakeTime, lasts 3_000..=12_000, 25.0 s after the Mend,
        "the wall clock of a node is set an hour ahead, and back later";
    Suspend: "suspend", Node, lasts 3_000..=12_000, 30.0 s after the Mend,
        "the whole machine is suspended: all nodes and engines stop, and go on later";
    DiskFull: "disk-full", SmallDisk, lasts 2_000..=6_000, 12.0 s after the Mend,
        "the disk of a node is full; where it ends of it, it is started again";
}

impl Kind {
    /// Returns the name, in `kebab-case`.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns what happens, in a sentence without its end.
    pub(crate) fn about(self) -> &'static str {
        self.row().about
    }

    /// Returns what it needs.
    pub(crate) fn needs(self) -> Needs {
        self.row().needs
    }

    /// Returns how long it lasts, in milliseconds. It ends when everything is decided again, if that
    /// takes longer.
    pub(crate) fn lasts_ms(self) -> RangeInclusive<u64> {
        self.row().lasts_ms
    }

    /// Returns the time in which all campaigns decide again, in milliseconds, and from when on.
    pub(crate) fn bound(self) -> (u64, Since) {
        let row = self.row();
        (row.within_ms, row.since)
    }

    /// Returns whether another node takes over what the node had. After it, other faults strike soon.
    pub(crate) fn moves_partitions(self) -> bool {
        matches!(self, Self::Kill | Self::Pause | Self::Terminate | Self::SupervisorPanic)
    }

    /// Returns whether it drops packets.
    pub(crate) fn is_of_links(self) -> bool {
        matches!(self.needs(), Needs::Network | Needs::ThreeBrokersAndNetwork)
    }

    /// Returns the kind of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What there is where faults strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// One node, with log and store in its folder.
    pub(crate) is_embedded: bool,
    /// Brokers, and database nodes.
    pub(crate) engines: u32,
    /// coupond nodes.
    pub(crate) nodes: usize,
    /// Links can be cut.
    pub(crate) has_network: bool,
    /// A small disk can be mounted.
    pub(crate) has_small_disk: bool,
    /// The wall clock of a process can be set.
    pub(crate) has_fake_time: bool,
}

impl Place {
    /// Returns why faults of this kind cannot strike here, if they cannot.
    pub(crate) fn lacks(&self, kind: Kind) -> Option<&'static str> {
        let has_engines = !self.is_embedded;
        let checks: &[(bool, &'static str)] = match kind.needs() {
            Needs::Node => &[],
            Needs::SmallDisk => &[
                (self.is_embedded, "only an embedded node has its data on a disk of its own"),
                (self.has_small_disk, "a small disk cannot be mounted: not root"),
            ],
            Needs::Nodes => &[(self.nodes > 1, "there is one node only")],
            Needs::Engines => &[(has_engines, "an embedded node has no engines")],
            Needs::ThreeEngines => {
                &[(has_engines && self.engines >= 3, "there is one database node only")]
            }
            Needs::Network => &[
                (has_engines, "an embedded node has no links"),
                (self.has_network, "links cannot be cut: not root, or no nftables"),
            ],
            Needs::ThreeBrokersAndNetwork => &[
                (has_engines && self.engines >= 3, "there is one broker only"),
                (self.has_network, "links cannot be cut: not root, or no nftables"),
            ],
            Needs::FakeTime => &[(self.has_fake_time, "libfaketime is not installed")],
        };
        checks.iter().find(|(holds, _)| !holds).map(|(_, reason)| *reason)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EVERYTHING: Place = Place {
        is_embedded: false,
        engines: 3,
        nodes: 3,
        has_network: true,
        has_small_disk: true,
        has_fake_time: true,
    };

    fn possible(place: Place) -> Vec<Kind> {
        Kind::ALL.iter().copied().filter(|kind| place.lacks(*kind).is_none()).collect()
    }

    #[test]
    fn names_are_unique_and_read_back() {
        let names: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.name()), Some(*kind));
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("{:?}", kind.name()));
        }
        assert_eq!(Kind::parse("flood"), None);
    }

    #[test]
    fn all_but_the_full_disk_strike_on_three_engines() {
        let missing: Vec<_> =
            Kind::ALL.iter().filter(|kind| !possible(EVERYTHING).contains(kind)).collect();
        assert_eq!(missing, [&Kind::DiskFull]);
        assert!(possible(EVERYTHING).len() >= 20);
    }

    #[test]
    fn what_a_place_lacks_is_said() {
        let alone = Place { is_embedded: true, engines: 0, nodes: 1, ..EVERYTHING };
        assert!(possible(alone).contains(&Kind::DiskFull));
        for kind in [Kind::KafkaKilled, Kind::CutFromDatabase, Kind::RollingRestart, Kind::NoQuorum]
        {
            assert!(alone.lacks(kind).is_some(), "{kind}");
        }
        let user = Place { has_network: false, has_fake_time: false, engines: 1, ..EVERYTHING };
        assert_eq!(user.lacks(Kind::CutFromBroker), Some("there is one broker only"));
        assert!(user.lacks(Kind::SlowLink).unwrap().contains("not root"));
        assert_eq!(user.lacks(Kind::ClockStep), Some("libfaketime is not installed"));
        assert_eq!(user.lacks(Kind::Kill), None);
    }
}
