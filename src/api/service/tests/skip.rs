//! Skips of ranges that halt a partition, and the answers to requests in them.

use std::time::Duration;

use super::{
    listing::many,
    world::{ServiceWorld, campaign, request},
};
use crate::{
    api::service::{FindRequests, IssueCoupons, RequestStatus, ServiceError, SkipRanges},
    domain::{
        halt::Unread,
        ids::{CampaignId, Offset, Partition},
        rows::{HoldState, Skip, SkipState},
    },
    simulation::testing::{Call, Fate, Settle},
};

type Skipped = Result<Skip, ServiceError>;

/// Tells the service that a partition is halted by a range.
async fn halted(world: &ServiceWorld, partition: Partition, unread: Option<Unread>) {
    let reason = Some("unreadable: no such codec".to_owned());
    world.publish_halt(partition, reason, unread).await;
    let is_heard = || world.service.waiters.halt(partition).map(|(_, range)| range) == Some(unread);
    world.until(is_heard).await;
}

fn range(from: Offset) -> Unread {
    Unread { from, to: from + 10, other_build: false }
}

async fn skip(world: &ServiceWorld, partition: Partition, offset: Offset) -> Skipped {
    world.service.skip(partition, offset, "a disk was lost".to_owned(), "ada").await
}

#[track_caller]
fn refused(skipped: Skipped) -> (String, Option<CampaignId>, Option<Offset>) {
    match skipped {
        Err(ServiceError::NotSkippable { detail, campaign, offset }) => (detail, campaign, offset),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_range_of_the_halt_is_skipped() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    let end = world.end(partition);
    assert_eq!(skip(&world, 1_000, end).await, Err(ServiceError::UnknownPartition));
    assert!(refused(skip(&world, partition, end).await).0.contains("is not halted"));
    halted(&world, partition, None).await;
    assert!(refused(skip(&world, partition, end).await).0.contains("no range is known"));
    halted(&world, partition, Some(Unread { other_build: true, ..range(end) })).await;
    assert!(refused(skip(&world, partition, end).await).0.contains("another build"));
    halted(&world, partition, Some(range(end))).await;
    for elsewhere in [end - 1, end + 1] {
        let (detail, campaign, offset) = refused(skip(&world, partition, elsewhere).await);
        assert_eq!((campaign, offset), (None, Some(end)), "{detail}");
    }
    let made = skip(&world, partition, end).await.unwrap();
    let (reason, by) = ("a disk was lost".to_owned(), "ada".to_owned());
    let (from, to, state) = (end, end + 10, SkipState::Made);
    assert_eq!(made, Skip { partition, from, to, reason, by, state });
    world.publish(partition, None).await;
    assert_eq!(skip(&world, partition, end).await, Ok(made.clone()), "it is told again");
    world.rows().settle_skip(&made, SkipState::InForce);
    let now = skip(&world, partition, end).await;
    assert_eq!(now, Ok(Skip { state: SkipState::InForce, ..made }));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_not_skipped() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    for user in ["u1", "u2"] {
        world.service.issue(request(&spring, user), None).await.unwrap();
    }
    world.decide(Settle::All).await;
    let coupon = world.rows().coupons[&(spring.clone(), 2)].position.offset;
    let version = world.version(&spring).unwrap();
    halted(&world, partition, Some(range(coupon))).await;
    let (detail, campaign, offset) = refused(skip(&world, partition, coupon).await);
    assert_eq!((campaign, offset), (None, Some(coupon + 1)), "{detail}");
    world.rows().progress.entry(partition).and_modify(|progress| progress.next = coupon);
    let stands = |offset| (Some(spring.clone()), Some(offset));
    let found = async || {
        let (_, campaign, offset) = refused(skip(&world, partition, coupon).await);
        (campaign, offset)
    };
    assert_eq!(found().await, stands(coupon + 1), "the mark lies above");
    let counted = |mark: &mut crate::domain::rows::Mark| {
        mark.offset = coupon;
        mark.counts.issued = 1;
    };
    world.rows().marks.entry(spring.clone()).and_modify(counted);
    assert_eq!(found().await, stands(coupon), "the second coupon lies there");
    world.rows().coupons.remove(&(spring.clone(), 2));
    world.hold(&spring, coupon + 1, HoldState::Open);
    assert_eq!(found().await, stands(coupon + 1), "a hold begins above");
    world.rows().holds.clear();
    world.hold(&spring, coupon, HoldState::Open);
    let (detail, ..) = refused(skip(&world, partition, coupon).await);
    assert!(detail.contains("were told"), "this node has heard the decisions: {detail}");
    world.rows().holds.clear();
    world.rows().marks.clear();
    world.rows().progress.clear();
    halted(&world, partition, Some(range(version))).await;
    let (_, campaign, offset) = refused(skip(&world, partition, version).await);
    assert_eq!((campaign, offset), stands(version), "the version lies there");
}

/// Campaigns of an instance with two partitions.
const MANY: usize = 6_000;

/// Builds a world whose partition is halted, with many campaigns whose marks are read slowly.
async fn with_many(answer_ms: u64) -> (ServiceWorld, Partition, Offset) {
    let world = ServiceWorld::new().await;
    many(&world, MANY, |_| true).await;
    let partition = world.partition_of(&campaign("c00000"));
    let end = world.end(partition);
    (0..MANY).for_each(|_| world.arm(Call::ReadMark, Fate::AnswerSlow { ms: answer_ms }));
    (world, partition, end)
}

/// Skips a range of which the owner says that it halts the partition.
async fn skip_halted(world: &ServiceWorld, partition: Partition, offset: Offset) -> Skipped {
    halted(world, partition, Some(range(offset))).await;
    skip(world, partition, offset).await
}

#[tokio::test(start_paused = true)]
async fn thousands_of_campaigns_are_looked_at_in_one_call() {
    let (world, partition, end) = with_many(30).await;
    let made = skip_halted(&world, partition, end).await.unwrap();
    assert_eq!((made.from, made.state), (end, SkipState::Made));
}

#[tokio::test(start_paused = true)]
async fn a_long_check_goes_on_between_calls() {
    let (world, partition, end) = with_many(150).await;
    for answered in ["the first call", "the second call"] {
        let begun = world.now();
        let refused = skip_halted(&world, partition, end).await;
        let Err(ServiceError::Unavailable { detail }) = refused else { panic!("{refused:?}") };
        assert!(detail.contains("campaigns were looked at"), "{answered}: {detail}");
        assert!(world.now() - begun < Duration::from_secs(5), "{answered} is answered in time");
    }
    assert_eq!(world.rows().skips.len(), 0, "nothing is skipped before all were looked at");
    world.pass(Duration::from_secs(5)).await;
    let reads = world.calls(Call::ReadMark);
    assert!(skip_halted(&world, partition, end).await.is_ok());
    assert!(world.calls(Call::ReadMark) - reads < 1_000, "nobody was looked at again");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_does_not_end_says_so() {
    let (world, partition, end) = with_many(1_000).await;
    let mut details = Vec::new();
    while !details.last().is_some_and(|it: &String| it.contains("in 60 s only")) {
        assert!(world.now() < Duration::from_secs(100), "{details:?}");
        match skip_halted(&world, partition, end).await {
            Err(ServiceError::Unavailable { detail }) => details.push(detail),
            other => panic!("{other:?}"),
        }
    }
    let looked_at = world.calls(Call::ReadMark);
    assert!(skip_halted(&world, partition, end).await.is_err());
    assert!(world.calls(Call::ReadMark) > looked_at, "the next call begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_version_without_a_place_in_the_listing_is_a_row() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    let version = world.version(&spring).unwrap();
    // Its owner died between the two writes.
    world.rows().listing.clear();
    world.rows().marks.clear();
    world.rows().progress.clear();
    let above = Unread { from: version - 1, to: version + 10, other_build: false };
    halted(&world, partition, Some(above)).await;
    let (_, campaign, offset) = refused(skip(&world, partition, version - 1).await);
    assert_eq!((campaign, offset), (Some(spring), Some(version)));
}

#[tokio::test(start_paused = true)]
async fn a_skipped_request_is_pending_and_then_410() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    let reply = world.service.issue(request(&spring, "u1"), None).await.unwrap();
    let at = world.end(partition) - 1;
    let (reason, by, state) = ("lost".to_owned(), "ada".to_owned(), SkipState::Made);
    let made = Skip { partition, from: at, to: at + 1, reason, by, state };
    world.rows().make_skip(&made);
    world.rows().progress.entry(partition).and_modify(|progress| progress.next = at + 1);
    let service = world.another_service().await;
    let found = service.find(&reply.request_id, None, Duration::ZERO).await.unwrap();
    assert!(matches!(found.status, RequestStatus::Pending { .. }), "{found:?}");
    let waiting = {
        let (service, id) = (service.clone(), reply.request_id.clone());
        tokio::spawn(async move { service.find(&id, None, Duration::from_secs(20)).await })
    };
    world.pass(Duration::from_secs(5)).await;
    let (settled, begun) = (SkipState::InForce, world.now());
    world.rows().settle_skip(&made, settled);
    assert_eq!(waiting.await.unwrap(), Err(ServiceError::Skipped));
    assert!(world.now() - begun < Duration::from_secs(2), "a waiter is told soon");
    let found = service.find(&reply.request_id, None, Duration::ZERO).await;
    assert_eq!(found, Err(ServiceError::Skipped));
}
