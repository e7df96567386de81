//! A log that cannot be read at some positions, and dead letters that cannot be written.

use super::*;
use crate::simulation::link::{Call, Fate};

const HELD: u8 = 0;
const OTHER: u8 = 1;

/// Longest time until a halted partition is looked at again, in milliseconds, with what it takes.
const CHECKED_AGAIN_MS: u64 = 12_000;

impl Stage {
    /// Makes so many records below the end unreadable, and all that come.
    fn spoil(&self, back: u64, lasting: bool) {
        self.engines().brokers.lock().spoil(0, (back, u64::from(u32::MAX)), lasting);
    }

    pub(super) fn unspoil(&self) {
        self.engines().brokers.lock().unspoil(0);
    }

    fn is_halted(&self) -> bool {
        self.state(HELD) == "halted" && self.reason(HELD).starts_with("unreadable: ")
    }
}

#[test]
fn an_unknown_codec_halts_at_once_until_it_is_read() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 10);
        stage.passed().await;
        (0..3).for_each(|user| stage.ask(HELD, user));
        stage.spoil(1, true);
        let took = stage.until("halted", Stage::is_halted).await;
        assert!(took < 1_000, "halted after {took} ms");
        assert_eq!(stage.undecided(HELD), 1, "what is below is decided");
        stage.ask(HELD, 3);
        for _ in 0..400 {
            stage.wait_ms(100).await;
            assert!(stage.is_halted(), "it goes on only once it can read on");
        }
        stage.unspoil();
        assert!(stage.answered(HELD).await <= CHECKED_AGAIN_MS);
        assert_eq!(stage.state(HELD), "live");
        stage
    });
}

#[test]
fn reads_that_fail_for_10_s_halt() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 10);
        stage.passed().await;
        stage.spoil(0, false);
        stage.ask(HELD, 0);
        stage.wait_ms(9_000).await;
        assert_eq!(stage.state(HELD), "live", "it may pass");
        let took = stage.until("halted", Stage::is_halted).await;
        assert!(took < 2_000, "halted {took} ms later");
        for _ in 0..400 {
            stage.wait_ms(100).await;
            assert!(stage.is_halted());
        }
        stage.unspoil();
        assert!(stage.answered(HELD).await <= CHECKED_AGAIN_MS);
        stage
    });
}

#[test]
fn what_is_settled_and_unreadable_counts_as_trimmed() {
    for lasting in [true, false] {
        play(calm(1, 2), async move |mut stage: Stage| {
            stage.start().await;
            stage.define(OTHER, 10);
            stage.curse(HELD).await;
            stage.define(HELD, 10);
            stage.ask(HELD, 1);
            stage.until("on hold", |stage| stage.is_held(HELD)).await;
            stage.ask(OTHER, 1);
            stage.passed().await;
            stage.engines().rows.lift_curses();
            let all = stage.engines().brokers.lock().end(0);
            stage.engines().brokers.lock().spoil(0, (all, all), lasting);
            stage.release(HELD);
            let is_trimmed = |stage: &Stage| stage.reason(HELD).starts_with("records_trimmed: ");
            stage.until("on hold again", is_trimmed).await;
            stage.ask(OTHER, 2);
            assert!(stage.answered(OTHER).await <= ANSWERED_MS, "one campaign is not another");
            stage.unspoil();
            stage.release(HELD);
            stage.until("released", |stage| stage.state(HELD) == "live").await;
            stage
        });
    }
}

#[test]
fn an_unreadable_last_record_is_not_compared() {
    for (lasting, within_ms) in [(true, 1_000), (false, CHECKED_AGAIN_MS)] {
        play(calm(1, 1), async move |mut stage: Stage| {
            stage.start().await;
            stage.define(HELD, 10);
            stage.ask(HELD, 1);
            stage.passed().await;
            let end = stage.engines().brokers.lock().end(0);
            stage.engines().brokers.lock().spoil(0, (end, end), lasting);
            stage.act(Act::CrashConsumer { partition: 0 }).await;
            stage.wait_ms(100).await;
            stage.ask(HELD, 2);
            let took = stage.answered(HELD).await;
            assert!(took <= within_ms, "answered after {took} ms");
            stage
        });
    }
}

#[test]
fn only_the_watermark_waits_for_a_dead_letter() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 100);
        stage.passed().await;
        for _ in 0..8 {
            stage.act(Act::Strike { call: Call::DeadLetter, fate: Fate::Lost, node: None }).await;
        }
        let user = UserId::parse("eve").expect("a valid id");
        let (engines, world) = (stage.engines().clone(), stage.story.world.clone());
        strange::append(&engines, &world, Foreign::Oversized, &campaign_id(HELD), &user);
        // What comes behind it is read by another read.
        stage.wait_ms(100).await;
        for user in 0..20 {
            stage.ask(HELD, user);
        }
        let decided = stage.until("decided", |stage| stage.undecided(HELD) == 1).await;
        assert!(decided <= ANSWERED_MS, "{decided} ms");
        assert!(!stage.is_passed(), "the watermark waits");
        stage.passed().await;
        stage
    });
}

/// A letter that costs more than the whole window must not stop its partition.
#[test]
fn a_large_dead_letter_is_paid_for_in_a_small_window() {
    let mut setup = narrow(1, 1);
    (setup.limits.window_records, setup.limits.batch_records) = (4, 1);
    setup.limits.progress_records = 1;
    play(setup, async |mut stage: Stage| {
        stage.start().await;
        stage.define(HELD, 100);
        let user = UserId::parse("eve").expect("a valid id");
        let (engines, world) = (stage.engines().clone(), stage.story.world.clone());
        for number in 0..10 {
            strange::append(&engines, &world, Foreign::Oversized, &campaign_id(HELD), &user);
            stage.ask(HELD, number);
        }
        stage.passed().await;
        stage
    });
}
