//! Who reads a partition's log, how many at once.

use coupond::domain::record::Change;

use crate::{
    life::{NOTHING_WRONG, healthy},
    world::{self, campaign},
};

#[test]
fn undefined_records_are_kept_together() {
    world::run(async {
        let mut world = healthy(1).await;
        let (sound, unknown) = (campaign(0), campaign(1));
        world.define(&sound, 10, 1);
        world.settle().await;
        let opened = world.log.opened();
        for user in 0..2_000 {
            world.request(&unknown, user);
        }
        world.request(&sound, 1);
        assert!(world.passed().await);
        assert_eq!(world.truth.facts().parts[0].letters.len(), 2_000);
        let opened = world.log.opened() - opened;
        assert!(opened <= 10, "{opened} readers for 2,000 records");
        assert_eq!(world.end().await, NOTHING_WRONG);
    });
}

#[test]
fn hanging_replays_leave_readers_free() {
    world::run(async {
        let mut world = healthy(1).await;
        let (held, unknown): (Vec<_>, _) = ((0..4).map(campaign).collect(), campaign(4));
        for id in &held {
            world.define(id, 10, 1);
            world.faults.curse(id.clone());
            world.request(id, 1);
        }
        world.until("on hold", |world| world.truth.facts().holds_in_force().len() == 4).await;
        world.faults.heal();
        world.faults.hang(held[..3].to_vec());
        for id in &held {
            world.change(id, Change::Released);
        }
        world.until("released", |world| world.state(&held[3]) == "live").await;
        world.request(&unknown, 1);
        assert!(world.passed().await);
        assert_eq!(world.truth.facts().parts[0].letters.len(), 1);
        assert_eq!(world.end().await, NOTHING_WRONG);
    });
}
