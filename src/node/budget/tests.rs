//! The sum at different limits, and what was set and does not fit.

use super::*;
use crate::config::Mode;

const FILES: Connections = Connections { public: 16_384, admin: 1_100 };

fn within(mib: u64) -> MemoryLimit {
    MemoryLimit { bytes: mib * MIB, of: "memory.max".to_owned() }
}

/// The budget of a node with these settings, of which those in `explicit` were set.
fn budget(config: &Config, explicit: &[&'static str], mib: u64) -> Budget {
    Budget::of(config, &explicit.iter().copied().collect(), FILES, Some(within(mib)))
}

#[test]
fn where_memory_suffices_nothing_shrinks() {
    for limit in [Some(within(1 << 20)), None] {
        let config = Config::default();
        let budget = Budget::of(&config, &Explicit::default(), FILES, limit);
        assert_eq!(budget.connections, FILES);
        assert_eq!((budget.waiters, budget.appends), (10_000, 10_000));
        assert_eq!(budget.limits, Limits::default());
        assert_eq!(budget.service, ServiceBounds::default());
        assert_eq!(budget.database, DatabaseMemory::default());
        assert!(!budget.is_shrunk);
        assert_eq!(budget.warnings, Vec::<String>::new());
    }
}

#[test]
fn defaults_follow_the_memory_limit() {
    let config = Config::default();
    let mut before: Option<Budget> = None;
    for mib in [16_384, 2_048, 1_024, 512, 384, 256] {
        let budget = budget(&config, &[], mib);
        assert!(budget.sum() <= mib * MIB / 4 * 3, "{mib}: {budget}");
        assert_eq!(budget.warnings, Vec::<String>::new(), "{mib}");
        assert!(budget.is_shrunk || mib > 2_048, "{mib}");
        if let Some(before) = before.filter(|_| budget.is_shrunk) {
            assert!(budget.connections.public < before.connections.public, "{mib}");
            assert!(budget.limits.window_records < before.limits.window_records, "{mib}");
            assert!(budget.database.cache_bytes < before.database.cache_bytes, "{mib}");
            assert!(budget.service.listed < before.service.listed, "{mib}");
            // Little is left over: the limit is used.
            assert!(budget.sum() > mib * MIB / 10 * 7, "{mib}: {budget}");
        }
        before = Some(budget);
    }
}

#[test]
fn nothing_shrinks_below_its_floor() {
    let config = Config::default();
    let budget = budget(&config, &[], 1);
    assert_eq!(budget.connections, Connections { public: 256, admin: 64 });
    assert_eq!((budget.waiters, budget.appends), (256, 256));
    assert_eq!(budget.limits.window_records, 4_096);
    assert_eq!(budget.limits.outstanding_records, 1 << 16);
    assert_eq!(budget.service, ServiceBounds { listed: 2_000, decisions: 4_096 });
    let [warning] = &budget.warnings[..] else { panic!("{:?}", budget.warnings) };
    assert!(warning.contains("a node with these partitions needs at least "), "{warning}");
    let needed = warning.split("at least ").nth(1).unwrap().split(' ').next().unwrap();
    let needed: u64 = needed.parse().unwrap();
    assert!(needed <= 256, "{warning}");
    assert_eq!(self::budget(&config, &[], needed).warnings, Vec::<String>::new());
}

#[test]
fn few_open_files_leave_few_waiters() {
    let few = Connections { public: 384, admin: 128 };
    let config = Config::default();
    let of = |explicit: &[&'static str]| {
        Budget::of(&config, &explicit.iter().copied().collect(), few, Some(within(8_192)))
    };
    let budget = of(&[]);
    assert_eq!((budget.connections, budget.waiters, budget.appends), (few, 384, 384));
    assert_eq!(budget.warnings, Vec::<String>::new(), "nobody has asked for more");
    let budget = of(&["api.waiters_max"]);
    assert_eq!((budget.waiters, budget.appends), (10_000, 384), "what was set stays");
    let expected =
        "api.waiters_max is 10000, but each of these needs a connection, and there are 384";
    assert!(budget.warnings[0].starts_with(expected), "{:?}", budget.warnings);
}

#[test]
fn what_was_set_and_does_not_fit_is_named() {
    let mut config = Config::default();
    config.api.waiters_max = 1_000_000;
    let fits = |budget: &Budget, setting: &str| -> Option<usize> {
        let text = budget.warnings.iter().find(|text| text.contains("three quarters"))?;
        let value = text.split(&format!("set {setting} to at most ")).nth(1)?;
        value.split(' ').next()?.parse().ok()
    };
    let set = ["api.waiters_max", "admission.inflight_max"];
    let unfit = budget(&config, &set, 512);
    assert_eq!(unfit.waiters, 1_000_000, "it is done as asked");
    assert_eq!(unfit.connections.public, 256, "the defaults give way");
    let [waiters, appends] = set.map(|setting| fits(&unfit, setting).expect("it is named"));
    assert!((100_000..1_000_000).contains(&waiters), "{waiters}");
    config.api.waiters_max = waiters;
    config.admission.inflight_max = appends;
    let fitting = budget(&config, &set, 512);
    assert_eq!(fits(&fitting, set[0]), None, "{:?}", fitting.warnings);
    assert!(fitting.sum() <= 384 * MIB);
    assert_eq!(budget(&config, &set, 8_192).warnings.len(), 1, "connections only");
}

#[test]
fn a_distributed_node_counts_its_clients() {
    let config = Config { mode: Mode::Distributed, ..Config::default() };
    let budget = budget(&config, &[], 2_048);
    assert!(budget.sum() <= 1_536 * MIB, "{budget}");
    assert_eq!(budget.warnings, Vec::<String>::new());
    let names: Vec<_> = budget.parts.iter().map(|(name, _)| *name).collect();
    assert!(names.contains(&"Kafka clients") && !names.contains(&"database"), "{names:?}");
    let [few, many] = [12, 48].map(|partitions| at_the_floors(&config, partitions).sum());
    let queues = 10 * MIB;
    assert!(many - few > 36 * queues, "{few} {many}");
}

fn at_the_floors(config: &Config, partitions: u32) -> Budget {
    let mut config = config.clone();
    config.kafka.partitions = partitions;
    budget(&config, &[], 512)
}

#[test]
fn the_log_names_the_sum_and_its_largest_parts() {
    let text = budget(&Config::default(), &[], 24 * 1_024).to_string();
    assert!(text.starts_with("memory: at most "), "{text}");
    assert!(text.contains(" MiB by all bounds, of 24576 MiB (memory.max): connections "), "{text}");
    assert!(text.ends_with("; beside 54 bytes for each user of a live campaign"), "{text}");
}
