//! Checks of change rows.

use super::{
    fixtures::{campaign, partition, version},
    write,
};
use crate::{
    domain::{
        change::ChangeRow,
        decision::Refusal,
        definition::{Amendment, Definition, Terms},
        ids::{Offset, Partition, Position, Timestamp},
        record::Change,
        rows::{HoldName, Row},
    },
    store::CouponStore,
};

/// Returns a change with every field filled that its kind has.
fn change(at: Partition, offset: Offset, change: Change, refusal: Option<Refusal>) -> ChangeRow {
    let before = version(&campaign("changed"), offset).definition;
    let after = Definition { paused: !before.paused, ..before.clone() };
    ChangeRow {
        campaign: campaign("changed"),
        position: Position { log_epoch: 1, partition: at, offset },
        time: Timestamp(1_760_000_000_123),
        by: "otto@shop".to_owned(),
        retried: offset.is_multiple_of(2),
        change,
        before: (offset > 3).then_some(before),
        after: Some(after),
        refusal,
        digest: [0xBA; 16],
    }
}

async fn read(
    store: &dyn CouponStore,
    at: Partition,
    from: Offset,
    limit: usize,
) -> Vec<ChangeRow> {
    store.changes(at, from, limit).await.expect("changes are read")
}

/// Writes one change of each kind in any order, twice, and reads them from an offset on.
pub async fn changes_are_read_by_partition_and_offset(store: &dyn CouponStore) {
    let at = partition(40);
    let terms = Terms { title: Some("it's \"quoted\", ü".to_owned()), ..Terms::of(5) };
    let amendment = Amendment { quota: Some(7), closes_at: Some(None), ..Amendment::default() };
    let holds = vec![HoldName { from: 3, number: 2 }];
    let far = u64::from(u32::MAX) + 5;
    let rows = [
        change(at, 3, Change::Defined { terms }, None),
        change(
            at,
            255,
            Change::Amended { amendment },
            Some(Refusal::QuotaBelowIssued { issued: 9 }),
        ),
        change(at, 256, Change::Paused, Some(Refusal::StaleVersion)),
        change(at, 257, Change::Resumed, Some(Refusal::Closed)),
        change(at, 258, Change::Closed, Some(Refusal::Invalid)),
        change(at, far, Change::Released { holds }, None),
    ];
    for row in rows.iter().rev().chain(&rows) {
        write(store, &[Row::Change(Box::new(row.clone()))]).await;
    }
    assert_eq!(read(store, at, 0, 100).await, rows);
    assert_eq!(read(store, at, 4, 2).await, rows[1..3]);
    assert_eq!(read(store, at, far, 100).await, rows[5..]);
    assert_eq!(read(store, at, far + 1, 100).await, []);
    assert_eq!(read(store, at, 0, 0).await, []);
    assert_eq!(read(store, at + 1, 0, 100).await, []);
}
