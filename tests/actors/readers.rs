//! Readers of a partition: their number, and how far they read ahead.

use coupond::domain::record::Change;

use crate::{
    life::{NO_VIOLATIONS, healthy},
    world::{self, campaign},
};

#[test]
fn undefined_records_are_not_read_twice() {
    world::run(async {
        let mut world = healthy(1).await;
        let (other, unknown) = (campaign(0), campaign(1));
        world.define(&other, 10, 1);
        world.settle().await;
        let opened = world.log.opened();
        for user in 0..1_000 {
            world.request(&unknown, user);
            // The log compares the bytes of each dead letter with the record.
            world.request_foreign(&unknown, user, 50);
        }
        world.request(&other, 1);
        assert!(world.passed().await);
        assert_eq!(world.truth.facts().parts[0].dead_letters.len(), 2_000);
        let opened = world.log.opened() - opened;
        assert_eq!(opened, 0);
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn hanging_replays_leave_readers_free() {
    world::run(async {
        let mut world = healthy(1).await;
        let (held, unknown): (Vec<_>, _) = ((0..4).map(campaign).collect(), campaign(4));
        for id in &held {
            world.define(id, 10, 1);
            world.faults.make_panic(id.clone());
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
        assert_eq!(world.truth.facts().parts[0].dead_letters.len(), 1);
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}

#[test]
fn large_records_use_up_the_window_sooner() {
    world::run(async {
        let mut world = healthy(1).await;
        let (hung, other) = (campaign(0), campaign(1));
        for id in [&hung, &other] {
            world.define(id, 10, 1);
        }
        world.settle().await;
        world.faults.hang(vec![hung.clone()]);
        for user in 0..10_000 {
            world.request_foreign(&hung, user, 2_500);
            world.request_foreign(&other, user, 2_500);
        }
        world.wait_ms(5_000).await;
        // Progress waits for the hung campaign, so every record stays in the window. It holds
        // 16,384 KiB, or 5,461 records of 3 KiB, and one more read of 4,096 records.
        let read = 2 * world.truth.facts().parts[0].published.len();
        assert!((5_461..=5_461 + 4_096).contains(&read), "{read} read");
        assert_eq!(world.end().await, NO_VIOLATIONS);
    });
}
