//! Rows that somebody damaged or deleted: what they belong to stops, and tells why.

use coupond::{actors::messages::SupervisorMessage, domain::record::Change};

use crate::{
    life::{NOTHING_WRONG, answered_in_ms, healthy, is_told},
    world::{self, campaign, faults::Spoiled},
};

#[test]
fn an_unreadable_row_stops_its_owner() {
    world::run(async {
        let mut world = healthy(1).await;
        let (spoiled, sound) = (campaign(0), campaign(1));
        for id in [&spoiled, &sound] {
            world.define(id, 10, 1);
            world.request(id, 1);
        }
        world.settle().await;
        world.faults.spoil(Spoiled::CouponOf(spoiled.clone()));
        world.tell(SupervisorMessage::Crash(spoiled.clone()));
        world.until("on hold", |world| world.state(&spoiled) == "quarantined").await;
        world.request(&spoiled, 2);
        world.request(&sound, 2);
        assert!(answered_in_ms(&mut world, &sound).await <= 20);
        assert!(world.passed().await, "a row of one campaign stops no partition");

        world.faults.spoil(Spoiled::HoldOf(0));
        world.until("halted", |world| world.state(&sound) == "halted").await;
        world.faults.heal();
        world.until("open again", |world| world.state(&spoiled) == "quarantined").await;
        world.change(&spoiled, Change::Released);
        world.until("released", |world| world.state(&spoiled) == "live").await;
        assert_eq!(world.end().await, NOTHING_WRONG);
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
        world.faults.spoil(Spoiled::Deleted(id.clone(), 3));
        world.tell(SupervisorMessage::Crash(id.clone()));
        world.until("on hold", |world| world.state(&id) == "quarantined").await;
        let noticed = "coupon 4 follows coupon 2";
        assert!(world.reason(&id).is_some_and(|reason| reason.contains(noticed)));

        world.request(&id, 6);
        world.change(&id, Change::Released);
        let hidden = "coupon 3 was written but cannot be read back";
        world
            .until("on hold again", |world| {
                world.reason(&id).is_some_and(|reason| reason.contains(hidden))
            })
            .await;
        assert_eq!(world.state(&id), "quarantined");
        assert!(!is_told(&world, &id), "nothing is decided on rows that are not there");
        // Nor does whoever takes over, although the hold was released.
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
        assert_eq!(world.end().await, NOTHING_WRONG);
    });
}
