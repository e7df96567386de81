//! The list of campaigns: pages of one list, which is read at most once a second.

use std::time::Duration;

use futures_util::future::join_all;

use super::world::{ServiceWorld, campaign};
use crate::{
    api::service::{CampaignView, ChangeCampaigns, ControlVerb, ServiceError, ShowCampaigns},
    domain::{definition::Audience, ids::CampaignId, rows::Row},
    simulation::testing::{Call, Engine},
    store::LISTING_MAX,
};

/// A page of campaigns, and whether more follow.
type Page = (Vec<CampaignView>, bool);

async fn page(
    world: &ServiceWorld,
    audience: Audience,
    after: Option<&CampaignId>,
    limit: usize,
) -> Result<Page, ServiceError> {
    let list = world.service.campaigns().await?;
    let (page, has_more) = list.page(audience, after, limit);
    Ok((page.into_iter().map(|at| list.0[at].clone()).collect(), has_more))
}

async fn public_page(world: &ServiceWorld, after: Option<&CampaignId>, limit: usize) -> Page {
    page(world, Audience::Public, after, limit).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn campaigns_are_listed_by_id_page_by_page() {
    let world = ServiceWorld::new().await;
    for id in ["c", "a", "b"] {
        world.defined(id, |_| {}).await;
    }
    let ids = |(views, has_more): Page| -> (Vec<String>, bool) {
        (views.into_iter().map(|view| view.campaign.to_string()).collect(), has_more)
    };
    let first = ids(public_page(&world, None, 2).await);
    assert_eq!(first, (vec!["a".to_owned(), "b".to_owned()], true));
    let after = campaign("b");
    let rest = ids(public_page(&world, Some(&after), 2).await);
    assert_eq!(rest, (vec!["c".to_owned()], false));
}

#[tokio::test(start_paused = true)]
async fn a_full_page_says_that_another_follows() {
    let world = ServiceWorld::new().await;
    many(&world, LISTING_MAX + 5, |_| true).await;
    let (first, has_more) = public_page(&world, None, LISTING_MAX).await;
    assert_eq!((first.len(), has_more), (LISTING_MAX, true));
    assert!(first.is_sorted_by(|one, next| one.campaign < next.campaign));
    let last = &first[LISTING_MAX - 1].campaign;
    let (rest, has_more) = public_page(&world, Some(last), LISTING_MAX).await;
    assert_eq!((rest.len(), has_more), (5, false));
}

/// Defines `count` campaigns. Those whose number `is_listed` rejects are not listed. The rows of
/// all but the first are written by hand: 10,000 actors would take long.
async fn many(world: &ServiceWorld, count: usize, is_listed: impl Fn(usize) -> bool) {
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
async fn the_public_list_passes_unlisted_campaigns() {
    let world = ServiceWorld::new().await;
    many(&world, 450, |index| [3, 210, 440].contains(&index)).await;
    let mut shown = Vec::new();
    let mut after = None;
    loop {
        let (views, has_more) = public_page(&world, after.as_ref(), 1).await;
        assert_eq!(views.len(), 1);
        after = views.last().map(|view| view.campaign.clone());
        shown.extend(after.as_ref().map(ToString::to_string));
        if !has_more {
            break;
        }
    }
    assert_eq!(shown, ["c00003", "c00210", "c00440"]);
    let (all, has_more) = page(&world, Audience::Admin, None, LISTING_MAX).await.unwrap();
    assert_eq!((all.len(), has_more), (450, false));
    assert!(world.service.campaign(&campaign("c00000")).await.is_ok(), "its id is enough");
}

#[tokio::test(start_paused = true)]
async fn a_list_without_a_listed_campaign_is_empty() {
    let world = ServiceWorld::new().await;
    many(&world, 10_200, |index| index == 10_150).await;
    let (first, has_more) = public_page(&world, None, 1).await;
    assert_eq!((first.len(), has_more), (1, false), "behind 10,000 that are not listed");
    assert_eq!(public_page(&world, Some(&first[0].campaign), 1).await, (Vec::new(), false));
}

#[tokio::test(start_paused = true)]
async fn all_pages_of_a_second_are_cut_from_one_read() {
    let world = ServiceWorld::new().await;
    many(&world, 50, |_| true).await;
    let reads = || world.calls(Call::ReadVersions);
    let before = reads();
    let pages = (0..100).map(|number| {
        let after = campaign(&format!("c{:05}", number % 50));
        let world = &world;
        async move { public_page(world, Some(&after), 1 + number % 7).await }
    });
    join_all(pages).await;
    assert_eq!(reads() - before, 50, "each campaign is read once");
    world.pass(Duration::from_millis(900)).await;
    public_page(&world, None, 1_000).await;
    assert_eq!(reads() - before, 50, "the list is not a second old");
    world.pass(Duration::from_millis(101)).await;
    public_page(&world, None, 1_000).await;
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
    assert_eq!(public_page(&world, None, 9).await.0.len(), 5);
    assert_eq!(world.calls(Call::ReadVersions) - before, 5);
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_not_repeated_within_a_second() {
    let world = ServiceWorld::new().await;
    world.cut(Engine::Store);
    for _ in 0..3 {
        let failed = page(&world, Audience::Public, None, 1).await;
        assert!(matches!(failed, Err(ServiceError::Unavailable { .. })), "{failed:?}");
    }
    world.mend(Engine::Store);
    world.pass(Duration::from_millis(1_001)).await;
    assert_eq!(public_page(&world, None, 1).await, (Vec::new(), false));
}

#[tokio::test(start_paused = true)]
async fn who_has_made_a_change_sees_it_in_the_next_list() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let states = async || -> Vec<&str> {
        let (views, _) = public_page(&world, None, 9).await;
        views.iter().map(|view| view.state.name()).collect()
    };
    assert_eq!(states().await, ["open"]);
    let work = world.owner_at_work(crate::simulation::testing::Settle::All);
    world.service.control(&spring, ControlVerb::Pause).await.unwrap();
    drop(work);
    assert_eq!(states().await, ["paused"]);
}
