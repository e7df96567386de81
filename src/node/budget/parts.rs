//! The bounds of a node's memory: how many units each allows, and what a unit costs.
//!
//! Each cost is computed from the constants that the code enforces. Those that were measured instead say
//! so; `load/bounds` compares their sum with the peak.

use super::{super::descriptors::Connections, BLOCKING_THREADS_MAX, MIB};
use crate::{
    actors::LOADS_MAX,
    answer::follower::{HEARD_BYTES, MEASURED_MAX, RECENT_DECISIONS_MAX, WAITER_BYTES},
    api::{
        http::{ANSWERS_BYTES_MAX, CONNECTION_BYTES},
        service::{LIST_MAX, LISTED_BYTES, RATES_BYTES, SNAPSHOTS_BYTES},
    },
    config::{Config, Explicit, Identity, Mode},
    embedded::{DatabaseMemory, MEMTABLES, QUEUED_ROWS_BYTES},
    feed::{self, FOLLOWER_BYTES},
    identity::{KEYS_BYTES, TOKENS_BYTES},
    log::kafka as kafka_log,
    partition::{
        acks::OUTSTANDING_BYTES,
        flow::{BATCH_RECORDS_MAX, BATCHES_MAX, OUTSTANDING_MAX, WINDOW_RECORDS_MAX},
        window::CREDIT_BYTES,
    },
    store,
};

/// A node that has just started, with its runtime, code and metrics. Measured: 21 to 25 MiB.
const PROCESS_BYTES: u64 = 32 * MIB;

/// What a blocking thread keeps: its stack, and the allocator's pages of its own. Measured: 150 KiB.
const THREAD_BYTES: u64 = MIB / 4;

/// An append in flight: its record and its reply, twice while it is packed or sent. A record of this node
/// has at most 1.3 KiB: a campaign's id twice, and user id and key with every character escaped.
const APPEND_BYTES: u64 = 4 * 1_024;

/// A decision that is remembered, with its place in the map and in the order.
const DECISION_BYTES: usize = 192;

/// A request whose latency is measured: its place in a map.
const MEASURED_BYTES: usize = 96;

/// Each listener counts its large answers by itself.
const LISTENERS: usize = 2;

/// A bound that scales with the memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    Connections,
    AdminConnections,
    Waiters,
    Appends,
    Decisions,
    Listed,
    Answers,
    Window,
    Outstanding,
    Tails,
    Cache,
    Memtables,
}

/// How many units a bound allows, and what they cost.
#[derive(Debug, Clone)]
pub(super) struct Scaled {
    pub(super) bound: Bound,
    /// The part of the sum to which the bound belongs.
    pub(super) part: &'static str,
    /// Units that are allowed where memory suffices.
    pub(super) full: u64,
    /// Units that are allowed however little memory there is.
    pub(super) floor: u64,
    /// Bytes of a unit, in all places that the bound allows.
    pub(super) each: u64,
    /// The setting that was set explicitly to `full`, which therefore stays.
    pub(super) setting: Option<&'static str>,
}

impl Scaled {
    /// Returns the fewest units.
    pub(super) fn least(&self) -> u64 {
        if self.setting.is_some() { self.full } else { self.floor.min(self.full) }
    }
}

/// Returns the parts that do not scale, with their bytes.
pub(super) fn fixed(config: &Config) -> Vec<(&'static str, u64)> {
    let caches = [
        SNAPSHOTS_BYTES,
        RATES_BYTES,
        MEASURED_MAX * MEASURED_BYTES,
        // Decisions on their way to the follower of the feed.
        FOLLOWER_BYTES,
        HEARD_BYTES,
    ];
    let tokens = match config.api.identity {
        Identity::Jwt => TOKENS_BYTES + KEYS_BYTES,
        Identity::Trusted | Identity::Header(_) => 0,
    };
    let of_mode = match config.mode {
        Mode::Embedded => vec![
            ("loads", (LOADS_MAX * store::embedded::LOAD_BYTES) as u64),
            ("queued rows", QUEUED_ROWS_BYTES as u64),
        ],
        Mode::Distributed => vec![
            ("loads", (LOADS_MAX * store::cql::SCAN_BYTES_MAX) as u64),
            ("Kafka clients", (kafka_log::CLIENTS_BYTES + feed::kafka::CLIENTS_BYTES) as u64),
            (
                "Kafka readers",
                kafka_log::PARTITION_BYTES as u64 * u64::from(config.kafka.partitions),
            ),
        ],
    };
    let always = [
        ("process", PROCESS_BYTES),
        ("blocking threads", BLOCKING_THREADS_MAX as u64 * THREAD_BYTES),
        ("caches", (caches.iter().sum::<usize>() + tokens) as u64),
    ];
    always.into_iter().chain(of_mode).collect()
}

/// Returns the bounds that scale.
pub(super) fn scaled(config: &Config, explicit: &Explicit, of: Connections) -> Vec<Scaled> {
    let set = |key: &'static str| explicit.has(key).then_some(key);
    let row = |bound, part, full: usize, floor: usize, each: usize| Scaled {
        bound,
        part,
        full: full as u64,
        floor: floor as u64,
        each: each as u64,
        setting: None,
    };
    // Each waits on a connection, so that more are of no use, unless somebody has asked for them.
    let of_requests = |key, asked: usize, row: Scaled| match set(key) {
        Some(setting) => Scaled { full: asked as u64, setting: Some(setting), ..row },
        None => Scaled { full: asked.min(of.public) as u64, ..row },
    };
    let waiters = config.api.waiters_max;
    let appends = config.admission.inflight_max;
    let appended = row(Bound::Appends, "appends", appends, 256, APPEND_BYTES as usize);
    let waiting = row(Bound::Waiters, "waiters", waiters, 256, WAITER_BYTES);
    let of_mode = match config.mode {
        Mode::Embedded => {
            let full = DatabaseMemory::default();
            let (cache, memtable) = (full.cache_bytes as usize, full.memtable_bytes as usize);
            let partitions = config.embedded.partitions as usize;
            vec![
                row(Bound::Tails, "partitions", full.recent_bytes, 1 << 20, partitions),
                row(Bound::Cache, "database", cache, 8 << 20, 1),
                row(Bound::Memtables, "database", memtable, 4 << 20, MEMTABLES),
            ]
        }
        Mode::Distributed => Vec::new(),
    };
    let partitions = match config.mode {
        Mode::Embedded => config.embedded.partitions,
        Mode::Distributed => config.kafka.partitions,
    } as usize;
    let window_floor = BATCH_RECORDS_MAX * BATCHES_MAX;
    [
        row(Bound::Connections, "connections", of.public, 256, CONNECTION_BYTES),
        row(Bound::AdminConnections, "connections", of.admin, 64, CONNECTION_BYTES),
        of_requests("api.waiters_max", waiters, waiting),
        of_requests("admission.inflight_max", appends, appended),
        row(Bound::Decisions, "decisions", RECENT_DECISIONS_MAX, 4_096, DECISION_BYTES),
        row(Bound::Listed, "list of campaigns", LIST_MAX, 2_000, LISTED_BYTES),
        row(Bound::Answers, "large answers", ANSWERS_BYTES_MAX, 2 << 20, LISTENERS),
        row(
            Bound::Window,
            "partitions",
            WINDOW_RECORDS_MAX,
            window_floor,
            partitions * CREDIT_BYTES,
        ),
        row(
            Bound::Outstanding,
            "partitions",
            OUTSTANDING_MAX,
            1 << 16,
            partitions * OUTSTANDING_BYTES,
        ),
    ]
    .into_iter()
    .chain(of_mode)
    .collect()
}
