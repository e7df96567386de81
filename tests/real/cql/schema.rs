//! The schema on a real CQL database: its creation, its steps, and refused keyspaces.

use std::sync::Arc;

use coupond::{
    config::CqlConfig,
    domain::rows::{Counts, Mark, Row},
    store::{
        CouponStore,
        cql::{
            ConnectError, STEPS, SchemaChange, SetupRefusal, Step, connect, connect_with, inspect,
        },
    },
    wire::format::OtherFormat,
};
use futures_util::future::join_all;
use libtest_mimic::Trial;

use super::{Scratch, all, campaign, coupons, layout, row, text};
use crate::{engines::Engine, trials};

pub(crate) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Cql];
        stores_that_connect_at_once_agree,
        a_partial_schema_is_completed,
        stores_with_and_without_a_step_coexist,
        a_table_with_other_columns_is_refused,
        a_keyspace_of_format_1_is_refused_unchanged,
        a_keyspace_of_another_fold_is_refused_unchanged,
        an_audit_takes_no_schema_step,
        an_unreachable_database_is_not_a_refusal,
    )
}

async fn stores_that_connect_at_once_agree() {
    let scratch = Scratch::new().await;
    let config = Arc::new(scratch.config.clone());
    let nodes = (0..6).map(|number| {
        let config = Arc::clone(&config);
        async move {
            let store = connect(&config).await?;
            let layout = store.layout(&layout(&format!("instance-{number}"))).await;
            Ok::<_, ConnectError>((store, layout.unwrap()))
        }
    });
    let nodes: Vec<_> = join_all(nodes.map(tokio::spawn)).await;
    let nodes: Vec<_> = nodes.into_iter().map(|node| node.unwrap().unwrap()).collect();
    let in_force = &nodes[0].1;
    let spring = campaign("spring");
    for (number, (store, layout)) in (1..).zip(&nodes) {
        assert_eq!(layout, in_force);
        store.write(&coupons(&spring, number..=number)).await.unwrap();
    }
    for (store, _) in &nodes {
        assert_eq!(all(store, &spring).await.len(), nodes.len());
    }
    let steps = scratch.query("SELECT step FROM $schema_steps").await;
    assert_eq!(steps.len(), STEPS.len());
    let lock = scratch.query("SELECT holder FROM $layout WHERE name = 'schema lock'").await;
    assert!(lock.is_empty(), "the lock was released");
    scratch.drop_keyspace().await;
}

async fn a_partial_schema_is_completed() {
    let (scratch, _) = Scratch::with_store().await;
    scratch.query("DROP TABLE $marks").await;
    scratch.query("DELETE FROM $schema_steps WHERE step IN (6, 7, 9)").await;
    scratch
        .query(
            "INSERT INTO $layout (name, holder) VALUES ('schema lock', 'a dead node') \
             USING TTL 2",
        )
        .await;
    let store = connect(&scratch.config).await.unwrap();
    let counts = Counts { issued: 1, versions: 1, latest: 0 };
    let mark = Mark { campaign: campaign("spring"), offset: 1, counts };
    store.write(&[Row::Mark(mark)]).await.unwrap();
    assert_eq!(scratch.query("SELECT step FROM $schema_steps").await.len(), STEPS.len());
    scratch.drop_keyspace().await;
}

async fn stores_with_and_without_a_step_coexist() {
    let (scratch, older) = Scratch::with_store().await;
    let note = SchemaChange::Column { table: "marks", name: "note", cql_type: "text" };
    let number = STEPS[STEPS.len() - 1].number + 1;
    let steps = [STEPS, &[Step { number, change: note }]].concat();
    let of_step = format!("FROM $schema_steps WHERE step = {number}");
    let newer = (0..3).map(|_| connect_with(&scratch.config, &steps));
    let newer: Vec<_> = join_all(newer).await.into_iter().map(Result::unwrap).collect();
    let recorded = scratch.query(&format!("SELECT name {of_step}")).await;
    assert_eq!(recorded, [row(&[("name", text(&format!("{number:03}_marks_note")))])]);
    // As if a node had died after adding the column and before recording the step.
    scratch.query(&format!("DELETE {of_step}")).await;
    let again = connect_with(&scratch.config, &steps).await.unwrap();
    let restarted = connect(&scratch.config).await.unwrap();
    let stores = newer.into_iter().chain([older, again, restarted]);
    for (issued, store) in (1..).zip(stores) {
        let counts = Counts { issued, versions: 1, latest: 0 };
        let mark = Mark { campaign: campaign("spring"), offset: issued.into(), counts };
        store.write(&[Row::Mark(mark.clone())]).await.unwrap();
        assert_eq!(store.mark(&mark.campaign).await.unwrap(), Some(mark));
    }
    scratch.query("UPDATE $marks SET note = 'kept' WHERE campaign_id = 'spring'").await;
    scratch.drop_keyspace().await;
}

async fn a_table_with_other_columns_is_refused() {
    let (scratch, _) = Scratch::with_store().await;
    // A foreign table exists, and the step is not recorded.
    scratch.query("DROP TABLE $marks").await;
    scratch.query("DELETE FROM $schema_steps WHERE step = 7").await;
    scratch.query("CREATE TABLE $marks (campaign_id text PRIMARY KEY, issued text)").await;
    let refused = connect(&scratch.config).await.unwrap_err();
    assert!(refused.is_refusal());
    let message = refused.to_string();
    assert!(message.contains("marks is not as coupond makes it"), "{message}");
    assert!(message.contains("below_offset is missing, expected bigint"), "{message}");
    assert!(message.contains("issued is text, regular, expected int, regular"), "{message}");
    assert_eq!(scratch.query("SELECT step FROM $schema_steps").await.len(), STEPS.len() - 1);
    scratch.drop_keyspace().await;
}

/// Checks that a node and an audit are refused with `expected`, and that tables, layout and
/// recorded steps are unchanged.
async fn refused_unchanged(scratch: &Scratch, expected: OtherFormat) {
    let keyspace = scratch.config.keyspace.clone();
    let expected = SetupRefusal::Format { keyspace, other: expected };
    let rows = async || {
        [
            scratch.query("SELECT * FROM $layout").await,
            scratch.query("SELECT * FROM $schema_steps").await,
        ]
    };
    let tables = format!(
        "SELECT table_name, column_name FROM system_schema.columns WHERE keyspace_name = '{}'",
        scratch.config.keyspace
    );
    let before = (rows().await, scratch.query(&tables).await);
    let node = connect(&scratch.config).await.map(|_| ()).unwrap_err();
    let audit = inspect(&scratch.config).await.map(|_| ()).unwrap_err();
    for refused in [node, audit] {
        assert!(matches!(refused, ConnectError::Refused(refusal) if refusal == expected));
    }
    assert_eq!((rows().await, scratch.query(&tables).await), before);
}

/// The layout table of format 1.
const LAYOUT_OF_FORMAT_1: &str = "CREATE TABLE $layout (name text, instance text, log_epoch int, \
    partitions int, format int, fingerprint text, secret text, holder text, PRIMARY KEY (name))";

async fn a_keyspace_of_format_1_is_refused_unchanged() {
    let (scratch, _) = Scratch::with_store().await;
    scratch.query("DROP TABLE $layout").await;
    scratch.query(LAYOUT_OF_FORMAT_1).await;
    // A missing step must not be taken either.
    scratch.query("DELETE FROM $schema_steps WHERE step = 9").await;
    scratch
        .query(
            "INSERT INTO $layout (name, instance, log_epoch, partitions, format, fingerprint) \
             VALUES ('layout', 'ada', 1, 12, 1, 'f')",
        )
        .await;
    refused_unchanged(&scratch, OtherFormat::Number { found: 1 }).await;
    scratch.drop_keyspace().await;
}

async fn a_keyspace_of_another_fold_is_refused_unchanged() {
    let (scratch, store) = Scratch::with_store().await;
    store.layout(&layout("ada")).await.unwrap();
    scratch.query("UPDATE $layout SET identity_fold = 'upper' WHERE name = 'layout'").await;
    scratch.query("DELETE FROM $schema_steps WHERE step = 9").await;
    refused_unchanged(&scratch, OtherFormat::IdentityFold { found: "upper".to_owned() }).await;
    scratch.drop_keyspace().await;
}

async fn an_audit_takes_no_schema_step() {
    let scratch = Scratch::new().await;
    assert!(inspect(&scratch.config).await.unwrap().is_none(), "there is no keyspace");
    connect(&scratch.config).await.unwrap();
    assert!(inspect(&scratch.config).await.unwrap().is_some());
    scratch.query("DELETE FROM $schema_steps WHERE step = 9").await;
    let refused = inspect(&scratch.config).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("lacks schema step 009_campaigns"), "{refused}");
    scratch.drop_keyspace().await;
}

async fn an_unreachable_database_is_not_a_refusal() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nodes = vec![closed.to_string()];
    let config = CqlConfig { nodes, keyspace: "k".to_owned(), ..CqlConfig::default() };
    let error = connect(&config).await.unwrap_err();
    assert!(!error.is_refusal());
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
    let config = CqlConfig { keyspace: "Not one".to_owned(), ..Scratch::new().await.config };
    assert!(connect(&config).await.unwrap_err().is_refusal());
}
