//! Lists of changes: of all partitions, in the order of their times, page by page.

use std::collections::BTreeMap;

use super::world::{ServiceWorld, campaign};
use crate::{
    api::service::ListChanges,
    domain::{
        definition::Amendment,
        ids::{CampaignId, Offset, Partition},
        record::{Change, Control, Record},
    },
    simulation::testing::Settle,
};

/// Lists all changes, in pages of `limit`: campaign, kind, who and whether it was refused.
async fn listed(
    world: &ServiceWorld,
    of: Option<&CampaignId>,
    limit: usize,
) -> Vec<(String, String, bool)> {
    let mut all = Vec::new();
    let mut after: BTreeMap<Partition, Offset> = BTreeMap::new();
    loop {
        let page = world.service.changes(of, after, limit).await.unwrap();
        assert!(page.changes.len() <= limit);
        all.extend(
            page.changes
                .iter()
                .map(|it| (it.campaign.to_string(), it.by.clone(), it.refusal.is_some())),
        );
        match page.next {
            Some(next) => after = next,
            None => return all,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_all_campaigns_are_listed_in_their_order() {
    let world = ServiceWorld::new().await;
    for id in ["c", "a", "b"] {
        world.defined(id, |_| {}).await;
    }
    let (a, c) = (campaign("a"), campaign("c"));
    let quota = |quota| Change::Amended {
        amendment: Amendment { quota: Some(quota), ..Amendment::default() },
    };
    for (by, campaign, change) in [
        ("vera", &a, Change::Paused),
        ("otto", &c, quota(3)),
        ("olga", &a, Change::Closed),
        ("token", &a, Change::Resumed),
    ] {
        let based_on = world.version(campaign);
        world.append(&Record::from(Control::once(by, campaign.clone(), based_on, change)));
        world.decide(Settle::All).await;
    }
    let line = |campaign: &str, by: &str, refused| (campaign.to_owned(), by.to_owned(), refused);
    let expected = [
        line("c", "token", false),
        line("a", "token", false),
        line("b", "token", false),
        line("a", "vera", false),
        line("c", "otto", false),
        line("a", "olga", false),
        line("a", "token", true),
    ];
    for limit in [1, 2, 3, 7, 100] {
        assert_eq!(listed(&world, None, limit).await, expected, "{limit}");
        let of_a: Vec<_> = expected.iter().filter(|(of, ..)| of == "a").cloned().collect();
        assert_eq!(listed(&world, Some(&a), limit).await, of_a, "{limit}");
    }
    assert_eq!(listed(&world, Some(&campaign("z")), 5).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_read_in_pieces() {
    let world = ServiceWorld::new().await;
    let long = world.defined("long", |_| {}).await;
    world.defined("other", |_| {}).await;
    for _ in 0..70 {
        world.changed(&long, Change::Paused).await;
    }
    for limit in [9, 64, 65, 1_000] {
        assert_eq!(listed(&world, Some(&long), limit).await.len(), 71, "{limit}");
        assert_eq!(listed(&world, None, limit).await.len(), 72, "{limit}");
    }
}
