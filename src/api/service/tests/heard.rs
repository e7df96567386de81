//! What a node has heard over the feed: its views count it, and its answers fit the request.

use std::time::Duration;

use super::world::{ServiceWorld, keyed, request};
use crate::{
    api::service::{
        Basis, CampaignState, CampaignView, ChangeCampaigns, ControlVerb, FindRequests,
        IssueCoupons, RequestStatus, ShowCampaigns,
    },
    domain::{
        answer::Answer,
        decision::{Decision, Held},
        definition::Amendment,
        ids::{CampaignId, Timestamp},
        reason::Reason,
        record::Change,
    },
    simulation::testing::{Call, Settle},
    wire::feed_message::FeedDecision,
};

/// Whose key makes the changes.
const BY: &str = "token";

const WAIT: Option<Duration> = Some(Duration::from_secs(5));

/// Asks for a coupon and lets the owner decide. Returns the answer.
async fn answered(world: &ServiceWorld, campaign: &CampaignId, user: &str) -> Answer {
    let asking = world.asking(request(campaign, user), WAIT);
    world.waiters(1).await;
    world.decide(Settle::All).await;
    asking.await.unwrap().unwrap().answer.expect("it is decided")
}

/// Returns the view of a campaign, which is the same wherever it is shown.
async fn shown(world: &ServiceWorld, campaign: &CampaignId) -> CampaignView {
    let view = world.service.campaign(campaign).await.unwrap();
    let list = world.service.campaigns().await.unwrap();
    let listed = list.view(campaign).unwrap();
    let fresh = world.service.freshen()(listed);
    assert_eq!(fresh.as_ref().unwrap_or(listed), &view);
    view
}

#[tokio::test(start_paused = true)]
async fn views_count_what_the_node_has_told() {
    let (world, spring) = ServiceWorld::with_spring_of(2).await;
    assert_eq!(shown(&world, &spring).await.issued, 0);
    let reads = world.calls(Call::ReadVersions);
    assert!(matches!(answered(&world, &spring, "u1").await, Answer::Issued { .. }));
    let view = shown(&world, &spring).await;
    assert_eq!((view.issued, view.remaining, view.state), (1, 1, CampaignState::Open));
    assert_eq!(view.as_of.offset, world.end(view.as_of.partition));
    assert!(matches!(answered(&world, &spring, "u2").await, Answer::Issued { .. }));
    let view = shown(&world, &spring).await;
    let sold_out = CampaignState::Shut(Reason::SoldOut);
    assert_eq!((view.issued, view.remaining, view.state), (2, 0, sold_out));
    assert_eq!(world.calls(Call::ReadVersions), reads, "it was heard, and not read");
    assert_eq!(world.service.admin_view(&spring).await.unwrap().view, view);
}

#[tokio::test(start_paused = true)]
async fn a_heard_figure_is_shown_with_its_version() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    assert_eq!(shown(&world, &spring).await.remaining, 1);
    let amendment = Amendment { quota: Some(5), ..Amendment::default() };
    world.changed(&spring, Change::Amended { amendment }).await;
    for user in ["u1", "u2", "u3"] {
        let asked = request(&spring, user);
        world.service.issue(asked, None).await.unwrap();
    }
    world.decide(Settle::All).await;
    world.heard().await;
    let view = shown(&world, &spring).await;
    assert_eq!((view.definition.terms.quota, view.issued, view.remaining), (5, 3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_repeated_coupon_is_no_figure() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    for (user, key) in [("u1", "k1"), ("u2", "k2"), ("u1", "k1"), ("u2", "k3")] {
        world.service.issue(keyed(&spring, user, key), None).await.unwrap();
        world.decide(Settle::All).await;
    }
    let messages = world.messages(partition);
    let highest = messages.iter().flat_map(|message| {
        message.campaigns.iter().filter_map(|news| message.highest(news)).map(|it| it.0)
    });
    assert_eq!(highest.collect::<Vec<_>>(), [1, 2], "the third and the fourth issue nothing");
    let last = messages.iter().rev().find_map(|message| message.campaigns.first());
    assert_eq!(last.unwrap().tally.0, [3, 1, 0, 0, 0, 0], "since the generation began");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_holder_is_answered_from_rows_in_time() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |terms| terms.per_user_limit = 2).await;
    world.heard().await;
    assert!(matches!(answered(&world, &spring, "u1").await, Answer::Issued { .. }));
    world.changed(&spring, Change::Paused).await;
    let rejected = Answer::Rejected { reason: Reason::Paused };
    let reads = world.calls(Call::ReadCoupons);
    assert_eq!(answered(&world, &spring, "u2").await, rejected, "who holds none is told at once");
    assert_eq!(world.calls(Call::ReadCoupons), reads);
    assert_eq!(answered(&world, &spring, "u1").await, rejected);
    assert!(world.calls(Call::ReadCoupons) > reads);
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_does_not_fit_is_not_told() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    let id = world.service.issue(request(&spring, "u1"), None).await.unwrap().request_id;
    world.decide(Settle::All).await;
    let other = world.another_service().await;
    let messages = world.messages(partition);
    let mut forged = messages.iter().rfind(|it| !it.decisions.is_empty()).unwrap().clone();
    forged.sender.generation += 1;
    let held = Held { sequence: 9, issued_at: Timestamp(1) };
    let told = &mut forged.decisions[0];
    *told = FeedDecision { decision: Decision::Issued(held), check: !told.check, ..*told };
    let offset = told.offset;
    world.deliver(forged).await;
    world.until(|| other.waiters.decision(partition, offset).is_some()).await;
    let found = other.find(&id, None, Duration::ZERO).await.unwrap();
    let RequestStatus::Decided(Answer::Issued { coupon }) = found.status else { panic!() };
    assert_eq!(coupon.sequence, 1, "the store was asked");
}

#[tokio::test(start_paused = true)]
async fn a_change_shows_at_once_on_a_node_that_heard() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let other = world.another_service().await;
    assert_eq!(other.campaign(&spring).await.unwrap().state, CampaignState::Open);
    let _work = world.owner_at_work(Settle::All);
    world.service.control(&spring, ControlVerb::Pause, Basis::InEffect, BY).await.unwrap();
    let version = world.version(&spring);
    world.until(|| other.campaigns.heard(&spring).map(|it| it.version) == version).await;
    let paused = CampaignState::Shut(Reason::Paused);
    assert_eq!(other.campaign(&spring).await.unwrap().state, paused);
}
