//! Rows that another client of the database changed.

use super::*;

pub(crate) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Cql]; a_row_with_a_missing_cell_is_unreadable)
}

async fn a_row_with_a_missing_cell_is_unreadable() {
    let (scratch, store) = Scratch::with_store().await;
    let spring = campaign("spring");
    let partition = 3;
    let mut rows = coupons(&spring, 1..=3);
    rows.push(Row::Version(version(&spring, 6)));
    store.write(&rows).await.unwrap();
    store.write(&[Row::Progress(progress(partition, 40_005, None))]).await.unwrap();
    assert!(store.versions(&spring).await.is_ok());

    let key = "campaign_id = 'spring' AND bucket = 0 AND sequence = 2";
    scratch.query(&format!("DELETE code FROM $coupons WHERE {key}")).await;
    let read: Result<Vec<_>, _> = store.coupons(&spring, Selection::All).try_collect().await;
    assert!(read.unwrap_err().is_unreadable());
    scratch.query("DELETE quota FROM $definition_versions WHERE campaign_id = 'spring' AND log_epoch = 1 AND offset = 6").await;
    assert!(store.versions(&spring).await.unwrap_err().is_unreadable());
    scratch
        .query(&format!("DELETE next_offset FROM $progress WHERE partition = {partition}"))
        .await;
    assert!(store.progress(partition).await.unwrap_err().is_unreadable());

    scratch.query("DROP TABLE $coupons").await;
    let read: Result<Vec<_>, _> = store.coupons(&spring, Selection::All).try_collect().await;
    assert!(!read.unwrap_err().is_unreadable(), "a retry may succeed");
    scratch.drop_keyspace().await;
}
