//! The list of campaigns, which is read at most once a second.

use std::time::Duration;

use futures_util::future::join_all;

use super::world::{ServiceWorld, campaign};
use crate::{
    api::service::{Basis, ChangeCampaigns, ControlVerb, ServiceError, ShowCampaigns},
    domain::{
        definition::{Audience, Terms},
        ids::Timestamp,
        rows::Row,
    },
    simulation::testing::{Call, Engine, Settle},
    store::LISTING_MAX,
};

/// Whose key makes the changes.
const BY: &str = "token";

/// Returns the ids of the campaigns that `audience` sees.
async fn listed(world: &ServiceWorld, audience: Audience) -> Vec<String> {
    let list = world.service.campaigns().await.unwrap();
    list.shown_to(audience).map(|view| view.campaign.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn campaigns_are_listed_by_id() {
    let world = ServiceWorld::new().await;
    for id in ["c", "a", "b"] {
        world.defined(id, |_| {}).await;
    }
    assert_eq!(listed(&world, Audience::Public).await, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn the_list_is_longer_than_a_page_of_the_store() {
    let world = ServiceWorld::new().await;
    many(&world, LISTING_MAX + 5, |_| true).await;
    let all = listed(&world, Audience::Public).await;
    assert!(all.len() == LISTING_MAX + 5 && all.is_sorted(), "{}", all.len());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_too_long_ends() {
    for (count, shown) in [(3, 3), (4, 4), (5, 4), (LISTING_MAX + 5, 4)] {
        let world = ServiceWorld::with(|parts| parts.bounds.listed = 4).await;
        many(&world, count, |_| true).await;
        let all = listed(&world, Audience::Public).await;
        assert_eq!(all, ["c00000", "c00001", "c00002", "c00003"][..shown], "{count}");
    }
}

/// Defines `count` campaigns. Those whose number `is_listed` rejects are not listed. The rows of
/// all but the first are written by hand: 10,000 actors would take long.
pub(super) async fn many(world: &ServiceWorld, count: usize, is_listed: impl Fn(usize) -> bool) {
    world.defined("c00000", |terms| (terms.quota, terms.listed) = (1, is_listed(0))).await;
    let mut rows = world.rows();
    let first = rows.versions.values().next().unwrap().clone();
    for index in 1..count {
        let mut version = first.clone();
        version.campaign = campaign(&format!("c{index:05}"));
        version.position.partition = world.partition_of(&version.campaign);
        version.definition.terms.listed = is_listed(index);
        version.digest = world.service.keys.version_digest(&version);
        let mut mark = rows.marks[&first.campaign].clone();
        mark.campaign = version.campaign.clone();
        rows.apply(Row::Mark(mark));
        rows.apply(Row::Version(version));
    }
}

#[tokio::test(start_paused = true)]
async fn the_public_sees_only_what_is_listed() {
    let world = ServiceWorld::new().await;
    many(&world, 450, |index| [3, 210, 440].contains(&index)).await;
    assert_eq!(listed(&world, Audience::Public).await, ["c00003", "c00210", "c00440"]);
    assert_eq!(listed(&world, Audience::Admin).await.len(), 450);
    assert!(world.service.campaign(&campaign("c00000")).await.is_ok(), "its id is enough");
}

#[tokio::test(start_paused = true)]
async fn a_campaign_without_its_rows_costs_the_others_nothing() {
    let world = ServiceWorld::new().await;
    many(&world, 3, |_| true).await;
    let lost = campaign("c00001");
    world.rows().versions.retain(|(id, _), _| *id != lost);
    assert_eq!(listed(&world, Audience::Admin).await, ["c00000", "c00002"]);
    let by_id = world.service.campaign(&lost).await;
    assert!(matches!(by_id, Err(ServiceError::Halted { .. })), "{by_id:?}");
}

#[tokio::test(start_paused = true)]
async fn all_pages_of_a_second_are_cut_from_one_read() {
    let world = ServiceWorld::new().await;
    many(&world, 50, |_| true).await;
    let reads = || world.calls(Call::ReadVersions);
    let before = reads();
    join_all((0..100).map(|_| listed(&world, Audience::Public))).await;
    assert_eq!(reads() - before, 50, "each campaign is read once");
    world.pass(Duration::from_millis(900)).await;
    listed(&world, Audience::Public).await;
    assert_eq!(reads() - before, 50, "the list is not a second old");
    world.pass(Duration::from_millis(101)).await;
    listed(&world, Audience::Public).await;
    assert_eq!(reads() - before, 100);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_ends_no_read() {
    let world = ServiceWorld::new().await;
    many(&world, 5, |_| true).await;
    let before = world.calls(Call::ReadVersions);
    let service = world.service.clone();
    let asking = tokio::spawn(async move { service.campaigns().await.map(|list| list.0.len()) });
    tokio::task::yield_now().await;
    asking.abort();
    assert_eq!(listed(&world, Audience::Public).await.len(), 5);
    assert_eq!(world.calls(Call::ReadVersions) - before, 5);
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_not_repeated_within_a_second() {
    let world = ServiceWorld::new().await;
    world.cut(Engine::Store);
    for _ in 0..3 {
        let failed = world.service.campaigns().await;
        assert!(matches!(failed, Err(ServiceError::Unavailable { .. })), "{failed:?}");
    }
    world.mend(Engine::Store);
    world.pass(Duration::from_millis(1_001)).await;
    assert_eq!(listed(&world, Audience::Public).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_opens_and_closes_between_two_reads() {
    let world = ServiceWorld::new().await;
    let opens_at = world.service.clock.wall().0 + 60_000;
    let window = |terms: &mut Terms| {
        terms.opens_at = Some(Timestamp(opens_at));
        terms.closes_at = Some(Timestamp(opens_at + 500));
    };
    world.defined("spring", window).await;
    let state = async || world.service.campaigns().await.unwrap().0[0].state.name();
    let left = opens_at - world.service.clock.wall().0;
    world.pass(Duration::from_millis(left.unsigned_abs() - 100)).await;
    let reads = world.calls(Call::ReadVersions);
    assert_eq!(state().await, "scheduled");
    world.pass(Duration::from_millis(100)).await;
    assert_eq!(state().await, "open");
    world.pass(Duration::from_millis(500)).await;
    assert_eq!(state().await, "closed");
    assert_eq!(world.calls(Call::ReadVersions) - reads, 1, "it was read once");
}

#[tokio::test(start_paused = true)]
async fn who_has_made_a_change_sees_it_in_the_next_list() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let states = async || -> Vec<&'static str> {
        let list = world.service.campaigns().await.unwrap();
        list.0.iter().map(|view| view.state.name()).collect()
    };
    assert_eq!(states().await, ["open"]);
    let work = world.owner_at_work(Settle::All);
    world.service.control(&spring, ControlVerb::Pause, Basis::InEffect, BY).await.unwrap();
    drop(work);
    assert_eq!(states().await, ["paused"]);
}
