//! Checks of the port's promises. Every adapter runs them.
//!
//! An adapter calls `coupon_store_contract!(fresh)`, or loops over [`checks`]. `fresh` is an async
//! function that returns a store and a guard, for example a folder, which is dropped after the
//! check. Each check uses its own campaigns and partitions, so checks may share a store and run
//! concurrently. `a_layout_is_created_once` needs a store that has no layout yet.

mod changes;
mod fixtures;
mod known;
pub mod nodes;
mod skips;
mod views;

use futures_util::{TryStreamExt, future::BoxFuture, future::join_all};

use self::fixtures::{both, campaign, coupon, hold, mark, partition, progress, user, version};
pub use self::{
    changes::changes_are_read_by_partition_and_offset,
    known::every_row_of_a_campaign_makes_it_known,
    skips::{a_skip_is_made_once, a_skip_is_settled_once},
    views::{a_users_coupons_are_read_in_order, the_by_user_view_has_only_its_own_rows},
};
use super::{CouponStore, LISTING_MAX, Layout, SEQUENCES_PER_BUCKET, Selection};
use crate::domain::{
    coupon::Coupon,
    ids::{CampaignId, Offset, Partition, Sequence},
    rows::{CampaignRows, Hold, HoldKind, HoldState, PartitionRows, Progress, Register, Row},
};

/// One check of the contract.
pub type Check = for<'a> fn(&'a dyn CouponStore) -> BoxFuture<'a, ()>;

/// Lists the checks by name, and defines the macro that makes a test of each.
macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Returns every check with its name.
        pub fn checks() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), (|store| Box::pin($name(store))) as Check)),+]
        }

        /// Makes a test of every check. `fresh` returns a store and its guard.
        #[allow(unused_macros, reason = "adapters may run the list instead")]
        macro_rules! coupon_store_contract {
            ($fresh:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let (store, guard) = $fresh().await;
                        $crate::store::contract::$name(&*store).await;
                        // The store goes first: its guard may hold its folder.
                        drop((store, guard));
                    }
                )+
            };
        }
        #[allow(unused_imports, reason = "adapters may run the list instead")]
        pub(crate) use coupon_store_contract;
    };
}

checks!(
    a_layout_is_created_once,
    unwritten_rows_read_as_nothing,
    every_field_of_a_row_is_read_back,
    writing_rows_again_changes_nothing,
    coupons_are_paged_in_sequence_order,
    a_bucket_boundary_loses_no_coupon,
    a_users_coupons_are_read_in_order,
    the_by_user_view_has_only_its_own_rows,
    campaigns_with_a_common_prefix_are_apart,
    progress_never_goes_back,
    a_register_never_goes_back,
    a_mark_never_goes_back,
    a_hold_never_goes_back,
    a_closed_hold_is_only_extended,
    a_contradiction_outweighs_a_failure,
    a_campaign_keeps_several_holds,
    a_skip_is_made_once,
    a_skip_is_settled_once,
    versions_are_read_in_offset_order,
    changes_are_read_by_partition_and_offset,
    campaigns_are_listed_by_id,
    a_listing_is_bounded,
    every_row_of_a_campaign_makes_it_known,
    concurrent_writes_keep_every_row,
    an_empty_write_succeeds,
);

async fn write(store: &dyn CouponStore, rows: &[Row]) {
    for rows in rows.chunks(1_000) {
        store.write(rows).await.expect("rows are written");
    }
}

async fn read_all(
    store: &dyn CouponStore,
    campaign: &CampaignId,
    selection: Selection,
) -> Vec<Coupon> {
    let pages: Vec<_> =
        store.coupons(campaign, selection).try_collect().await.expect("pages are read");
    pages.concat()
}

async fn rows_of(store: &dyn CouponStore, campaign: &CampaignId, at: Partition) -> CampaignRows {
    CampaignRows {
        holds: store.campaign_holds(campaign, at).await.expect("the campaign's holds are read"),
        mark: store.mark(campaign).await.expect("the mark is read"),
        versions: store.versions(campaign).await.expect("versions are read"),
        is_only_listed: false,
    }
}

async fn rows_in(store: &dyn CouponStore, at: Partition) -> PartitionRows {
    PartitionRows {
        progress: store.progress(at).await.expect("progress is read"),
        holds_ever: register(store, at).await,
        holds: store.holds(at).await.expect("the partition's holds are read"),
        skips: store.skips(at).await.expect("the partition's skips are read"),
    }
}

async fn register(store: &dyn CouponStore, at: Partition) -> u64 {
    store.register(at, Register::Holds).await.expect("a register is read")
}

/// Eight concurrent callers get the same layout, and so does a later one.
pub async fn a_layout_is_created_once(store: &dyn CouponStore) {
    let proposals: Vec<_> = (0..8)
        .map(|number| {
            let (instance, fingerprint) = (format!("instance-{number}"), format!("f-{number}"));
            let secret = (number % 2 == 0).then(|| format!("secret-{number}"));
            Layout { secret, ..Layout::new(instance, 12, fingerprint) }
        })
        .collect();
    let answers = join_all(proposals.iter().map(|proposed| store.layout(proposed))).await;
    let answers: Vec<_> =
        answers.into_iter().map(|answer| answer.expect("a layout is in force")).collect();
    assert!(proposals.contains(&answers[0]), "{:?} was never proposed", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let later = Layout { instance: "late".to_owned(), partitions: 99, ..proposals[0].clone() };
    assert_eq!(store.layout(&later).await.expect("a layout is in force"), answers[0]);
}

/// Reading rows that do not exist is not an error.
pub async fn unwritten_rows_read_as_nothing(store: &dyn CouponStore) {
    let unknown = campaign("never-written");
    assert_eq!(rows_of(store, &unknown, partition(0)).await, CampaignRows::default());
    assert_eq!(rows_in(store, partition(0)).await, PartitionRows::default());
    assert_eq!(read_all(store, &unknown, Selection::All).await, vec![]);
    let of_user = Selection::OfUsers { users: vec![user("nobody")], bucket: 0 };
    assert_eq!(read_all(store, &unknown, of_user).await, vec![]);
}

/// Covers every field of every kind of row.
pub async fn every_field_of_a_row_is_read_back(store: &dyn CouponStore) {
    let (id, at) = (campaign("whole"), partition(1));
    let coupons = [coupon(&id, 1, &user("!\"#'\\/%?~")), coupon(&id, 2, &user(&"u".repeat(255)))];
    let hold = Hold {
        reason: "it's \"quoted\", two\nlines, and ü".to_owned(),
        ..hold(&id, at, 1, HoldState::Open)
    };
    let mark = mark(&id, 99, 2);
    let version = version(&id, 7);
    write(store, &[Row::Version(version.clone())]).await;
    write(store, &both(&coupons)).await;
    write(store, &[Row::Hold(hold.clone()), Row::Mark(mark.clone())]).await;
    write(store, &[Row::Progress(progress(at, 100))]).await;
    let (holds, versions, mark) = (vec![hold], vec![version], Some(mark));
    let rows = CampaignRows { holds: holds.clone(), mark, versions, is_only_listed: false };
    assert_eq!(rows_of(store, &id, at).await, rows);
    write(store, &[Row::Register(at, Register::Holds, 1)]).await;
    let (progress_row, skips) = (Some(progress(at, 100)), Vec::new());
    let rows = PartitionRows { progress: progress_row, holds_ever: 1, holds, skips };
    assert_eq!(rows_in(store, at).await, rows);
    assert_eq!(read_all(store, &id, Selection::All).await, coupons);
    let of_user = Selection::OfUsers { users: vec![coupons[0].user.clone()], bucket: 2 };
    assert_eq!(read_all(store, &id, of_user).await, coupons[..1]);
    let none = Progress { last: None, ..progress(partition(2), 5) };
    write(store, &[Row::Progress(none.clone())]).await;
    assert_eq!(rows_in(store, partition(2)).await.progress, Some(none));
}

/// A replay or a second owner writes every row again.
pub async fn writing_rows_again_changes_nothing(store: &dyn CouponStore) {
    let (id, at) = (campaign("again"), partition(3));
    let coupons = (1..=50).map(|sequence| coupon(&id, sequence, &user("again")));
    let mut rows = both(&coupons.collect::<Vec<_>>());
    rows.push(Row::Version(version(&id, 1)));
    rows.push(Row::Hold(hold(&id, at, 1, HoldState::Released)));
    rows.push(Row::Mark(mark(&id, 5, 50)));
    rows.push(Row::Progress(progress(at, 6)));
    write(store, &rows).await;
    let once = (
        rows_of(store, &id, at).await,
        rows_in(store, at).await,
        read_all(store, &id, Selection::All).await,
    );
    write(store, &rows).await;
    rows.reverse();
    write(store, &rows).await;
    let thrice = (
        rows_of(store, &id, at).await,
        rows_in(store, at).await,
        read_all(store, &id, Selection::All).await,
    );
    assert_eq!(once, thrice);
    let of_user = Selection::OfUsers { users: vec![user("again")], bucket: 2 };
    assert_eq!(read_all(store, &id, of_user).await, once.2);
}

/// Writes 45,000 coupons out of order. They fill three buckets and many pages.
pub async fn coupons_are_paged_in_sequence_order(store: &dyn CouponStore) {
    const COUPONS: Sequence = 45_000;
    const { assert!(COUPONS > 2 * SEQUENCES_PER_BUCKET) };
    let id = campaign("many");
    let coupons: Vec<_> = (1..=COUPONS)
        .map(|sequence| coupon(&id, sequence, &user(&format!("user-{sequence}"))))
        .collect();
    for chunk in coupons.chunks(1_000).rev() {
        let rows: Vec<_> = chunk.iter().rev().cloned().map(Row::Coupon).collect();
        write(store, &rows).await;
    }
    let pages: Vec<_> =
        store.coupons(&id, Selection::All).try_collect().await.expect("pages are read");
    assert!(pages.len() > 1, "all coupons came in one page");
    assert!(pages.iter().all(|page| !page.is_empty()), "a page is empty");
    let read = pages.concat();
    assert_eq!(read.len(), coupons.len());
    let first_other = read.iter().zip(&coupons).find(|(read, written)| read != written);
    assert_eq!(first_other, None);
    let (first, last) = (SEQUENCES_PER_BUCKET - 2, SEQUENCES_PER_BUCKET + 3);
    let some = read_all(store, &id, Selection::Between { first, last }).await;
    assert_eq!(some, coupons[first as usize - 1..last as usize]);
}

/// Reads sequences around the end of the first bucket, with gaps between them.
pub async fn a_bucket_boundary_loses_no_coupon(store: &dyn CouponStore) {
    let id = campaign("boundary");
    let owner = user("boundary");
    let last = SEQUENCES_PER_BUCKET + 1;
    let wanted = [1, 2, SEQUENCES_PER_BUCKET - 1, SEQUENCES_PER_BUCKET, last];
    for (written, sequence) in (1..).zip(wanted) {
        write(store, &[Row::Coupon(coupon(&id, sequence, &owner))]).await;
        // The store does not check that sequences have no gaps. Recovery does.
        let read = read_all(store, &id, Selection::All).await;
        let read: Vec<_> = read.iter().map(|coupon| coupon.sequence).collect();
        assert_eq!(read, wanted[..written]);
    }
}

/// Campaigns `mix`, `mix-` and `mix0` do not share rows.
pub async fn campaigns_with_a_common_prefix_are_apart(store: &dyn CouponStore) {
    let at = partition(4);
    let ids = ["mix", "mix-", "mix0"].map(campaign);
    for (id, count) in ids.iter().zip(1..) {
        let mut rows = vec![
            Row::Version(version(id, Offset::from(count))),
            Row::Hold(hold(id, at, count, HoldState::Open)),
            Row::Mark(mark(id, Offset::from(count), count)),
        ];
        let coupons = (1..=count).map(|sequence| coupon(id, sequence, &user("mix")));
        rows.extend(both(&coupons.collect::<Vec<_>>()));
        write(store, &rows).await;
    }
    for (id, count) in ids.iter().zip(1..) {
        let rows = rows_of(store, id, at).await;
        assert_eq!(rows.versions, vec![version(id, Offset::from(count))]);
        assert_eq!(rows.holds, vec![hold(id, at, count, HoldState::Open)]);
        assert_eq!(rows.mark.map(|mark| mark.counts.issued), Some(count));
        assert_eq!(read_all(store, id, Selection::All).await.len(), count as usize);
        let of_user = Selection::OfUsers { users: vec![user("mix")], bucket: 2 };
        assert_eq!(read_all(store, id, of_user).await.len(), count as usize);
    }
    assert_eq!(rows_in(store, at).await.holds.len(), ids.len());
}

/// A late owner cannot move progress back, neither within one call nor by a later call.
pub async fn progress_never_goes_back(store: &dyn CouponStore) {
    let at = partition(5);
    for (written, expected) in [(5, 5), (100, 100), (99, 100), (0, 100), (101, 101)] {
        write(store, &[Row::Progress(progress(at, written))]).await;
        assert_eq!(rows_in(store, at).await.progress, Some(progress(at, expected)));
    }
    let late: Vec<_> = [110, 130, 120].map(|next| Row::Progress(progress(at, next))).into();
    write(store, &late).await;
    assert_eq!(rows_in(store, at).await.progress, Some(progress(at, 130)));
    let nexts: Vec<Offset> = (200..232).rev().collect();
    let rows: Vec<_> = nexts.iter().map(|next| [Row::Progress(progress(at, *next))]).collect();
    let written = join_all(rows.iter().map(|rows| store.write(rows))).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    assert_eq!(rows_in(store, at).await.progress, Some(progress(at, 231)));
}

/// A late owner cannot move a register back, and one partition's is not another's.
pub async fn a_register_never_goes_back(store: &dyn CouponStore) {
    let at = partition(8);
    for (written, expected) in [(1, 1), (7, 7), (6, 7), (1, 7), (8, 8)] {
        write(store, &[Row::Register(at, Register::Holds, written)]).await;
        assert_eq!(register(store, at).await, expected);
    }
    let late = [10, 12, 11].map(|number| Row::Register(at, Register::Holds, number));
    write(store, &late).await;
    assert_eq!(register(store, at).await, 12);
    assert_eq!(register(store, partition(9)).await, 0);
}

/// The mark with the higher offset stays. Two marks may have the same count.
pub async fn a_mark_never_goes_back(store: &dyn CouponStore) {
    let (id, at) = (campaign("mark"), partition(6));
    let mark = |offset, issued| mark(&id, offset, issued);
    let steps = [((0, 0), (0, 0)), ((9, 3), (9, 3)), ((4, 1), (9, 3)), ((12, 3), (12, 3))];
    for ((offset, issued), (expected_offset, expected_issued)) in steps {
        write(store, &[Row::Mark(mark(offset, issued))]).await;
        let found = rows_of(store, &id, at).await.mark;
        assert_eq!(found, Some(mark(expected_offset, expected_issued)));
    }
}

/// A hold goes open → released → closed. Writes may skip or repeat states, or come late.
pub async fn a_hold_never_goes_back(store: &dyn CouponStore) {
    use HoldState::{Closed, Open, Released};
    let at = partition(7);
    let orders: [&[HoldState]; 5] = [
        &[Open, Released, Closed],
        &[Closed, Released, Open],
        &[Released, Open, Closed, Open],
        &[Open, Closed, Released],
        &[Open, Open, Released, Released, Open],
    ];
    for (number, order) in orders.iter().enumerate() {
        let id = campaign(&format!("hold-{number}"));
        let mut expected = Open;
        for state in *order {
            expected = expected.max(*state);
            write(store, &[Row::Hold(hold(&id, at, 1, *state))]).await;
            let found = rows_of(store, &id, at).await.holds;
            assert_eq!(found, vec![hold(&id, at, 1, expected)], "after {state:?} of {order:?}");
        }
        let together = campaign(&format!("hold-at-once-{number}"));
        let rows: Vec<_> =
            order.iter().map(|state| Row::Hold(hold(&together, at, 1, *state))).collect();
        write(store, &rows).await;
        assert_eq!(rows_of(store, &together, at).await.holds[0].state, expected);
    }
    assert_eq!(rows_in(store, at).await.holds.len(), 2 * orders.len());
}

/// The highest `until` of a closed hold stays, in any order of writes.
pub async fn a_closed_hold_is_only_extended(store: &dyn CouponStore) {
    let (id, at) = (campaign("hold-extended"), partition(7));
    let mut reached = 0;
    for until in [40, 20, 60, 60, 0] {
        reached = reached.max(until);
        let closed = |until| Hold { until, ..hold(&id, at, 1, HoldState::Closed) };
        write(store, &[Row::Hold(closed(until))]).await;
        write(store, &[Row::Hold(hold(&id, at, 1, HoldState::Released))]).await;
        assert_eq!(rows_of(store, &id, at).await.holds, vec![closed(reached)]);
    }
}

/// Two owners may open one hold for different reasons. Only an operator may end a contradiction.
pub async fn a_contradiction_outweighs_a_failure(store: &dyn CouponStore) {
    use HoldKind::{Contradiction, Failure};
    use HoldState::{Open, Released};
    let (id, at) = (campaign("hold-outweighed"), partition(10));
    // A store that merged two rows cell by cell would mix their reasons.
    let row = |kind, state, reason: &str| Hold {
        kind,
        reason: reason.to_owned(),
        ..hold(&id, at, 1, state)
    };
    let steps = [
        (row(Failure, Open, "z"), row(Failure, Open, "z")),
        (row(Contradiction, Open, "a"), row(Contradiction, Open, "a")),
        (row(Failure, Open, "z"), row(Contradiction, Open, "a")),
        (row(Failure, Released, "b"), row(Failure, Released, "b")),
        (row(Contradiction, Open, "z"), row(Failure, Released, "b")),
    ];
    for (written, in_force) in steps {
        write(store, &[Row::Hold(written.clone())]).await;
        assert_eq!(rows_of(store, &id, at).await.holds, [in_force], "after {written:?}");
    }
}

/// The key of a hold contains `from` and the number. Reads return closed holds too.
pub async fn a_campaign_keeps_several_holds(store: &dyn CouponStore) {
    let (id, at) = (campaign("holds"), partition(8));
    let holds = [
        hold(&id, at, 1, HoldState::Closed),
        hold(&id, at, 2, HoldState::Open),
        Hold { from: 3, kind: HoldKind::Failure, ..hold(&id, at, 3, HoldState::Released) },
    ];
    write(store, &holds.clone().map(Row::Hold)).await;
    for mut found in [rows_of(store, &id, at).await.holds, rows_in(store, at).await.holds] {
        found.sort_by_key(|hold| hold.number);
        assert_eq!(found, holds);
    }
    assert_eq!(rows_in(store, at + 1).await.holds, vec![]);
}

/// Writes versions in any order, and reads them in offset order.
pub async fn versions_are_read_in_offset_order(store: &dyn CouponStore) {
    let (id, at) = (campaign("versions"), partition(20));
    for offset in [256, 3, u64::from(u32::MAX) + 5, 255] {
        write(store, &[Row::Version(version(&id, offset))]).await;
    }
    let expected = [3, 255, 256, u64::from(u32::MAX) + 5].map(|offset| version(&id, offset));
    assert_eq!(rows_of(store, &id, at).await.versions, expected);
}

/// A listing starts after the given id and has at most `limit` ids.
pub async fn campaigns_are_listed_by_id(store: &dyn CouponStore) {
    // Other checks' campaigns sort before `zz-`.
    let before = campaign("zy-before-the-listing");
    let ids: Vec<_> = ["zz-a", "zz-a-", "zz-a0", "zz-aa", "zz-b"].map(campaign).into();
    for id in ids.iter().rev() {
        write(store, &[Row::Version(version(id, 1)), Row::Version(version(id, 2))]).await;
    }
    let list = async |after: &CampaignId, limit| {
        store.campaigns(Some(after), limit).await.expect("campaigns are listed")
    };
    assert_eq!(list(&before, 100).await, ids);
    assert_eq!(list(&before, 2).await, ids[..2]);
    assert_eq!(list(&ids[1], 2).await, ids[2..4]);
    assert_eq!(list(&ids[4], 100).await, vec![]);
    assert_eq!(list(&before, 0).await, vec![]);
    let coupons_alone = campaign("zz-c");
    write(store, &[Row::Coupon(coupon(&coupons_alone, 1, &user("u")))]).await;
    assert_eq!(list(&ids[4], 100).await, vec![], "only a version makes a campaign appear");
}

/// A listing has at most [`LISTING_MAX`] ids, and the next one continues after them.
pub async fn a_listing_is_bounded(store: &dyn CouponStore) {
    let before = campaign("yy");
    let ids: Vec<_> =
        (0..LISTING_MAX + 5).map(|number| campaign(&format!("yy-{number:05}"))).collect();
    let rows: Vec<_> = ids.iter().map(|id| Row::Version(version(id, 1))).collect();
    for rows in rows.chunks(100) {
        write(store, rows).await;
    }
    let first = store.campaigns(Some(&before), usize::MAX).await.expect("campaigns are listed");
    assert_eq!(first, ids[..LISTING_MAX]);
    let rest = store.campaigns(first.last(), 5).await.expect("campaigns are listed");
    assert_eq!(rest, ids[LISTING_MAX..]);
}

/// Sixteen writers write concurrently, two of them to each campaign.
pub async fn concurrent_writes_keep_every_row(store: &dyn CouponStore) {
    const WRITERS: u32 = 16;
    const COUPONS: Sequence = 200;
    let rows: Vec<Vec<_>> = (0..WRITERS)
        .map(|writer| {
            // Two writers for each campaign, with the same rows.
            let id = campaign(&format!("at-once-{}", writer / 2));
            (1..=COUPONS).map(|sequence| Row::Coupon(coupon(&id, sequence, &user("u")))).collect()
        })
        .collect();
    let written = join_all(rows.iter().map(|rows| store.write(rows))).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    for number in 0..WRITERS / 2 {
        let id = campaign(&format!("at-once-{number}"));
        let read = read_all(store, &id, Selection::All).await;
        let expected: Vec<_> =
            (1..=COUPONS).map(|sequence| coupon(&id, sequence, &user("u"))).collect();
        assert_eq!(read, expected);
    }
}

/// An empty list of rows is valid.
pub async fn an_empty_write_succeeds(store: &dyn CouponStore) {
    store.write(&[]).await.expect("nothing is written");
}
