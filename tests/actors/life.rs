//! Single stories of actors that fail, wait, hang, stop or end.

use std::time::Duration;

use coupond::{
    actors::messages::SupervisorMessage,
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Position, Timestamp, UserId},
        record::Change,
    },
};

use crate::world::{self, campaign, faults::Plan, node::NodeWorld};

pub(crate) const NO_VIOLATIONS: Vec<String> = Vec::new();

/// Starts a world without faults.
pub(crate) async fn healthy(partitions: u32) -> NodeWorld {
    NodeWorld::start(1, partitions, Plan::default()).await
}

/// Returns whether every record of `campaign` so far has a published decision.
pub(crate) fn is_decided(world: &NodeWorld, campaign: &CampaignId) -> bool {
    let facts = world.truth.facts();
    facts.parts.iter().all(|part| {
        let its = part.expected.iter().filter(|(_, it)| it.campaign.as_ref() == Some(campaign));
        its.into_iter().all(|(offset, _)| part.published.contains_key(offset))
    })
}

/// Waits until every record of `campaign` has a published decision. Returns the milliseconds.
pub(crate) async fn answered_in_ms(world: &mut NodeWorld, campaign: &CampaignId) -> i64 {
    let begun = world.now();
    world.until("answered", |world| is_decided(world, campaign)).await;
    world.now().0 - begun.0
}

#[test]
fn the_fifth_failure_is_a_hold() {
    world::run(async {
        let mut world = healthy(1).await;
        let (failing, other) = (campaign(0), campaign(1));
        world.faults.make_panic(failing.clone());
        for id in [&failing, &other] {
            world.define(id, 10, 1);
            world.request(id, 1);
        }
        let begun = world.now();
        assert!(answered_in_ms(&mut world, &other).await <= 20);
        let held = |world: &NodeWorld| !world.truth.facts().holds_in_force().is_empty();
        world.until("on hold", held).await;
        // Retries: immediately, then after 50, 100 and 200 ms.
        let took = world.now().0 - begun.0;
        assert!((350..=450).contains(&took), "on hold after {took} ms");
        assert_eq!(world.faults.panics(), 5);
        assert_eq!(world.state(&failing), "quarantined");
        world.request(&failing, 2);
        world.request(&other, 2);
        assert!(answered_in_ms(&mut world, &other).await <= 20);
        assert!(world.passed().await, "a hold stops no partition");
        assert!(!is_decided(&world, &failing));
        world.faults.heal();
        world.change(&failing, Change::Released);
        world.until("released", |world| world.state(&failing) == "live").await;
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn an_unloadable_campaign_is_held() {
    world::run(async {
        let mut world = healthy(1).await;
        let (failing, busy) = (campaign(0), campaign(1));
        world.define(&failing, 10, 1);
        world.define(&busy, 1_000, 1);
        world.settle().await;
        world.faults.make_panic(failing.clone());
        world.send(SupervisorMessage::Crash(failing.clone()));
        // Other campaigns advance progress, and with it the position from which this one starts.
        for user in 0..100 {
            world.request(&busy, user);
            world.wait_ms(20).await;
        }
        assert_eq!(world.faults.panics(), 4, "after the crash, four loads failed");
        assert_eq!(world.state(&failing), "quarantined");
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn occasional_crashes_cause_no_hold() {
    world::run(async {
        let mut world = healthy(1).await;
        let id = campaign(0);
        world.define(&id, 10, 1);
        world.settle().await;
        for _ in 0..20 {
            world.send(SupervisorMessage::Crash(id.clone()));
            world.wait_ms(1_000).await;
            assert_eq!(world.state(&id), "live");
        }
        // Nor if progress has not yet passed the decisions since the last crash.
        for user in 0..20 {
            world.request(&id, user);
            world.wait_ms(20).await;
            world.send(SupervisorMessage::Crash(id.clone()));
            world.wait_ms(5).await;
            assert_eq!(world.state(&id), "live");
        }
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_finished_campaign_frees_its_memory() {
    world::run(async {
        let mut world = healthy(1).await;
        let (over, open) = (campaign(0), campaign(1));
        let closes_at = Timestamp(world.now().0 + 1_000);
        world.define_until(&over, 10, 1, Some(closes_at));
        world.define(&open, 10, 1);
        world.request(&over, 1);
        world.settle().await;
        world.wait_ms(9 * 60_000).await;
        assert_eq!((world.state(&over), world.state(&open)), ("live", "live"));
        world.wait_ms(2 * 60_000).await;
        assert_eq!((world.state(&over), world.state(&open)), ("stopped", "live"));
        world.rest().await;
        world.request(&over, 2);
        assert!(answered_in_ms(&mut world, &over).await <= 40, "a request starts it again");
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_hanging_campaign_blocks_no_other() {
    world::run(async {
        let mut world = healthy(1).await;
        let hung = campaign(0);
        (0..20).for_each(|index| world.define(&campaign(index), 100, 1));
        world.settle().await;
        world.faults.hang(vec![hung.clone()]);
        for user in 0..50 {
            (0..20).for_each(|index| world.request(&campaign(index), user));
            for index in 1..20 {
                assert!(answered_in_ms(&mut world, &campaign(index)).await <= 20);
            }
        }
        assert!(!is_decided(&world, &hung));
        // The load of a restarted actor hangs too.
        world.send(SupervisorMessage::Crash(hung.clone()));
        world.request(&campaign(1), 99);
        assert!(answered_in_ms(&mut world, &campaign(1)).await <= 20);
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn unreadable_rows_block_no_other_load() {
    world::run(async {
        let mut world = healthy(2).await;
        (0..40).for_each(|index| world.faults.make_fail(campaign(index)));
        (0..41).for_each(|index| world.define(&campaign(index), 10, 1));
        world.wait_ms(5_000).await;
        assert!(is_decided(&world, &campaign(40)));
        assert!(!is_decided(&world, &campaign(0)));
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn an_altered_row_holds_its_campaign() {
    world::run(async {
        let mut world = healthy(1).await;
        let (altered, other) = (campaign(0), campaign(1));
        world.define(&altered, 10, 1);
        world.define(&other, 10, 1);
        (0..5).for_each(|user| world.request(&altered, user));
        world.settle().await;
        let key = (altered.clone(), 3);
        let good = world.truth.facts().coupons[&key].clone();
        let bad = Coupon { user: UserId::parse("eve").unwrap(), ..good.clone() };
        world.truth.facts().coupons.insert(key.clone(), bad.clone());
        world.send(SupervisorMessage::Crash(altered.clone()));
        world.until("on hold", |world| world.state(&altered) == "quarantined").await;
        for user in 5..9 {
            world.request(&altered, user);
            world.request(&other, user);
        }
        assert!(answered_in_ms(&mut world, &other).await <= 20);
        assert!(world.passed().await);
        let rows = world.truth.facts().coupons.range((altered.clone(), 0)..).count();
        assert_eq!((world.truth.facts().coupons[&key].clone(), rows), (bad, 5 + 4));
        world.truth.facts().coupons.insert(key, good);
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn undefined_under_a_hold_is_a_dead_letter() {
    world::run(async {
        let mut world = healthy(1).await;
        let failing = campaign(0);
        world.faults.make_panic(failing.clone());
        (0..3).for_each(|user| world.request(&failing, user));
        world.until("on hold", |world| world.state(&failing) == "quarantined").await;
        world.request(&failing, 3);
        world.define(&failing, 10, 1);
        world.request(&failing, 4);
        // `end` releases the hold and compares the dead letters.
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_contradicted_replay_keeps_its_hold() {
    world::run(async {
        let mut world = healthy(1).await;
        let failing = campaign(0);
        world.define(&failing, 10, 1);
        world.settle().await;
        world.faults.make_panic(failing.clone());
        (0..5).for_each(|user| world.request(&failing, user));
        world.until("on hold", |world| world.state(&failing) == "quarantined").await;
        assert!(world.passed().await);
        let position = Position { log_epoch: 1, partition: 0, offset: 0 };
        let offset = world.truth.facts().parts[0].expected.keys().nth(1).copied().unwrap();
        let mut foreign = Coupon {
            campaign: failing.clone(),
            sequence: 1,
            user: UserId::parse("eve").unwrap(),
            code: "FOREIGN".into(),
            issued_at: world.now(),
            position: Position { offset, ..position },
            key_digest: None,
            user_bucket: 0,
            rules_version: 1,
            digest: [0; 16],
        };
        foreign.digest = world.keys.coupon_digest(&foreign);
        let key = (failing.clone(), 1);
        world.truth.facts().coupons.insert(key.clone(), foreign.clone());
        world.faults.heal();
        world.faults.plan(Plan { delays: 2, ..Plan::default() });
        world.change(&failing, Change::Released);
        world.wait_ms(10_000).await;
        assert_eq!(world.state(&failing), "quarantined");
        assert_eq!(world.truth.facts().coupons.remove(&key), Some(foreign));
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_hanging_campaign_bounds_the_window() {
    world::run(async {
        let mut world = healthy(1).await;
        let hung = campaign(0);
        (0..4).for_each(|index| world.define(&campaign(index), 10, 1));
        world.settle().await;
        world.faults.hang(vec![hung]);
        for user in 0..10_000 {
            (0..4).for_each(|index| world.request(&campaign(index), user));
        }
        world.wait_ms(5_000).await;
        let published = world.truth.facts().parts[0].published.len();
        assert!(
            (10_000..20_000).contains(&published),
            "{published} published while one campaign hangs"
        );
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_restart_storm_leaves_others_answering() {
    world::run(async {
        let mut world = healthy(2).await;
        (0..110).for_each(|index| world.define(&campaign(index), 1_000, 1));
        world.settle().await;
        let calm: Vec<_> = (100..110).map(campaign).collect();
        for user in 0..100 {
            for index in 0..100 {
                world.request(&campaign(index), user);
                if world.random.one_in(2) {
                    world.send(SupervisorMessage::Crash(campaign(index)));
                }
            }
            calm.iter().for_each(|id| world.request(id, user));
            for id in &calm {
                let took = answered_in_ms(&mut world, id).await;
                assert!(took <= 40, "{id} was answered after {took} ms of a storm");
            }
        }
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn draining_settles_all_records_that_were_read() {
    world::run(async {
        let mut world = healthy(2).await;
        (0..10).for_each(|index| world.define(&campaign(index), 100, 1));
        world.settle().await;
        for user in 0..5 {
            (0..10).for_each(|index| world.request(&campaign(index), user));
            world.send(SupervisorMessage::Crash(campaign(0)));
            world.wait_ms(5).await;
        }
        let drained = world.supervisor().call(SupervisorMessage::Drain, None).await;
        assert!(drained.is_ok_and(|drained| drained.is_success()));
        assert!(world.truth.facts().is_settled());
        (0..10).for_each(|index| world.request(&campaign(index), 77));
        world.wait_ms(1_000).await;
        assert!(!world.truth.facts().is_settled(), "a drained partition reads no more");
        world.kill().await;
        world.ensure_running().await;
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_failing_partition_backs_off() {
    world::run(async {
        let mut world = healthy(1).await;
        let id = campaign(0);
        world.define(&id, 1_000, 1);
        world.settle().await;
        let mut user = 0;
        let mut missed = async |world: &mut NodeWorld| {
            user += 1;
            world.send(SupervisorMessage::CrashConsumer(0));
            world.request(&id, user);
            answered_in_ms(world, &id).await
        };
        for pause in [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            let took = missed(&mut world).await;
            assert!((pause..pause + 50).contains(&took), "{took} ms, expected {pause}");
        }
        world.wait_ms(31_000).await;
        let took = missed(&mut world).await;
        assert!((200..250).contains(&took), "{took} ms after a quiet period");
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_revoked_partition_starts_no_actor() {
    world::run(async {
        let mut world = healthy(1).await;
        for round in 0..40 {
            world.define(&campaign(round), 10, 1);
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            world.revoke(0);
            world.wait_ms(500).await;
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            assert_eq!(tasks, 2, "after {round} polls: only the supervisor and its census");
            world.assign(0);
            world.settle().await;
        }
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_flapping_partition_is_decided() {
    world::run(async {
        let mut world = healthy(1).await;
        (0..10).for_each(|index| world.define(&campaign(index), 300, 1));
        for user in 0..200 {
            (0..10).for_each(|index| world.request(&campaign(index), user));
            for _ in 0..user % 7 {
                tokio::task::yield_now().await;
            }
            world.revoke(0);
            for _ in 0..user % 5 {
                tokio::task::yield_now().await;
            }
            world.assign(0);
            world.wait_ms(user % 3).await;
        }
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_halt_during_a_replay_ends_by_itself() {
    world::run(async {
        let mut world = healthy(1).await;
        let (failing, other) = (campaign(0), campaign(1));
        world.define(&failing, 5_000, 1);
        world.define(&other, 5_000, 1);
        world.settle().await;
        world.faults.make_panic(failing.clone());
        for user in 0..3_000 {
            world.request(&failing, user);
        }
        assert!(world.passed().await);
        assert_eq!(world.state(&failing), "quarantined");
        world.faults.heal();
        world.faults.plan(Plan { delays: 1, ..Plan::default() });
        world.change(&failing, Change::Released);
        world.until("replaying", |world| world.state(&failing) == "recovering").await;
        world.log.cut(0, Some(1));
        world.until("halted", |world| world.state(&failing) == "halted").await;
        world.request(&other, 1);
        world.wait_ms(20_000).await;
        assert!(!is_decided(&world, &other), "a halted partition decides nothing");
        world.log.cut(0, None);
        assert!(answered_in_ms(&mut world, &other).await <= 15_000);
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_supervisor_panic_ends_the_node() {
    world::run(async {
        let mut world = healthy(4).await;
        (0..20).for_each(|index| world.define(&campaign(index), 10, 1));
        world.settle().await;
        world.faults.panic_at_message("supervisor", "census");
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.faults.heal();
        (0..20).for_each(|index| world.request(&campaign(index), 1));
        // Also checks that no task outlived the supervisor.
        world.ensure_running().await;
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}
