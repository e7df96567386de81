//! Rows that have vanished, and are derived again once an operator has released their campaign.

use super::*;
use crate::simulation::{damage::RowDamage, link::Call};

const FAILING: u8 = 0;

#[test]
fn a_repair_reads_back_both_views() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.five_decided(FAILING).await;
        for damage in [RowDamage::ByUserDeleted, RowDamage::Missing] {
            stage.act(Act::DamageRows { damage, campaign: FAILING, which: 2 }).await;
        }
        stage.crash(FAILING).await;
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        assert!(stage.reason(FAILING).contains("rows_missing"), "{}", stage.reason(FAILING));
        stage.release(FAILING);
        let hidden = "the by-user row of coupon 3";
        stage.until("on hold again", |stage| stage.reason(FAILING).contains(hidden)).await;
        stage
    });
}

#[test]
fn a_place_in_the_listing_without_a_version_is_a_hold() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(FAILING, 10);
        stage.passed().await;
        {
            let mut rows = stage.engines().rows.store.rows.lock();
            rows.versions.clear();
            rows.marks.clear();
        }
        stage.damaged(campaign_id(FAILING));
        stage.crash(FAILING).await;
        stage.ask(FAILING, 1);
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        let reason = stage.reason(FAILING);
        assert!(reason.contains("has a place in the listing, but no version"), "{reason}");
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        assert_eq!(stage.coupons(FAILING), 1, "the log derives the version again");
        stage
    });
}

#[test]
fn a_repair_reads_many_users_back_together() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(FAILING, 1_000);
        (1..=600).for_each(|user| stage.ask(FAILING, user));
        stage.passed().await;
        let damage = RowDamage::Missing;
        stage.act(Act::DamageRows { damage, campaign: FAILING, which: 2 }).await;
        stage.crash(FAILING).await;
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        let reads = |stage: &Stage| stage.story.world.calls(|_, call| call == Call::ReadCoupons);
        let before = reads(&stage);
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        let made = reads(&stage) - before;
        assert!(made < 60, "600 coupons are read back in {made} reads");
        assert_eq!(stage.coupons(FAILING), 600);
        stage
    });
}
