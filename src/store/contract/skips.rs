//! Checks of skips.

use futures_util::future::join_all;

use super::{fixtures::partition, rows_in};
use crate::{
    domain::{
        ids::Partition,
        rows::{Skip, SkipState},
    },
    store::CouponStore,
};

fn skip(partition: Partition, number: u64) -> Skip {
    let (from, to) = (1 << 40, (1 << 40) + number);
    let (reason, by) = (format!("it's \"broken\" ü {number}"), format!("operator-{number}"));
    Skip { partition, from, to, reason, by, state: SkipState::Made }
}

/// Of concurrent skips that begin at one offset the first stays, and every caller gets it.
pub async fn a_skip_is_made_once(store: &dyn CouponStore) {
    let at = partition(30);
    let skips: Vec<Skip> = (1..=4).map(|number| skip(at, number)).collect();
    let made = join_all(skips.iter().map(|skip| store.make_skip(skip))).await;
    // Where transactions contend, one may fail: then it may or may not have been applied.
    let made: Vec<Skip> = made.into_iter().flatten().collect();
    let stored = rows_in(store, at).await.skips;
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert!(skips.contains(&stored[0]), "{stored:?}");
    assert!(!made.is_empty() && made.iter().all(|made| *made == stored[0]), "{made:?}");
    let below = Skip { from: 7, to: 9, ..skips[0].clone() };
    assert_eq!(store.make_skip(&below).await.expect("a skip is made"), below);
    assert_eq!(rows_in(store, at).await.skips, [below, stored[0].clone()], "by their offsets");
    assert_eq!(rows_in(store, partition(31)).await.skips, []);
}

/// A state changes once, also while two owners change it, and a skip that is made again keeps it.
pub async fn a_skip_is_settled_once(store: &dyn CouponStore) {
    for (check, states) in
        [(32, [SkipState::InForce, SkipState::Void]), (33, [SkipState::Void, SkipState::InForce])]
    {
        let skip = skip(partition(check), 5);
        store.make_skip(&skip).await.expect("a skip is made");
        let settled = store.settle_skip(&skip, states[0]).await.expect("it is settled");
        assert_eq!(settled, states[0]);
        let later = store.settle_skip(&skip, states[1]).await.expect("it was settled");
        assert_eq!(later, states[0], "the first change stays");
        let stored = Skip { state: states[0], ..skip.clone() };
        assert_eq!(store.make_skip(&skip).await.expect("there is one"), stored);
        assert_eq!(rows_in(store, partition(check)).await.skips, [stored]);
    }
    let skip = skip(partition(34), 5);
    store.make_skip(&skip).await.expect("a skip is made");
    let both = [SkipState::InForce, SkipState::Void].map(|state| store.settle_skip(&skip, state));
    let settled: Vec<_> = join_all(both).await.into_iter().flatten().collect();
    let stored = rows_in(store, partition(34)).await.skips;
    assert!(!settled.is_empty() && stored[0].state != SkipState::Made, "{settled:?}, {stored:?}");
    assert!(settled.iter().all(|state| *state == stored[0].state), "{settled:?}, {stored:?}");
}
