//! Skips of what cannot be read.

use super::*;
use crate::{
    api::service::{ServiceError, SkipRanges},
    domain::rows::{Skip, SkipState},
    simulation::link::Engine,
};

const HELD: u8 = 0;

/// Between seeing a skip made and putting it in force, in milliseconds.
const FORCED_AFTER_MS: u64 = 15_000;

/// Longest time until a partition goes on once a skip is made, in milliseconds.
const PASSED_WITHIN_MS: u64 = 18_000;

/// Longest time until an owner has seen a skip, in milliseconds.
const SEEN_WITHIN_MS: u64 = 2_000;

impl Stage {
    /// Decides some requests, then makes the next `records` ones unreadable. Returns the first of
    /// their positions.
    async fn spoiled(&mut self, records: u64, lasting: bool) -> Offset {
        self.start().await;
        self.define(HELD, 100);
        (0..3).for_each(|user| self.ask(HELD, user));
        self.passed().await;
        let from = self.engines().brokers.lock().end(0);
        self.engines().brokers.lock().spoil(0, (0, records), lasting);
        (0..records).for_each(|user| self.ask(HELD, 10 + user as u32));
        from
    }

    /// Number of records in a range: offsets have holes.
    fn records(&self, from: Offset, to: Offset) -> usize {
        self.engines().brokers.lock().partitions[0].records.range(from..to).count()
    }

    /// One past the last record of a range.
    fn end_of_records(&self, from: Offset, to: Offset) -> Offset {
        let brokers = self.engines().brokers.lock();
        let last = brokers.partitions[0].records.range(from..to).next_back();
        last.map_or(from, |(offset, _)| offset + 1)
    }

    async fn told(&mut self) -> Offset {
        self.until("told", |stage| stage.story.skippable(0).is_some()).await;
        self.story.skippable(0).map_or(0, |(_, offset)| offset)
    }

    async fn skip(&self, offset: Offset) -> Result<Skip, ServiceError> {
        let service = self.node().core.service.clone();
        service.skip(0, offset, "a disk was lost".to_owned(), "ada").await
    }

    fn skip_by_hand(&self, from: Offset, to: Offset, state: SkipState) {
        let (reason, by) = ("by hand".to_owned(), "ada".to_owned());
        let skip = Skip { partition: 0, from, to, reason, by, state };
        self.engines().rows.store.rows.lock().make_skip(&skip);
    }

    fn skip_state(&self, from: Offset) -> Option<SkipState> {
        let rows = self.engines().rows.store.rows.lock();
        rows.skips.get(&(0, from)).map(|skip| skip.state)
    }

    fn is_halted_as(&self, slug: &str) -> bool {
        self.state(HELD) == "halted" && self.reason(HELD).starts_with(&format!("{slug}: "))
    }
}

#[test]
fn a_skipped_range_is_passed_after_15_s() {
    for lasting in [true, false] {
        play(calm(1, 1), async move |mut stage: Stage| {
            let from = stage.spoiled(4, lasting).await;
            (0..2).for_each(|user| stage.ask(HELD, 20 + user));
            let (lost, to) = (stage.records(from, from + 4), stage.end_of_records(from, from + 4));
            assert_eq!(stage.told().await, from);
            let wrong = stage.skip(from + 1).await;
            assert!(matches!(wrong, Err(ServiceError::NotSkippable { .. })), "{wrong:?}");
            let made = stage.skip(from).await.expect("it is made");
            assert_eq!((made.from, made.to, made.state), (from, to, SkipState::Made));
            stage.until("seen", |stage| stage.is_halted_as("skip_made")).await;
            assert_eq!(stage.skip(from).await, Ok(made.clone()), "it is told again");
            let took = stage.until("forced", |stage| stage.story.is_skipped(0, from)).await;
            assert!(took > FORCED_AFTER_MS - SEEN_WITHIN_MS, "in force after {took} ms");
            let took = stage.until("on", |stage| stage.undecided(HELD) == lost).await;
            assert!(took < SEEN_WITHIN_MS, "{took} ms until it went on");
            stage.passed().await;
            let again = stage.skip(from).await;
            assert_eq!(again, Ok(Skip { state: SkipState::InForce, ..made }));
            assert_eq!(stage.coupons(HELD), 3 + 6 - lost, "those behind it are issued");
            stage.act(Act::CrashConsumer { partition: 0 }).await;
            stage.wait_ms(100).await;
            stage.ask(HELD, 30);
            stage.until("decided", |stage| stage.undecided(HELD) == lost).await;
            stage
        });
    }
}

#[test]
fn the_end_of_a_long_range_is_found_without_pauses() {
    play(calm(1, 1), async |mut stage: Stage| {
        let records = 900;
        let from = stage.spoiled(records, true).await;
        let halted = |stage: &Stage| stage.is_halted_as("unreadable");
        stage.until("halted", halted).await;
        let took = stage.until("told", |stage| stage.story.skippable(0).is_some()).await;
        assert!(took < 10_000, "less than until the next check: {took} ms");
        let made = stage.skip(from).await.expect("it is made");
        assert_eq!((made.from, made.to), (from, from + records));
        stage.until("forced", |stage| stage.story.is_skipped(0, from)).await;
        stage.passed().await;
        stage
    });
}

#[test]
fn a_range_that_heals_after_the_skip_is_passed_all_the_same() {
    play(calm(1, 1), async |mut stage: Stage| {
        let from = stage.spoiled(3, true).await;
        stage.told().await;
        stage.skip(from).await.expect("it is made");
        stage.unspoil();
        stage.ask(HELD, 20);
        stage.until("forced", |stage| stage.story.is_skipped(0, from)).await;
        stage.passed().await;
        let lost = stage.records(from, from + 3);
        assert_eq!((stage.undecided(HELD), stage.coupons(HELD)), (lost, 7 - lost));
        stage
    });
}

#[test]
fn an_opening_goes_by_no_older_skips() {
    play(calm(1, 1), async |mut stage: Stage| {
        let from = stage.spoiled(3, true).await;
        let end = stage.engines().brokers.lock().end(0);
        stage.told().await;
        // The next check of the partition reads its skips, and waits for a log that is away.
        stage.story.world.cut(0, Engine::Log, None);
        stage.wait_ms(11_000).await;
        stage.skip_by_hand(from, end, SkipState::Made);
        stage.until("forced", |stage| stage.story.is_skipped(0, from)).await;
        stage.wait_ms(SEEN_WITHIN_MS).await;
        stage.unspoil();
        stage.story.world.mend(0, Engine::Log, None);
        stage.ask(HELD, 20);
        stage.passed().await;
        let lost = stage.records(from, end);
        assert_eq!((stage.undecided(HELD), stage.coupons(HELD)), (lost, 4), "it is passed");
        stage
    });
}

#[test]
fn a_range_that_has_healed_is_not_skipped() {
    play(calm(1, 1), async |mut stage: Stage| {
        let from = stage.spoiled(3, true).await;
        stage.told().await;
        stage.unspoil();
        stage.answered(HELD).await;
        stage.passed().await;
        let late = stage.skip(from).await;
        assert!(matches!(late, Err(ServiceError::NotSkippable { .. })), "{late:?}");
        stage
    });
}

#[test]
fn what_was_trimmed_undecided_is_skipped_up_to_the_log() {
    play(calm(1, 1), async |mut stage: Stage| {
        let from = stage.spoiled(3, true).await;
        stage.told().await;
        let end = stage.engines().brokers.lock().end(0);
        stage.engines().brokers.lock().trim(0, end);
        stage.unspoil();
        stage.until("trimmed", |stage| stage.is_halted_as("log_trimmed")).await;
        stage.wait_ms(1_500).await;
        let made = stage.skip(from).await.expect("it is made");
        assert_eq!((made.from, made.to), (from, end));
        stage.ask(HELD, 20);
        stage.until("forced", |stage| stage.story.is_skipped(0, from)).await;
        stage.passed().await;
        assert_eq!(stage.coupons(HELD), 4, "what comes behind it is issued");
        stage
    });
}

#[test]
fn a_skip_of_what_is_decided_becomes_void() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 10);
        (0..3).for_each(|user| stage.ask(HELD, user));
        stage.passed().await;
        let end = stage.engines().brokers.lock().end(0);
        stage.skip_by_hand(end - 2, end, SkipState::Made);
        let is_void = |stage: &Stage| stage.skip_state(end - 2) == Some(SkipState::Void);
        let took = stage.until("void", is_void).await;
        assert!(took < SEEN_WITHIN_MS, "{took} ms");
        stage.ask(HELD, 5);
        // It halts until it has read the skip void, so that nobody puts it in force meanwhile.
        assert!(stage.answered(HELD).await <= SEEN_WITHIN_MS, "it goes on");
        stage
    });
}

#[test]
fn an_owner_that_decided_what_is_skipped_halts() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 1);
        stage.ask(HELD, 0);
        // It is rejected, so no row tells of it.
        stage.ask(HELD, 1);
        stage.passed().await;
        let end = stage.engines().brokers.lock().end(0);
        stage.skip_by_hand(end - 1, end, SkipState::InForce);
        stage.until("halted", |stage| stage.is_halted_as("skip_decided")).await;
        stage.wait_ms(30_000).await;
        assert!(stage.is_halted_as("skip_decided"), "no time ends it");
        stage.act(Act::CrashConsumer { partition: 0 }).await;
        stage.wait_ms(1_000).await;
        stage.ask(HELD, 2);
        stage.passed().await;
        stage
    });
}

/// What an owner has in its window, or reads, is not decided either once a skip is made.
#[test]
fn an_owner_below_the_range_decides_nothing_in_it() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 100);
        stage.ask(HELD, 0);
        stage.passed().await;
        let end = stage.engines().brokers.lock().end(0);
        stage.skip_by_hand(end, end + 3, SkipState::Made);
        stage.until("seen", |stage| stage.is_halted_as("skip_made")).await;
        (1..5).for_each(|user| stage.ask(HELD, user));
        let took = stage.until("forced", |stage| stage.story.is_skipped(0, end)).await;
        assert!((FORCED_AFTER_MS - 2_000..PASSED_WITHIN_MS).contains(&took), "{took} ms");
        stage.passed().await;
        let lost = stage.records(end, end + 3);
        assert_eq!((stage.coupons(HELD), stage.undecided(HELD)), (5 - lost, lost));
        stage
    });
}

#[test]
fn a_replay_passes_what_is_skipped() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 100);
        stage.ask(HELD, 0);
        stage.passed().await;
        stage.curse(HELD).await;
        stage.ask(HELD, 1);
        stage.until("on hold", |stage| stage.is_held(HELD)).await;
        stage.passed().await;
        let from = stage.engines().brokers.lock().end(0);
        stage.engines().brokers.lock().spoil(0, (0, 3), true);
        (2..5).for_each(|user| stage.ask(HELD, user));
        stage.told().await;
        stage.skip(from).await.expect("it is made");
        stage.until("forced", |stage| stage.story.is_skipped(0, from)).await;
        stage.passed().await;
        stage.engines().rows.lift_curses();
        stage.release(HELD);
        stage.until("released", |stage| stage.state(HELD) == "live").await;
        let lost = stage.records(from, from + 3);
        stage.until("decided", |stage| stage.coupons(HELD) == 5 - lost).await;
        stage
    });
}
