//! By-user rows that are written after the answer: what happens while they are gathered.

use super::*;
use crate::simulation::unreachable::{Whose, Why};

const STUCK: u8 = 0;
const OTHER: u8 = 1;

/// Five coupons of a campaign are settled, then its only by-user bucket cannot be reached, and one more
/// coupon is issued.
async fn gathers(stage: &mut Stage, why: Why) {
    stage.five_decided(STUCK).await;
    stage.define(OTHER, 1_000);
    stage.passed().await;
    let bucket = Whose::ByUser(campaign_id(STUCK), 0);
    stage.engines().rows.unreachable.set(bucket, why);
    stage.ask(STUCK, 6);
    stage.answered(STUCK).await;
    assert_eq!((stage.coupons(STUCK), stage.by_user_rows()), (6, 5), "issued by its coupon row");
}

/// The bucket can be reached again, and everything settles.
async fn recovers(stage: &mut Stage) {
    stage.engines().rows.unreachable.end_all();
    let back = stage.until("back", |stage| !stage.is_held(STUCK)).await;
    assert!(back <= 60_000, "back after {back} ms");
    stage.passed().await;
    assert_eq!(stage.undecided(STUCK), 0);
}

fn a_bucket_without_quorum(why: Why) {
    play(calm(1, 2), async move |mut stage: Stage| {
        gathers(&mut stage, why).await;
        let before = stage.progress(0);
        let held = stage.until("on hold", |stage| stage.is_held(STUCK)).await;
        assert!((28_000..34_000).contains(&held), "on hold after {held} ms");
        assert_eq!(stage.hold(STUCK).from, before, "the hold covers the gathered row");
        for user in 0..10 {
            stage.ask(OTHER, user);
            assert!(stage.answered(OTHER).await <= ANSWERED_MS);
        }
        stage.until("its partition goes on", Stage::is_passed).await;
        recovers(&mut stage).await;
        assert_eq!(stage.by_user_rows(), 6 + 10);
        stage
    });
}

#[test]
fn a_by_user_bucket_that_hangs_holds_its_campaign_alone() {
    a_bucket_without_quorum(Why::Hangs);
}

#[test]
fn a_by_user_bucket_that_fails_holds_its_campaign_alone() {
    a_bucket_without_quorum(Why::Fails);
}

#[test]
fn a_hold_waits_for_no_gathered_row() {
    play(calm(1, 2), async |mut stage: Stage| {
        gathers(&mut stage, Why::Hangs).await;
        let before = stage.progress(0);
        stage.curse(STUCK).await;
        stage.ask(STUCK, 7);
        let held = stage.until("on hold", |stage| stage.is_held(STUCK)).await;
        assert!(held < 15_000, "its actor fails: on hold after {held} ms");
        assert_eq!(stage.hold(STUCK).from, before);
        stage.until("its partition goes on", Stage::is_passed).await;
        stage.story.engines.rows.lift_curses();
        recovers(&mut stage).await;
        assert_eq!(stage.by_user_rows(), 7);
        stage
    });
}

#[test]
fn a_version_waits_for_the_rows_that_its_mark_counts() {
    play(calm(1, 2), async |mut stage: Stage| {
        gathers(&mut stage, Why::Hangs).await;
        let marked = |stage: &Stage| {
            let rows = stage.engines().rows.store.rows.lock();
            rows.marks[&campaign_id(STUCK)].counts.issued
        };
        stage.control(STUCK, Change::Paused);
        stage.wait_ms(5_000).await;
        assert_eq!(marked(&stage), 5, "no mark counts a coupon without its by-user row");
        stage.engines().rows.unreachable.end_all();
        stage.passed().await;
        assert_eq!((marked(&stage), stage.by_user_rows()), (6, 6));
        stage
    });
}

#[test]
fn a_panic_behind_a_catch_up_loses_no_row() {
    play(calm(1, 2), async |mut stage: Stage| {
        gathers(&mut stage, Why::Hangs).await;
        stage.curse(STUCK).await;
        stage.ask(STUCK, 7);
        stage.until("on hold", |stage| stage.is_held(STUCK)).await;
        stage.story.engines.rows.lift_curses();
        stage.until("back", |stage| !stage.is_held(STUCK)).await;
        assert_eq!(stage.by_user_rows(), 7, "what a replay derives is stored in both views");
        // No start of this owner begins below the end of the replay.
        stage.crash(STUCK).await;
        stage.ask(STUCK, 8);
        stage.answered(STUCK).await;
        stage.passed().await;
        assert_eq!((stage.coupons(STUCK), stage.by_user_rows()), (8, 8));
        stage
    });
}

#[test]
fn campaigns_without_a_bucket_leave_half_the_window() {
    let mut setup = narrow(1, 4);
    setup.limits.batch_records = 8;
    play(setup, async |mut stage: Stage| {
        stage.start().await;
        (0..4).for_each(|id| stage.define(id, 1_000));
        stage.passed().await;
        for stuck in 0..2 {
            let bucket = Whose::ByUser(campaign_id(stuck), 0);
            stage.engines().rows.unreachable.set(bucket, Why::Hangs);
        }
        for user in 0..200 {
            (0..2).for_each(|id| stage.ask(id, user));
        }
        stage.wait_ms(2_000).await;
        for user in 0..20 {
            (2..4).for_each(|id| stage.ask(id, user));
            for healthy in 2..4 {
                assert!(stage.answered(healthy).await <= ANSWERED_MS, "of campaign {healthy}");
            }
        }
        stage.engines().rows.unreachable.end_all();
        for id in 0..4 {
            stage.answered(id).await;
        }
        stage.passed().await;
        assert_eq!(stage.by_user_rows(), 2 * 200 + 2 * 20);
        stage
    });
}
