//! Checks of the by-user view.

use futures_util::TryStreamExt;

use super::{
    CouponStore, Row, Selection,
    fixtures::{both, campaign, coupon, user},
    read_all, write,
};
use crate::domain::ids::Sequence;

/// Reads the by-user view, where several users share a bucket.
pub async fn a_users_coupons_are_read_in_order(store: &dyn CouponStore) {
    let id = campaign("by-user");
    let users = ["u", "u1", "u-1", "U"].map(user);
    let coupons: Vec<_> = (1..=40_usize)
        .map(|number| {
            let sequence = Sequence::try_from(number).expect("40 fits");
            coupon(&id, sequence, &users[number % users.len()])
        })
        .collect();
    let mut rows = both(&coupons);
    rows.reverse();
    write(store, &rows).await;
    for user in &users {
        let expected: Vec<_> =
            coupons.iter().filter(|coupon| coupon.user == *user).cloned().collect();
        let selection = Selection::OfUsers { users: vec![user.clone()], bucket: 2 };
        assert_eq!(read_all(store, &id, selection).await, expected);
    }
    let some = vec![users[3].clone(), user("nobody"), users[1].clone()];
    let expected = coupons.iter().filter(|it| some.contains(&it.user)).cloned().collect::<Vec<_>>();
    assert_eq!(read_all(store, &id, Selection::OfUsers { users: some, bucket: 2 }).await, expected);
    let found: Vec<_> = store.by_user(&id, 2).try_collect().await.expect("the bucket is read");
    let mut found = found.concat();
    found.sort_by_key(|row| row.sequence);
    for (row, coupon) in found.iter().zip(&coupons) {
        assert_eq!((row.sequence, &row.user), (coupon.sequence, &coupon.user));
        assert!(row.coupon.as_ref().is_none_or(|it| it == coupon), "{row:?} is not {coupon:?}");
    }
    assert_eq!(found.len(), coupons.len());
    let elsewhere: Vec<_> = store.by_user(&id, 3).try_collect().await.expect("nothing is read");
    assert_eq!(elsewhere.concat(), []);
    let elsewhere = Selection::OfUsers { users: vec![users[0].clone()], bucket: 3 };
    assert_eq!(read_all(store, &id, elsewhere).await, vec![]);
}

/// A coupon row is not a by-user row, unless both are one write.
pub async fn the_by_user_view_has_only_its_own_rows(store: &dyn CouponStore) {
    let (id, owner) = (campaign("views"), user("views"));
    let coupon = coupon(&id, 1, &owner);
    let of_user = Selection::OfUsers { users: vec![owner], bucket: 2 };
    write(store, &[Row::Coupon(coupon.clone())]).await;
    let found = read_all(store, &id, of_user.clone()).await;
    assert_eq!(found.len(), usize::from(store.views_are_one()));
    write(store, &[Row::ByUser(coupon.clone())]).await;
    let both = [read_all(store, &id, of_user).await, read_all(store, &id, Selection::All).await];
    assert_eq!(both, [[coupon.clone()], [coupon]]);
}
