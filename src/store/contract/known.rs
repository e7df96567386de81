//! Checks of which campaigns exist.

use futures_util::TryStreamExt;

use super::{
    CouponStore, Row,
    fixtures::{campaign, mark, version},
    write,
};

/// A campaign is known by its version, by its place in the listing, or by its mark alone.
pub async fn every_row_of_a_campaign_makes_it_known(store: &dyn CouponStore) {
    let [defined, marked, unknown] = ["known-defined", "known-marked", "known-not"].map(campaign);
    let versions = [1, 2].map(|offset| Row::Version(version(&defined, offset)));
    write(store, &versions).await;
    write(store, &[Row::Mark(mark(&marked, 7, 3))]).await;
    let pages: Vec<_> = store.known().try_collect().await.expect("ids are read");
    let known = pages.concat();
    for (id, is_listed, is_known) in
        [(&defined, true, true), (&marked, false, true), (&unknown, false, false)]
    {
        assert_eq!(store.listed(id).await.expect("the listing is read"), is_listed, "{id}");
        assert_eq!(store.exists(id).await.expect("rows are read"), is_known, "{id}");
        assert_eq!(known.contains(id), is_known, "{id}");
    }
}
