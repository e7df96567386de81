//! What one campaign may take from others: loads, the window, readers.

use super::*;
use crate::{
    partition::flow::WINDOW_RECORDS_MAX,
    simulation::unreachable::{Whose, Why},
};

const HUNG: u8 = 0;
const OTHER: u8 = 1;

fn hang(stage: &Stage, campaign: u8) {
    let whose = Whose::Campaign(campaign_id(campaign));
    stage.engines().rows.unreachable.set(whose, Why::Hangs);
}

#[test]
fn a_hanging_campaign_blocks_no_other() {
    play(calm(1, 10), async |mut stage: Stage| {
        stage.start().await;
        (0..10).for_each(|id| stage.define(id, 100));
        stage.passed().await;
        hang(&stage, HUNG);
        for user in 0..20 {
            (0..10).for_each(|id| stage.ask(id, user));
            for id in 1..10 {
                assert!(stage.answered(id).await <= ANSWERED_MS);
            }
        }
        assert_eq!(stage.undecided(HUNG), 20);
        // The load of a restarted actor hangs too.
        stage.crash(HUNG).await;
        stage.ask(OTHER, 99);
        assert!(stage.answered(OTHER).await <= ANSWERED_MS);
        stage
    });
}

#[test]
fn unreadable_rows_block_no_other_load() {
    play(calm(2, 41), async |mut stage: Stage| {
        stage.start().await;
        for id in 0..40 {
            let whose = Whose::Campaign(campaign_id(id));
            stage.engines().rows.unreachable.set(whose, Why::Fails);
        }
        (0..41).for_each(|id| stage.define(id, 10));
        stage.wait_ms(5_000).await;
        assert_eq!((stage.undecided(40), stage.undecided(0)), (0, 1));
        stage
    });
}

#[test]
fn a_hanging_campaign_bounds_the_window() {
    play(narrow(1, 4), async |mut stage: Stage| {
        stage.start().await;
        (0..4).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        hang(&stage, HUNG);
        let before = stage.published(0);
        for user in 0..200 {
            (0..4).for_each(|id| stage.ask(id, user));
        }
        stage.wait_ms(5_000).await;
        // Three of four records are of others.
        let published = stage.published(0) - before;
        assert!((44..=60).contains(&published), "{published} while one campaign hangs");
        stage
    });
}

#[test]
fn large_records_use_up_the_window_sooner() {
    play(narrow(1, 2), async |mut stage: Stage| {
        stage.start().await;
        (0..2).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        hang(&stage, HUNG);
        let before = stage.published(0);
        for user in 0..60 {
            stage.ask_at_length(HUNG, user, 2_500);
            stage.ask_at_length(OTHER, user, 2_500);
            stage.wait_ms(50).await;
        }
        // The window holds 64 KiB, or 21 records of 3 KiB, and one more read.
        let read = 2 * (stage.published(0) - before);
        assert!((20..=24).contains(&read), "{read} read");
        stage
    });
}

#[test]
fn the_window_of_production_fills_up() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        (0..2).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        hang(&stage, HUNG);
        stage.ask(HUNG, 0);
        let before = stage.published(0);
        for user in 0..WINDOW_RECORDS_MAX as u32 + 2_000 {
            stage.ask(OTHER, user);
        }
        stage.wait_ms(5_000).await;
        let published = stage.published(0) - before;
        let most = WINDOW_RECORDS_MAX;
        assert!((most - 2_000..=most).contains(&published), "{published} while one hangs");
        stage
    });
}

#[test]
fn undefined_records_are_not_read_twice() {
    play(calm(1, 2), async |mut stage: Stage| {
        let (defined, unknown) = (0, 1);
        stage.start().await;
        stage.define(defined, 10);
        stage.passed().await;
        let opened = stage.engines().brokers.lock().opened;
        for user in 0..200 {
            stage.ask(unknown, user);
            stage.ask_at_length(unknown, user, 50);
        }
        stage.ask(defined, 1);
        stage.passed().await;
        {
            let brokers = stage.engines().brokers.lock();
            assert_eq!((brokers.dead_letters.len(), brokers.opened - opened), (400, 0));
        }
        stage
    });
}

#[test]
fn hanging_replays_leave_readers_free() {
    play(calm(1, 5), async |mut stage: Stage| {
        stage.start().await;
        for id in 0..4 {
            stage.define(id, 10);
            stage.curse(id).await;
            stage.ask(id, 1);
        }
        stage.until("on hold", |stage| (0..4).all(|id| stage.is_held(id))).await;
        stage.engines().rows.lift_curses();
        (0..3).for_each(|id| hang(&stage, id));
        (0..4).for_each(|id| stage.release(id));
        stage.until("released", |stage| stage.state(3) == "live").await;
        stage.ask(4, 1);
        stage.passed().await;
        assert_eq!(stage.engines().brokers.lock().dead_letters.len(), 1);
        stage
    });
}

#[test]
fn a_watermark_that_stands_still_is_told_to_every_node() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.five_decided(HUNG).await;
        assert_eq!(stage.degraded(), Vec::<String>::new());
        hang(&stage, HUNG);
        stage.ask(HUNG, 6);
        stage.wait_ms(13_000).await;
        assert_eq!(stage.degraded(), Vec::<String>::new());
        stage.wait_ms(3_500).await;
        let told = stage.degraded();
        let is_told =
            |text: &String| text.contains("stood still for 1") && text.contains("campaign-0");
        assert!(told.iter().any(is_told), "{told:?}");
        stage.engines().rows.unreachable.end_all();
        stage.passed().await;
        stage.wait_ms(1_500).await;
        assert_eq!(stage.degraded(), Vec::<String>::new());
        stage
    });
}
