//! What one campaign may take from others: loads, the window, readers.

use super::*;
use crate::{
    partition::flow::{POINT_LOOKUPS_MAX, WINDOW_RECORDS_MAX},
    simulation::unreachable::{Whose, Why},
};

const HUNG: u8 = 0;
const OTHER: u8 = 1;

fn hang(stage: &Stage, campaign: u8) {
    let whose = Whose::Campaign(campaign_id(campaign));
    stage.engines().rows.unreachable.set(whose, Why::Hangs);
}

fn reach(stage: &Stage, campaign: u8) {
    stage.engines().rows.unreachable.end(&Whose::Campaign(campaign_id(campaign)));
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
fn a_hanging_campaign_has_its_share_of_the_window() {
    let mut setup = narrow(1, 4);
    setup.limits.batch_records = 4;
    play(setup, async |mut stage: Stage| {
        stage.start().await;
        (0..4).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        hang(&stage, HUNG);
        for user in 0..100 {
            (0..4).for_each(|id| stage.ask(id, user));
        }
        stage.wait_ms(5_000).await;
        for id in 0..4 {
            let undecided = if id == HUNG { 100 } else { 0 };
            assert_eq!(stage.undecided(id), undecided, "of campaign {id}");
        }
        reach(&stage, HUNG);
        assert!(stage.answered(HUNG).await <= 2_000, "what was set aside is read again");
        stage
    });
}

#[test]
fn a_hanging_load_lets_its_neighbour_decide() {
    play(narrow(1, 2), async |mut stage: Stage| {
        stage.start().await;
        (0..2).for_each(|id| stage.define(id, 500));
        stage.passed().await;
        hang(&stage, HUNG);
        stage.crash(HUNG).await;
        for user in 0..200 {
            stage.ask(HUNG, user);
            stage.ask(OTHER, user);
        }
        assert!(stage.answered(OTHER).await <= 500);
        assert_eq!((stage.undecided(HUNG), stage.state(HUNG)), (200, "recovering"));
        reach(&stage, HUNG);
        assert!(stage.answered(HUNG).await <= 2_000, "what was set aside is read again");
        stage.passed().await;
        stage
    });
}

#[test]
fn one_stuck_record_costs_others_nothing() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        (0..2).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        hang(&stage, HUNG);
        stage.ask(HUNG, 0);
        // What is stored above the watermark costs no credit, so more than a window is decided.
        for user in 0..WINDOW_RECORDS_MAX as u32 + 2_000 {
            stage.ask(OTHER, user);
        }
        assert!(stage.answered(OTHER).await <= 5_000);
        stage
    });
}

/// Appends a request of a campaign that was never defined.
fn ask_undefined(stage: &Stage, number: u32) {
    let id = CampaignId::parse(&format!("nobody-{number}")).expect("a valid id");
    let (kind, user) = (Foreign::Undefined, UserId::parse("user-1").expect("a valid id"));
    strange::append(stage.engines(), &stage.story.world, kind, &id, &user);
}

#[test]
fn undefined_campaigns_stop_nobody() {
    const UNDEFINED: u32 = 5_000;
    play(calm(1, 3), async |mut stage: Stage| {
        stage.start().await;
        (0..2).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        let loads = stage.engines().rows.counters.loads();
        (0..UNDEFINED).for_each(|number| ask_undefined(&stage, number));
        stage.ask(0, 1);
        stage.define(2, 10);
        stage.ask(2, 1);
        assert!(stage.answered(0).await <= 200);
        assert!(stage.answered(2).await <= 200);
        let dead = stage.engines().brokers.lock().dead_letters.len();
        assert!(dead < UNDEFINED as usize, "it waits for no dead letter");
        stage.passed().await;
        assert_eq!(stage.engines().brokers.lock().dead_letters.len(), UNDEFINED as usize);
        let loads = stage.engines().rows.counters.loads() - loads;
        assert!(loads <= 20, "{loads} loads: few campaigns start before they are looked up");
        stage
    });
}

#[test]
fn a_campaign_behind_undefined_ones_is_found_after_a_restart() {
    play(narrow(1, 30), async |mut stage: Stage| {
        stage.start().await;
        (0..30).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        stage.revoke(0);
        for number in 0..600 {
            ask_undefined(&stage, number);
            stage.ask((number % 30) as u8, number);
        }
        stage.assign(0);
        for id in 0..30 {
            stage.answered(id).await;
        }
        stage.passed().await;
        assert_eq!(stage.engines().brokers.lock().dead_letters.len(), 600);
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

#[test]
fn a_burst_of_what_nobody_decides_stops_nobody() {
    play(narrow(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(0, 10);
        stage.passed().await;
        stage.act(Act::Foreign { kind: Foreign::Burst, campaign: 0, user: 1 }).await;
        stage.ask(0, 1);
        assert!(stage.answered(0).await <= 1_000, "a window of 64 holds none of them");
        stage.passed().await;
        assert_eq!(stage.engines().brokers.lock().dead_letters.len(), 3 * POINT_LOOKUPS_MAX);
        stage
    });
}
