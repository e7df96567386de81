//! Damaged and deleted rows: their campaign or partition stops and reports the reason.

use coupond::{actors::messages::SupervisorMessage, domain::record::Change};

use crate::{
    life::{NO_VIOLATIONS, answered_in_ms, healthy, is_decided},
    world::{self, campaign, faults::Damaged},
};

#[test]
fn an_unreadable_row_stops_its_owner() {
    world::run(async {
        let mut world = healthy(1).await;
        let (damaged, other) = (campaign(0), campaign(1));
        for id in [&damaged, &other] {
            world.define(id, 10, 1);
            world.request(id, 1);
        }
        world.settle().await;
        world.faults.damage(Damaged::CouponOf(damaged.clone()));
        world.send(SupervisorMessage::Crash(damaged.clone()));
        world.until("on hold", |world| world.state(&damaged) == "quarantined").await;
        world.request(&damaged, 2);
        world.request(&other, 2);
        assert!(answered_in_ms(&mut world, &other).await <= 20);
        assert!(world.passed().await, "a row of one campaign stops no partition");

        world.faults.damage(Damaged::HoldOf(0));
        world.until("halted", |world| world.state(&other) == "halted").await;
        world.faults.heal();
        world.until("open again", |world| world.state(&damaged) == "quarantined").await;
        world.change(&damaged, Change::Released);
        world.until("released", |world| world.state(&damaged) == "live").await;
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn a_hidden_row_keeps_its_hold() {
    world::run(async {
        let mut world = healthy(1).await;
        let id = campaign(0);
        world.define(&id, 10, 1);
        (1..=5).for_each(|user| world.request(&id, user));
        world.settle().await;
        world.faults.damage(Damaged::Deleted(id.clone(), 3));
        world.send(SupervisorMessage::Crash(id.clone()));
        world.until("on hold", |world| world.state(&id) == "quarantined").await;
        let missing = "coupon 4 follows coupon 2";
        assert!(world.reason(&id).is_some_and(|reason| reason.contains(missing)));

        world.request(&id, 6);
        world.change(&id, Change::Released);
        let hidden = "coupon 3 was written but cannot be read back";
        world
            .until("on hold again", |world| {
                world.reason(&id).is_some_and(|reason| reason.contains(hidden))
            })
            .await;
        assert_eq!(world.state(&id), "quarantined");
        assert!(!is_decided(&world, &id), "nothing is decided while a row is missing");
        // A new owner decides nothing either, although the hold was released.
        world.revoke(0);
        world.assign(0);
        world
            .until("on hold here too", |world| {
                world.reason(&id).is_some_and(|reason| reason.contains(hidden))
            })
            .await;

        world.faults.heal();
        world.change(&id, Change::Released);
        world.until("released", |world| world.state(&id) == "live").await;
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}
