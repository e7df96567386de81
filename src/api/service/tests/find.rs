//! Lookups by request id, views of campaigns, readiness.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use super::world::{ServiceWorld, campaign, keyed, request, user};
use crate::{
    api::service::{
        CampaignState, FindRequests, IssueCoupons, NodeService, NotReady, ReportHealth,
        RequestStatus, RequestView, ServiceError, ShowCampaigns,
    },
    domain::{
        answer::Answer,
        definition::{Amendment, QUOTA_MAX},
        ids::CampaignId,
        reason::Reason,
        record::{Change, Request},
        rows::HoldState,
    },
    simulation::testing::{Call, Engine, Settle},
};

type Found = Result<RequestView, ServiceError>;

const AT_ONCE: Duration = Duration::ZERO;
const WAIT: Duration = Duration::from_secs(10);

async fn asked(world: &ServiceWorld, request: Request) -> String {
    world.service.issue(request, None).await.unwrap().request_id
}

fn polling(service: &Arc<NodeService>, id: String) -> JoinHandle<Found> {
    let service = service.clone();
    tokio::spawn(async move { service.find(&id, None, WAIT).await })
}

#[track_caller]
fn answer(found: Found) -> Answer {
    match found.unwrap().status {
        RequestStatus::Decided(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn queue_ahead(found: Found) -> u64 {
    match found.unwrap().status {
        RequestStatus::Pending { queue_ahead } => queue_ahead,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_is_answered_from_remembered_decisions() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    let watermark = world.end(partition);
    world.set_end(partition, watermark + 1);
    let id = asked(&world, request(&spring, "u1")).await;
    let holes = world.end(partition) - 1 - watermark;
    assert_eq!(queue_ahead(world.service.find(&id, None, AT_ONCE).await), holes, "a hole counts");
    world.decide(Settle::All).await;
    world.heard().await;
    let found = world.service.find(&id, None, AT_ONCE).await.unwrap();
    assert_eq!((&found.campaign, found.user.as_str()), (&spring, "u1"));
    assert_eq!(told(&answer(Ok(found))), "issued 1");
    assert_eq!(world.calls(Call::ReadCoupons), 0);
}

#[tokio::test(start_paused = true)]
async fn an_id_of_another_user_is_refused_unread() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let id = asked(&world, request(&spring, "u1")).await;
    let find = async |caller: &str| world.service.find(&id, Some(&user(caller)), AT_ONCE).await;
    assert_eq!(find("u2").await, Err(ServiceError::AnotherUser));
    assert!(find("u1").await.is_ok());
    world.decide(Settle::All).await;
    world.heard().await;
    assert_eq!(find("u2").await, Err(ServiceError::AnotherUser), "also once it is decided");
}

#[tokio::test(start_paused = true)]
async fn an_altered_id_is_unknown() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let id = asked(&world, request(&spring, "u1")).await;
    for id in ["", "x", &id[1..], &format!("{id}A")] {
        let found = world.service.find(id, None, AT_ONCE).await;
        assert_eq!(found, Err(ServiceError::UnknownRequest), "{id}");
    }
}

/// Makes one request for each answer that a request can have, in one campaign.
async fn history(world: &ServiceWorld) -> (CampaignId, Vec<String>) {
    let spring = world.defined("spring", |terms| terms.quota = 2).await;
    let mut ids = Vec::new();
    for user in ["u1", "u1", "u2", "u3"] {
        ids.push(asked(world, keyed(&spring, user, &format!("k{}", ids.len()))).await);
    }
    ids.push(asked(world, keyed(&spring, "u1", "k0")).await);
    world.decide(Settle::RowsAlone).await;
    world.changed(&spring, Change::Paused).await;
    ids.push(asked(world, keyed(&spring, "u4", "k")).await);
    world.changed(&spring, Change::Closed).await;
    ids.push(asked(world, keyed(&spring, "u4", "k")).await);
    world.decide(Settle::All).await;
    (spring, ids)
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Issued { coupon } => format!("issued {}", coupon.sequence),
        Answer::AlreadyIssued { coupon } => format!("already {}", coupon.sequence),
        Answer::Rejected { reason } => reason.name().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_node_answers_from_the_store() {
    let world = ServiceWorld::new().await;
    let (_, ids) = history(&world).await;
    let service = world.another_service().await;
    let mut answers = Vec::new();
    for id in &ids {
        answers.push(told(&answer(service.find(id, None, AT_ONCE).await)));
    }
    let expected =
        ["issued 1", "already 1", "issued 2", "sold_out", "issued 1", "paused", "closed"];
    assert_eq!(answers, expected);
    let reads = world.calls(Call::ReadVersions);
    world.pass(Duration::from_secs(100)).await;
    for (id, before) in ids.iter().zip(&answers) {
        assert_eq!(told(&answer(service.find(id, None, WAIT).await)), *before);
    }
    assert_eq!(world.calls(Call::ReadVersions), reads, "history does not change");
}

#[tokio::test(start_paused = true)]
async fn store_and_feed_give_the_same_answer() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    let ids = [
        asked(&world, request(&spring, "u1")).await,
        asked(&world, request(&spring, "u1")).await,
        asked(&world, request(&spring, "u2")).await,
    ];
    world.decide(Settle::All).await;
    world.heard().await;
    let service = world.another_service().await;
    for id in &ids {
        assert_eq!(
            world.service.find(id, None, AT_ONCE).await,
            service.find(id, None, AT_ONCE).await
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_with_the_decision() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let id = asked(&world, request(&spring, "u1")).await;
    let polling = polling(&world.service, id);
    world.waiters(1).await;
    world.decide(Settle::All).await;
    assert_eq!(told(&answer(polling.await.unwrap())), "issued 1");
}

#[tokio::test(start_paused = true)]
async fn a_missing_row_is_no_answer_above_progress() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    let issued = asked(&world, request(&spring, "u1")).await;
    let sold_out = asked(&world, request(&spring, "u2")).await;
    world.decide(Settle::RowsAlone).await;
    let service = world.another_service().await;
    assert_eq!(told(&answer(service.find(&issued, None, AT_ONCE).await)), "issued 1");
    assert!(queue_ahead(service.find(&sold_out, None, AT_ONCE).await) > 0);
    let polling = polling(&service, sold_out);
    world.until(|| service.waiters.waiters() == 1).await;
    world.decide(Settle::FeedLost).await;
    assert_eq!(told(&answer(polling.await.unwrap())), "sold_out");
}

#[tokio::test(start_paused = true)]
async fn a_halted_partition_is_answered_from_the_store() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    let issued = asked(&world, request(&spring, "u1")).await;
    let sold_out = asked(&world, request(&spring, "u2")).await;
    world.decide(Settle::FeedLost).await;
    // It has not heard a watermark, and an owner that is halted tells none.
    let service = world.another_service().await;
    let partition = world.partition_of(&spring);
    let halted = async |reason: &str| {
        world.publish(partition, Some(reason.to_owned())).await;
        world.until(|| service.waiters.lag(partition).is_err()).await;
    };
    halted("unreadable: no such codec").await;
    assert_eq!(told(&answer(service.find(&issued, None, AT_ONCE).await)), "issued 1");
    assert_eq!(told(&answer(service.find(&sold_out, None, AT_ONCE).await)), "sold_out");
    for id in [&issued, &sold_out] {
        halted("unreadable: still").await;
        let before = world.now();
        answer(service.find(id, None, WAIT).await);
        assert_eq!((world.now() - before).as_secs(), 0, "it waits for no silence of the owner");
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_request_stays_pending() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    let before = asked(&world, request(&spring, "u1")).await;
    world.decide(Settle::All).await;
    let from = world.watermark(world.partition_of(&spring));
    world.hold(&spring, from, HoldState::Open);
    let after = asked(&world, request(&spring, "u2")).await;
    world.decide(Settle::FeedLost).await;
    let service = world.another_service().await;
    for state in [HoldState::Open, HoldState::Released] {
        world.hold(&spring, from, state);
        world.pass(Duration::from_secs(2)).await;
        assert_eq!(told(&answer(service.find(&before, None, AT_ONCE).await)), "issued 1");
        assert_eq!(queue_ahead(service.find(&after, None, Duration::from_secs(1)).await), 0);
    }
    world.hold_until(&spring, (from, from), HoldState::Closed);
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(queue_ahead(service.find(&after, None, AT_ONCE).await), 0, "closed below it");
    world.hold(&spring, from, HoldState::Closed);
    assert_eq!(told(&answer(service.find(&after, None, WAIT).await)), "sold_out");
}

#[tokio::test(start_paused = true)]
async fn pollers_read_no_rows_of_a_live_owner() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let id = asked(&world, request(&spring, "u1")).await;
    world.heard().await;
    for _ in 0..100 {
        queue_ahead(world.service.find(&id, None, AT_ONCE).await);
    }
    assert_eq!(world.calls(Call::ReadCoupons), 0);
}

#[tokio::test(start_paused = true)]
async fn waiters_on_a_hold_share_reads() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let mut ids = Vec::new();
    for index in 0..50 {
        ids.push(asked(&world, request(&spring, &format!("u{index}"))).await);
    }
    let from = world.watermark(world.partition_of(&spring));
    world.hold(&spring, from, HoldState::Open);
    world.heard().await;
    let before = world.calls(Call::ReadProgress);
    let polls: Vec<_> = ids.into_iter().map(|id| polling(&world.service, id)).collect();
    world.waiters(50).await;
    world.drop_followers();
    for poll in polls {
        queue_ahead(poll.await.unwrap());
    }
    let reads = world.calls(Call::ReadProgress) - before;
    assert!(reads <= 130, "{reads} reads of a partition in 10 s");
    assert_eq!(world.calls(Call::ReadCoupons), 50, "each looks once");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_there_is_no_guess() {
    let world = ServiceWorld::new().await;
    let (_, ids) = history(&world).await;
    let service = world.another_service().await;
    world.cut(Engine::Store);
    for wait in [AT_ONCE, Duration::from_secs(2)] {
        let found = service.find(&ids[3], None, wait).await;
        assert!(matches!(found, Err(ServiceError::Unavailable { .. })), "{found:?}");
    }
    world.mend(Engine::Store);
    assert_eq!(told(&answer(service.find(&ids[3], None, WAIT).await)), "sold_out");
}

#[tokio::test(start_paused = true)]
async fn an_altered_or_lost_row_is_no_answer() {
    let world = ServiceWorld::new().await;
    let (spring, ids) = history(&world).await;
    let service = world.another_service().await;
    world.damage_coupons(|coupon| coupon.code = "SOMETHING".into());
    let found = service.find(&ids[0], None, AT_ONCE).await;
    assert!(matches!(found, Err(ServiceError::Halted { .. })), "{found:?}");
    let coupons = service.coupons_of(&spring, &user("u1")).await;
    assert!(matches!(coupons, Err(ServiceError::Halted { .. })), "{coupons:?}");
    world.rows().versions.values_mut().next().unwrap().definition.terms.quota = 99;
    let found = world.another_service().await.find(&ids[3], None, AT_ONCE).await;
    assert!(matches!(found, Err(ServiceError::Halted { .. })), "{found:?}");
    world.rows().versions.clear();
    let found = world.another_service().await.find(&ids[3], None, AT_ONCE).await;
    assert!(matches!(found, Err(ServiceError::Halted { .. })), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_by_user_row_is_not_sold_out() {
    let (world, spring) = ServiceWorld::with_spring_of(2).await;
    let mut ids = Vec::new();
    for user in ["u1", "u2", "u3"] {
        ids.push(asked(&world, request(&spring, user)).await);
    }
    world.decide(Settle::All).await;
    let service = world.another_service().await;
    assert_eq!(told(&answer(service.find(&ids[2], None, AT_ONCE).await)), "sold_out");
    let lost: Vec<_> = world.rows().by_user.keys().cloned().collect();
    for (user, key) in ids.iter().zip(lost) {
        let row = world.rows().by_user.remove(&key).unwrap();
        let found = service.find(user, None, AT_ONCE).await;
        assert!(matches!(found, Err(ServiceError::Halted { .. })), "{found:?}");
        world.rows().by_user.insert(key, row);
    }
    assert_eq!(told(&answer(service.find(&ids[2], None, AT_ONCE).await)), "sold_out");
    // Nor is anybody else's request without the coupon that used the quota up.
    world.rows().coupons.remove(&(spring, 2)).unwrap();
    let found = world.another_service().await.find(&ids[2], None, AT_ONCE).await;
    assert!(matches!(found, Err(ServiceError::Halted { .. })), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_view_counts_every_record_below_as_of() {
    let (world, spring) = ServiceWorld::with_spring().await;
    for index in 0..3 {
        asked(&world, request(&spring, &format!("u{index}"))).await;
    }
    world.decide(Settle::All).await;
    world.pass(Duration::from_millis(1_100)).await;
    let view = world.service.campaign(&spring).await.unwrap();
    assert_eq!((view.issued, view.remaining, view.state), (3, 7, CampaignState::Open));
    assert_eq!(view.as_of.offset, world.end(view.as_of.partition));
    let reads = world.calls(Call::ReadVersions);
    for _ in 0..100 {
        world.service.campaign(&spring).await.unwrap();
    }
    assert_eq!(world.calls(Call::ReadVersions), reads, "a second's views share a read");
    let unknown = world.service.campaign(&campaign("summer")).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
    let admin = world.service.admin_view(&spring).await.unwrap();
    assert_eq!((admin.view, admin.actor.state), (view, "live"));
}

#[tokio::test(start_paused = true)]
async fn an_early_amendment_hides_no_coupon() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let nodes = [world.another_service().await, world.another_service().await];
    for node in &nodes {
        node.campaign(&spring).await.unwrap();
    }
    let amendment = Amendment { quota: Some(QUOTA_MAX), ..Amendment::default() };
    world.changed(&spring, Change::Amended { amendment }).await;
    let id = asked(&world, request(&spring, "u1")).await;
    world.decide(Settle::RowsAlone).await;
    let bucket = world.rows().coupons.values().next().unwrap().user_bucket;
    assert_ne!(bucket, 0, "the bucket of the first definition would find the coupon");
    assert_eq!(told(&answer(nodes[0].find(&id, None, WAIT).await)), "issued 1");
    assert_eq!(nodes[1].coupons_of(&spring, &user("u1")).await.unwrap().coupons.len(), 1);
    let amendment = Amendment { quota: Some(1), ..Amendment::default() };
    world.changed(&spring, Change::Amended { amendment }).await;
    let service = world.another_service().await;
    assert_eq!(service.coupons_of(&spring, &user("u1")).await.unwrap().coupons.len(), 1);
    let view = service.campaign(&spring).await.unwrap();
    assert_eq!((view.definition.user_buckets, view.remaining), (16, 0));
}

#[tokio::test(start_paused = true)]
async fn a_users_coupons_come_in_sequence_order() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |terms| terms.per_user_limit = 3).await;
    for user in ["u1", "u2", "u1"] {
        asked(&world, request(&spring, user)).await;
    }
    world.decide(Settle::All).await;
    let sequences = async |id: &str| -> Vec<u32> {
        let coupons = world.service.coupons_of(&spring, &user(id)).await.unwrap();
        coupons.coupons.iter().map(|coupon| coupon.sequence).collect()
    };
    assert_eq!(sequences("u1").await, [1, 3]);
    assert_eq!(sequences("u3").await, [0; 0]);
    let unknown = world.service.coupons_of(&campaign("summer"), &user("u1")).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
}

fn parts(not_ready: Vec<NotReady>) -> Vec<&'static str> {
    not_ready.into_iter().map(|part| part.part).collect()
}

#[tokio::test(start_paused = true)]
async fn unready_parts_are_named_and_recover() {
    let world = ServiceWorld::new().await;
    world.until(|| world.service.not_ready().is_empty()).await;
    world.cut(Engine::Store);
    world.cut(Engine::Log);
    world.cut(Engine::Feed);
    world.drop_followers();
    world.pass(Duration::from_secs(5)).await;
    let all = ["request_log", "coupon_store", "decision_feed"];
    assert_eq!(parts(world.service.not_ready()), all);
    world.mend(Engine::Store);
    world.mend(Engine::Log);
    world.mend(Engine::Feed);
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(world.service.not_ready(), [], "another owner may be about to take over");
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(parts(world.service.not_ready()), ["partitions"]);
    world.heard().await;
    assert_eq!(world.service.not_ready(), []);
    world.service.shut_down().await;
    assert_eq!(parts(world.service.not_ready()), ["decision_feed"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_keeps_the_reason_of_its_position() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.changed(&spring, Change::Paused).await;
    let paused = asked(&world, keyed(&spring, "u1", "k")).await;
    world.changed(&spring, Change::Resumed).await;
    let issued = asked(&world, keyed(&spring, "u1", "k")).await;
    world.decide(Settle::All).await;
    let service = world.another_service().await;
    let rejected = Answer::Rejected { reason: Reason::Paused };
    assert_eq!(answer(service.find(&paused, None, AT_ONCE).await), rejected);
    assert_eq!(told(&answer(service.find(&issued, None, AT_ONCE).await)), "issued 1");
}
