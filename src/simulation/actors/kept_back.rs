//! Campaigns that keep progress back while the store answers, and a store that does not answer.

use super::*;
use crate::simulation::{
    link::Engine,
    unreachable::{Whose, Why},
};

const STUCK: u8 = 0;
const OTHER: u8 = 1;

fn lose_quorum(stage: &Stage, campaign: u8, why: Why) {
    stage.engines().rows.unreachable.set(Whose::Campaign(campaign_id(campaign)), why);
}

/// One campaign of two loses its quorum for two minutes, with `decided` requests whose mark is missing.
fn a_campaign_without_quorum(why: Why) {
    play(calm(1, 2), async move |mut stage: Stage| {
        stage.five_decided(STUCK).await;
        stage.define(OTHER, 1_000);
        stage.passed().await;
        lose_quorum(&stage, STUCK, why);
        stage.ask(STUCK, 6);
        let held = stage.until("on hold", |stage| stage.is_held(STUCK)).await;
        assert!((29_000..34_000).contains(&held), "on hold after {held} ms");
        assert!(stage.reason(STUCK).starts_with("not_stored"), "{}", stage.reason(STUCK));
        for user in 0..20 {
            stage.ask(OTHER, user);
            assert!(stage.answered(OTHER).await <= ANSWERED_MS);
            stage.wait_ms(1_000).await;
        }
        stage.until("its partition goes on", Stage::is_passed).await;
        assert_eq!(stage.undecided(STUCK), 1);
        stage.engines().rows.unreachable.end_all();
        let back = stage.until("back", |stage| !stage.is_held(STUCK)).await;
        assert!(back <= 60_000, "back after {back} ms");
        assert_eq!(stage.undecided(STUCK), 0);
        stage
    });
}

#[test]
fn a_campaign_whose_rows_hang_goes_on_hold_alone() {
    a_campaign_without_quorum(Why::Hangs);
}

#[test]
fn a_campaign_whose_rows_fail_goes_on_hold_alone() {
    a_campaign_without_quorum(Why::Fails);
}

#[test]
fn a_mark_that_is_not_stored_holds_its_campaign_alone() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.five_decided(STUCK).await;
        stage.define(OTHER, 1_000);
        stage.passed().await;
        let before = stage.progress(0);
        stage.ask(STUCK, 6);
        // Its coupon is stored; the mark that counts it is not.
        stage.until("stored", |stage| stage.coupons(STUCK) == 6).await;
        lose_quorum(&stage, STUCK, Why::Fails);
        stage.ask(OTHER, 1);
        stage.answered(OTHER).await;
        assert_eq!(stage.progress(0), before, "progress waits for the mark");
        let held = stage.until("on hold", |stage| stage.is_held(STUCK)).await;
        assert!((29_000..34_000).contains(&held), "on hold after {held} ms");
        assert_eq!(stage.hold(STUCK).from, before, "the hold covers what no mark counts");
        stage.passed().await;
        stage.engines().rows.unreachable.end_all();
        stage.until("back", |stage| !stage.is_held(STUCK)).await;
        stage.passed().await;
        stage
    });
}

#[test]
fn a_store_that_is_away_holds_nobody() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.five_decided(STUCK).await;
        let cut = Act::Cut { node: None, engine: Engine::Store, partition: None, ms: 45_000 };
        stage.act(cut).await;
        for user in 6..10 {
            stage.ask(STUCK, user);
            stage.wait_ms(12_000).await;
        }
        let back = stage.answered(STUCK).await;
        assert!(back <= 10_000, "back after {back} ms");
        assert!(stage.engines().rows.store.rows.lock().holds.is_empty());
        stage
    });
}

#[test]
fn a_pause_holds_nobody() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.five_decided(STUCK).await;
        for _ in 0..4 {
            stage.ask(STUCK, 6);
            stage.act(Act::Pause { node: 0, ms: 20_000, expelled: false }).await;
            stage.wait_ms(20_010).await;
        }
        stage.answered(STUCK).await;
        assert!(stage.engines().rows.store.rows.lock().holds.is_empty());
        stage
    });
}

#[test]
fn a_load_that_goes_on_is_left_alone() {
    play(calm(1, 20), async |mut stage: Stage| {
        stage.start().await;
        (0..20).for_each(|id| stage.define(id, 10));
        stage.passed().await;
        // More loads hang than may run at once; those that wait for their place keep nothing back.
        (0..18).for_each(|id| lose_quorum(&stage, id, Why::Hangs));
        for id in 0..20 {
            stage.crash(id).await;
            stage.ask(id, 1);
        }
        stage.wait_ms(20_000).await;
        assert!((0..20).all(|id| !stage.is_held(id)));
        stage.engines().rows.unreachable.end_all();
        stage.passed().await;
        stage
    });
}

#[test]
fn a_failure_hold_is_tried_again_by_itself() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.five_decided(STUCK).await;
        stage.curse(STUCK).await;
        stage.ask(STUCK, 6);
        stage.until("on hold", |stage| stage.is_held(STUCK)).await;
        // Tries after 1, 2 and 4 s fail as well, each within 350 ms.
        stage.wait_ms(8_500).await;
        assert!(stage.is_held(STUCK) && stage.undecided(STUCK) == 1);
        stage.engines().rows.lift_curses();
        let took = stage.until("tried again", |stage| !stage.is_held(STUCK)).await;
        assert!((6_000..9_000).contains(&took), "the next try is 8 s behind: {took} ms");
        assert_eq!(stage.undecided(STUCK), 0);
        stage
    });
}

#[test]
fn a_contradiction_waits_for_an_operator() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.five_decided(STUCK).await;
        let rows = stage.engines().rows.clone();
        stage.damaged(campaign_id(STUCK));
        rows.unreachable.set(Whose::Campaign(campaign_id(STUCK)), Why::Undecodable);
        stage.crash(STUCK).await;
        stage.until("on hold", |stage| stage.is_held(STUCK)).await;
        rows.unreachable.end_all();
        stage.wait_ms(120_000).await;
        assert!(stage.is_held(STUCK), "only a release tries it again");
        stage.release(STUCK);
        stage.until("released", |stage| !stage.is_held(STUCK)).await;
        stage
    });
}

#[test]
fn an_owner_that_sees_no_skips_tells_nothing() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        stage.define(STUCK, 0);
        stage.passed().await;
        let cut = Act::Cut { node: None, engine: Engine::Store, partition: None, ms: 40_000 };
        stage.act(cut).await;
        stage.wait_ms(5_000).await;
        // A rejection needs no row.
        stage.ask(STUCK, 1);
        assert!(stage.answered(STUCK).await <= ANSWERED_MS);
        stage.wait_ms(10_000).await;
        stage.ask(STUCK, 2);
        stage.wait_ms(10_000).await;
        assert_eq!(stage.undecided(STUCK), 1, "a skip may have been made meanwhile");
        let back = stage.answered(STUCK).await;
        assert!(back <= 22_000, "back after {back} ms");
        stage
    });
}
