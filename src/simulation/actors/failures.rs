//! Campaigns and partitions that fail, and rows that stop them.

use super::*;
use crate::{
    api::service::{Basis, ChangeCampaigns, ControlVerb, ServiceError},
    domain::{
        coupon::Coupon,
        ids::Position,
        rows::{Hold, HoldKind, HoldState, Register, Row},
    },
    simulation::{
        act::{Act, Foreign},
        damage::RowDamage,
        unreachable::{Whose, Why},
    },
};

/// Whose key makes the changes.
const BY: &str = "token";

const FAILING: u8 = 0;
const OTHER: u8 = 1;

#[test]
fn the_fifth_failure_is_a_hold() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        // By then the partition has its owner.
        stage.wait_ms(400).await;
        stage.curse(FAILING).await;
        for id in [FAILING, OTHER] {
            stage.define(id, 10);
            stage.ask(id, 1);
        }
        let begun = stage.now_ms();
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        // Tries: at once, and after 0, 50, 100 and 200 ms.
        let took = stage.now_ms() - begun;
        assert!((350..450).contains(&took), "on hold after {took} ms");
        assert_eq!(stage.state(FAILING), "quarantined");
        stage.ask(FAILING, 2);
        stage.ask(OTHER, 2);
        assert!(stage.answered(OTHER).await <= ANSWERED_MS);
        stage.passed().await;
        assert_eq!(stage.undecided(FAILING), 3, "a hold decides nothing");
        stage.engines().rows.lift_curses();
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        stage
    });
}

#[test]
fn an_unloadable_campaign_is_held() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        stage.define(FAILING, 10);
        stage.define(OTHER, 1_000);
        stage.passed().await;
        stage.curse(FAILING).await;
        stage.crash(FAILING).await;
        // Others advance progress, and with it the position from which this one starts.
        for user in 0..50 {
            stage.ask(OTHER, user);
            stage.wait_ms(20).await;
        }
        assert_eq!(stage.state(FAILING), "quarantined");
        stage
    });
}

#[test]
fn occasional_crashes_cause_no_hold() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(0, 10);
        stage.passed().await;
        for user in 0..20 {
            stage.crash(0).await;
            stage.wait_ms(1_000).await;
            assert_eq!(stage.state(0), "live");
            // Nor if progress has not yet passed the decisions since the last crash.
            stage.ask(0, user);
            stage.wait_ms(20).await;
            stage.crash(0).await;
            stage.wait_ms(20).await;
            assert_eq!(stage.state(0), "live");
        }
        assert!(stage.engines().rows.store.rows.lock().holds.is_empty());
        stage
    });
}

#[test]
fn undefined_under_a_hold_is_a_dead_letter() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.curse(FAILING).await;
        (0..3).for_each(|user| stage.ask(FAILING, user));
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        stage.ask(FAILING, 3);
        stage.define(FAILING, 10);
        stage.ask(FAILING, 4);
        stage.passed().await;
        assert!(stage.engines().brokers.lock().dead_letters.is_empty(), "not yet known");
        stage.engines().rows.lift_curses();
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        stage.until("kept", |it| it.engines().brokers.lock().dead_letters.len() == 4).await;
        stage
    });
}

/// A coupon that the log does not give.
fn foreign(stage: &Stage, position: Position) -> Coupon {
    let mut coupon = Coupon {
        campaign: campaign_id(FAILING),
        sequence: 1,
        user: UserId::parse("eve").unwrap(),
        code: "FOREIGN".into(),
        issued_at: stage.story.world.now(),
        position,
        key_digest: None,
        user_bucket: 0,
        rules_version: 1,
        digest: [0; 16],
    };
    coupon.digest = stage.engines().keys.coupon_digest(&coupon);
    coupon
}

#[test]
fn a_contradicted_replay_keeps_its_hold() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(FAILING, 10);
        stage.passed().await;
        stage.curse(FAILING).await;
        (0..5).for_each(|user| stage.ask(FAILING, user));
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        stage.passed().await;
        let offset = *stage.engines().brokers.lock().partitions[0].records.keys().nth(1).unwrap();
        let wrong = foreign(&stage, Position { log_epoch: 1, partition: 0, offset });
        let key = (campaign_id(FAILING), 1);
        stage.engines().rows.store.rows.lock().coupons.insert(key.clone(), wrong.clone());
        stage.damaged(campaign_id(FAILING));
        stage.engines().rows.lift_curses();
        stage.release(FAILING);
        stage.wait_ms(10_000).await;
        assert_eq!(stage.state(FAILING), "quarantined");
        let row = stage.engines().rows.store.rows.lock().coupons.remove(&key);
        assert_eq!((row, stage.coupons(FAILING)), (Some(wrong), 0), "nothing is written");
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        assert_eq!(stage.coupons(FAILING), 5);
        stage
    });
}

#[test]
fn vanished_versions_and_marks_are_released() {
    for damage in [RowDamage::VersionMissing, RowDamage::MarkMissing] {
        play(calm(1, 1), async move |mut stage: Stage| {
            stage.five_decided(FAILING).await;
            stage.act(Act::DamageRows { damage, campaign: FAILING, which: 0 }).await;
            // Nobody has noticed yet. An operator's release makes the owner look, and then releases.
            stage.act(Act::CrashConsumer { partition: 0 }).await;
            let id = campaign_id(FAILING);
            let service = stage.node().core.service.clone();
            let refused = service.control(&id, ControlVerb::Release, Basis::InEffect, BY).await;
            assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
            stage.until("on hold", |stage| stage.is_held(FAILING)).await;
            service
                .control(&id, ControlVerb::Release, Basis::InEffect, BY)
                .await
                .expect("it is released");
            stage.until("released", |stage| stage.state(FAILING) == "live").await;
            stage
        });
    }
}

#[test]
fn an_old_release_ends_no_hold() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.five_decided(FAILING).await;
        for (turn, user) in [(0, 6), (1, 7)] {
            let missing = RowDamage::Missing;
            stage.act(Act::DamageRows { damage: missing, campaign: FAILING, which: 2 }).await;
            stage.crash(FAILING).await;
            stage.until("on hold", |stage| stage.is_held(FAILING)).await;
            stage.ask(FAILING, user);
            if turn == 1 {
                // Whoever can write the topic has kept the first release.
                let kind = Foreign::OldRelease;
                stage.act(Act::Foreign { kind, campaign: FAILING, user: 0 }).await;
                stage.wait_ms(10_000).await;
                assert_eq!(stage.state(FAILING), "quarantined");
            }
            stage.release(FAILING);
            stage.until("released", |stage| stage.state(FAILING) == "live").await;
        }
        stage
    });
}

#[test]
fn a_failing_partition_backs_off() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(0, 1_000);
        stage.passed().await;
        let mut user = 0;
        for pause in [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 200] {
            if user == 8 {
                // A quiet time ends the series.
                stage.wait_ms(31_000).await;
            }
            user += 1;
            stage.act(Act::CrashConsumer { partition: 0 }).await;
            stage.ask(0, user);
            let took = stage.answered(0).await;
            assert!((pause..pause + 80).contains(&took), "{took} ms, not {pause}");
        }
        stage
    });
}

#[test]
fn a_restart_storm_leaves_others_answering() {
    play(calm(2, 25), async |mut stage: Stage| {
        stage.start().await;
        (0..25).for_each(|id| stage.define(id, 1_000));
        stage.passed().await;
        for user in 0..30 {
            for id in 0..20 {
                stage.ask(id, user);
                if stage.story.world.one_in(2) {
                    stage.crash(id).await;
                }
            }
            (20..25).for_each(|id| stage.ask(id, user));
            for id in 20..25 {
                let took = stage.answered(id).await;
                assert!(took <= 2 * ANSWERED_MS, "{id} answered after {took} ms of a storm");
            }
        }
        stage
    });
}

#[test]
fn an_unreadable_row_stops_its_owner() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        for id in [FAILING, OTHER] {
            stage.define(id, 10);
            stage.ask(id, 1);
        }
        stage.passed().await;
        let rows = stage.engines().rows.clone();
        rows.unreachable.set(Whose::Campaign(campaign_id(FAILING)), Why::Undecodable);
        stage.damaged(campaign_id(FAILING));
        stage.crash(FAILING).await;
        stage.until("on hold", |stage| stage.state(FAILING) == "quarantined").await;
        stage.ask(FAILING, 2);
        stage.ask(OTHER, 2);
        assert!(stage.answered(OTHER).await <= ANSWERED_MS);
        stage.passed().await;
        rows.unreachable.set(Whose::Holds(0), Why::Undecodable);
        stage.until("halted", |stage| stage.state(OTHER) == "halted").await;
        rows.unreachable.end_all();
        stage.until("open again", |stage| stage.state(FAILING) == "quarantined").await;
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        stage
    });
}

#[test]
fn a_hidden_row_keeps_its_hold() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.five_decided(FAILING).await;
        // Until the owner has heard of it.
        stage.wait_ms(10).await;
        let damage = RowDamage::Deleted;
        stage.act(Act::DamageRows { damage, campaign: FAILING, which: 2 }).await;
        stage.crash(FAILING).await;
        let missing = "coupon 4 follows coupon 2";
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        assert!(stage.reason(FAILING).contains(missing), "{}", stage.reason(FAILING));
        stage.ask(FAILING, 6);
        stage.release(FAILING);
        let hidden = "coupon 3 was written but cannot be read back";
        stage.until("on hold again", |stage| stage.reason(FAILING).contains(hidden)).await;
        assert!(stage.undecided(FAILING) > 0, "nothing is decided while a row is missing");
        // Nor by a new owner, although the first hold was released.
        stage.revoke(0);
        stage.assign(0);
        stage.wait_ms(1).await;
        stage.until("on hold here too", |stage| stage.reason(FAILING).contains(hidden)).await;
        stage
    });
}

#[test]
fn a_vanished_by_user_row_is_written_again() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.five_decided(FAILING).await;
        let damage = RowDamage::ByUserMissing;
        stage.act(Act::DamageRows { damage, campaign: FAILING, which: 2 }).await;
        assert_eq!(stage.by_user_rows(), 4);
        stage.until("restored", |stage| stage.by_user_rows() == 5).await;
        assert_eq!(stage.state(FAILING), "live");
        stage
    });
}

#[test]
fn a_by_user_row_that_stays_missing_is_a_hold() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.five_decided(FAILING).await;
        let damage = RowDamage::ByUserDeleted;
        stage.act(Act::DamageRows { damage, campaign: FAILING, which: 2 }).await;
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        let missing = "by_user_row_missing: the by-user row of coupon 3";
        assert!(stage.reason(FAILING).contains(missing), "{}", stage.reason(FAILING));
        let of_first = stage.hold(FAILING).from;
        stage.ask(FAILING, 6);
        stage.release(FAILING);
        stage.wait_ms(10_000).await;
        assert_eq!(stage.state(FAILING), "quarantined", "its release looks at the row first");
        assert_eq!((stage.coupons(FAILING), stage.hold(FAILING).from), (5, of_first));
        stage.engines().rows.ledger.lock().deleted.clear();
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        assert_eq!(stage.by_user_rows(), 6);
        stage
    });
}

#[test]
fn operators_hear_of_records_that_are_about_to_go() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        stage.curse(FAILING).await;
        for id in [FAILING, OTHER] {
            stage.define(id, 10);
            stage.ask(id, 1);
        }
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        let expiring = |stage: &Stage| stage.node().core.directory.expiring();
        let told = stage.until("told", |stage| !expiring(stage).is_empty()).await;
        assert!(told > 5_000, "young records are no news, but it was told after {told} ms");
        let (partition, warning) = expiring(&stage).remove(0);
        assert_eq!(partition, 0);
        assert!(warning.ends_with("until then: keep them for longer"), "{warning}");
        stage.engines().rows.lift_curses();
        stage.release(FAILING);
        stage.until("all is decided", |stage| expiring(stage).is_empty()).await;
        stage
    });
}

#[test]
fn a_lost_number_of_holds_is_written_again() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        stage.curse(FAILING).await;
        stage.define(FAILING, 10);
        stage.ask(FAILING, 1);
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        stage.passed().await;
        let key = (0, Register::Holds);
        let counted = move |stage: &Stage| {
            stage.engines().rows.store.rows.lock().registers.get(&key).copied()
        };
        stage.until("counted", |stage| counted(stage) == Some(1)).await;
        for _ in 0..3 {
            stage.engines().rows.store.rows.lock().registers.remove(&key);
            let took = stage.until("counted again", |stage| counted(stage) == Some(1)).await;
            assert!(took <= 1_300, "counted after {took} ms");
            stage.wait_ms(1_500).await;
        }
        stage.engines().rows.lift_curses();
        stage.release(FAILING);
        stage.answered(FAILING).await;
        stage
    });
}

/// Returns a hold as README tells operators to insert it.
fn restored(lost: &Hold) -> Hold {
    let reason = "restored by an operator".to_owned();
    let (number, kind) = (lost.number + 1, HoldKind::Contradiction);
    Hold { number, kind, reason, state: HoldState::Open, until: 0, ..lost.clone() }
}

#[test]
fn a_vanished_hold_halts_until_it_is_inserted() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        stage.define(OTHER, 10);
        stage.curse(FAILING).await;
        stage.define(FAILING, 10);
        stage.ask(FAILING, 1);
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        stage.passed().await;
        stage.engines().rows.lift_curses();
        let rows = stage.engines().rows.store.clone();
        // Nothing is read or decided: its number is written all the same.
        let is_counted = |stage: &Stage| {
            let rows = stage.engines().rows.store.rows.lock();
            rows.registers.get(&(0, Register::Holds)) == Some(&1)
        };
        stage.until("counted", is_counted).await;
        let lost = rows.rows.lock().holds.pop().expect("there is a hold");
        stage.damaged(campaign_id(FAILING));
        let took = stage.until("halted", |stage| stage.state(OTHER) == "halted").await;
        assert!(took <= 1_100, "halted after {took} ms");
        assert!(stage.reason(OTHER).starts_with("hold_missing: "), "{}", stage.reason(OTHER));
        stage.wait_ms(30_000).await;
        assert_eq!(stage.state(OTHER), "halted", "no new owner goes on either");
        rows.rows.lock().apply(Row::Hold(restored(&lost)));
        let took = stage.until("it goes on", |stage| stage.state(OTHER) != "halted").await;
        assert!(took <= 12_000, "it goes on after {took} ms");
        stage.ask(OTHER, 1);
        assert!(stage.answered(OTHER).await <= ANSWERED_MS);
        assert_eq!(stage.undecided(FAILING), 2, "the inserted hold covers it");
        stage.release(FAILING);
        stage.until("released", |stage| stage.state(FAILING) == "live").await;
        stage.answered(FAILING).await;
        stage
    });
}

/// The log begins above the start of the hold: one that is inserted open could never be released.
#[test]
fn a_vanished_closed_hold_is_inserted_closed() {
    play(calm(1, 2), async |mut stage: Stage| {
        stage.start().await;
        stage.curse(FAILING).await;
        stage.define(FAILING, 10);
        stage.ask(FAILING, 1);
        stage.until("on hold", |stage| stage.is_held(FAILING)).await;
        stage.engines().rows.lift_curses();
        stage.release(FAILING);
        stage.answered(FAILING).await;
        stage.wait_ms(11_000).await;
        let rows = stage.engines().rows.store.clone();
        let lost = rows.rows.lock().holds.pop().expect("there is a hold");
        stage.damaged(campaign_id(FAILING));
        stage.until("halted", |stage| stage.state(FAILING) == "halted").await;
        let next = rows.rows.lock().progress[&0].next;
        assert!(lost.from < next && lost.until == next, "{lost:?} was extended to {next}");
        stage.engines().brokers.lock().trim(0, next);
        let (kind, state) = (HoldKind::Failure, HoldState::Closed);
        let closed = Hold { kind, state, until: next, ..restored(&lost) };
        rows.rows.lock().apply(Row::Hold(closed));
        let took = stage.until("it goes on", |stage| stage.state(FAILING) != "halted").await;
        assert!(took <= 12_000, "it goes on after {took} ms");
        stage.ask(FAILING, 2);
        assert!(stage.answered(FAILING).await <= ANSWERED_MS, "no release is needed");
        stage
    });
}
