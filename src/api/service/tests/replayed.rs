//! Messages of the feed that somebody has recorded and sends again. Each has a valid MAC.

use super::world::{ServiceWorld, request};
use crate::{
    api::service::IssueCoupons, domain::ids::Offset, simulation::testing::Settle,
    wire::feed_message::FeedMessage,
};

/// Sends what was published about a partition first once more, and waits until it has come.
async fn replay(world: &ServiceWorld, partition: u32, before: usize) {
    for message in world.messages(partition).into_iter().take(before) {
        world.deliver(message).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replayed_halt_refuses_nobody() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    for is_new_owner in [false, true] {
        world.halted(partition, "unreadable: at 7").await;
        let recorded = world.messages(partition).len();
        if is_new_owner {
            world.begin_generation(partition);
        }
        world.heard().await;
        world.until(|| world.service.waiters.lag(partition).is_ok()).await;
        replay(&world, partition, recorded).await;
        let taken = world.service.issue(request(&spring, "u1"), None).await;
        assert!(taken.is_ok(), "{taken:?}, new owner: {is_new_owner}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replayed_decision_tells_nobody() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    world.service.issue(request(&spring, "u1"), None).await.unwrap();
    world.decide(Settle::All).await;
    let recorded = world.messages(partition);
    let decided: Vec<_> =
        recorded.iter().flat_map(|it| &it.decisions).map(|it| it.offset).collect();
    assert!(!decided.is_empty());
    // Another node has heard only of the next owner, which has not got far.
    let other = world.another_service().await;
    let mut first = FeedMessage { decisions: Vec::new(), ..recorded[0].clone() };
    first.sender.generation += 1;
    let watermark = Some(first.to);
    world.send(first).await;
    world.until(|| other.waiters.watermark(partition) == watermark).await;
    replay(&world, partition, recorded.len()).await;
    assert_eq!(other.waiters.watermark(partition), watermark);
    let heard = |offset: &Offset| other.waiters.decision(partition, *offset).is_some();
    assert!(!decided.iter().any(heard), "an old owner's decisions are not believed");
}
