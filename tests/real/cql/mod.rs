//! The coupon store against a real CQL database.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

pub(super) mod damaged;
mod minority;
pub(super) mod schema;

use std::{collections::HashMap, sync::OnceLock};

use async_trait::async_trait;
use coupond::{
    config::CqlConfig,
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::{Definition, DefinitionVersion, Terms},
        ids::{CampaignId, Offset, Partition, Position, Sequence, Timestamp, UserId},
        rows::{
            Counts, Hold, HoldKind, HoldState, LastRecord, Mark, Progress, Register, Row, Skip,
            SkipState,
        },
    },
    store::{
        ByUserPages, CampaignPages, CouponPages, CouponStore, Layout, SEQUENCES_PER_BUCKET,
        Selection, StoreError, contract,
        cql::{CqlStore, STEPS, connect},
    },
};
use futures_util::{TryStreamExt, future::join_all};
use libtest_mimic::Trial;
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    value::{CqlTimestamp, CqlValue},
};

use crate::{
    engines::{self, Engine},
    trials,
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = trials!(&[Engine::Cql];
        coupons_are_plain_cql,
        other_rows_are_plain_cql,
        a_late_lower_progress_changes_no_cell,
        batches_of_the_longest_rows_are_accepted,
        a_row_above_a_gap_is_still_read,
        a_number_too_large_for_cql_is_an_error,
    );
    trials.push(crate::trial_with_own(
        format!("{}::a_minority_of_the_nodes_may_die", module_path!()),
        Engine::Cql,
        3,
        minority::a_minority_of_the_nodes_may_die,
    ));
    trials.extend(contract::checks().into_iter().map(|(name, check)| {
        let name = format!("{}::contract::{name}", module_path!());
        crate::trial(name, &[Engine::Cql], move || async move { check(&shared().await).await })
    }));
    trials.extend(contract::nodes::checks().into_iter().map(|(name, check)| {
        let name = format!("{}::contract::{name}", module_path!());
        crate::trial(name, &[Engine::Cql], move || async move { check(&shared().await.0).await })
    }));
    trials
}

/// A keyspace that only one test uses.
struct Scratch {
    config: CqlConfig,
    bare: Session,
}

impl Scratch {
    async fn new() -> Self {
        let config = config(engines::unique("cql"));
        let bare = SessionBuilder::new().known_nodes(&config.nodes).build().await.unwrap();
        Self { config, bare }
    }

    async fn with_store() -> (Self, CqlStore) {
        let scratch = Self::new().await;
        let store = connect(&scratch.config).await.unwrap();
        (scratch, store)
    }

    /// Runs a CQL statement, and returns its rows by column. A `$` before a table is replaced by
    /// the keyspace.
    async fn query(&self, text: &str) -> Vec<HashMap<String, CqlValue>> {
        let text = text.replace('$', &format!("{}.", self.config.keyspace));
        let result = self.bare.query_unpaged(text, ()).await.unwrap();
        let Ok(result) = result.into_rows_result() else { return Vec::new() };
        let names: Vec<_> =
            result.column_specs().iter().map(|column| column.name().to_owned()).collect();
        let rows = result.rows::<scylla::value::Row>().unwrap().map(|row| {
            let cells = names.iter().cloned().zip(row.unwrap().columns);
            cells.filter_map(|(name, cell)| Some((name, cell?))).collect()
        });
        rows.collect()
    }

    async fn drop_keyspace(self) {
        let text = format!("DROP KEYSPACE {}", self.config.keyspace);
        self.bare.query_unpaged(text, ()).await.unwrap();
    }
}

fn config(keyspace: String) -> CqlConfig {
    let nodes = engines::shared(Engine::Cql).expect("asked for by the trial").clone();
    CqlConfig { nodes, keyspace, ..CqlConfig::default() }
}

/// Returns the store of a keyspace that tests share. The first caller creates the schema.
async fn shared() -> Patient {
    static KEYSPACE: OnceLock<String> = OnceLock::new();
    let keyspace = KEYSPACE.get_or_init(|| engines::unique("cql_shared"));
    Patient(connect(&config(keyspace.clone())).await.unwrap())
}

/// Limit for the repetition of a write. Restarted database nodes may need this long to see each
/// other.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(150);

/// Pause between two attempts.
const REPEAT_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// A store that repeats failed writes, as the coupon actor does. A database on a busy machine may
/// give up a write, or may not have noticed yet that a node is back.
struct Patient(CqlStore);

#[async_trait]
impl CouponStore for Patient {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        self.0.layout(proposed).await
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.0.write(rows).await {
                Err(error) if tokio::time::Instant::now() < deadline => {
                    println!("repeating: {error}: {:?}", error.source);
                    tokio::time::sleep(REPEAT_EVERY).await;
                }
                ended => return ended,
            }
        }
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        self.0.progress(partition).await
    }

    async fn register(&self, partition: Partition, register: Register) -> Result<u64, StoreError> {
        self.0.register(partition, register).await
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        self.0.holds(partition).await
    }

    async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, StoreError> {
        self.0.skips(partition).await
    }

    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        self.0.make_skip(skip).await
    }

    async fn settle_skip(&self, skip: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        self.0.settle_skip(skip, state).await
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        self.0.campaign_holds(campaign, partition).await
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        self.0.mark(campaign).await
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        self.0.versions(campaign).await
    }

    async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        self.0.changes(partition, from, limit).await
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        self.0.coupons(campaign, selection)
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        self.0.by_user(campaign, bucket)
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        self.0.campaigns(after, limit).await
    }

    async fn listed(&self, campaign: &CampaignId) -> Result<bool, StoreError> {
        self.0.listed(campaign).await
    }

    fn known(&self) -> CampaignPages {
        self.0.known()
    }
}

fn campaign(id: &str) -> CampaignId {
    CampaignId::parse(id).unwrap()
}

fn coupon(campaign: &CampaignId, sequence: Sequence, user: &str) -> Coupon {
    Coupon {
        campaign: campaign.clone(),
        sequence,
        user: UserId::parse(user).unwrap(),
        code: format!("CODE-{sequence:021}").into(),
        issued_at: Timestamp(1_700_000_000_000 + i64::from(sequence)),
        position: Position { log_epoch: 1, partition: 3, offset: u64::from(sequence) * 2 },
        key_digest: sequence.is_multiple_of(2).then_some([7; 16]),
        user_bucket: (sequence % 3) as u8,
        rules_version: 1,
        digest: [sequence as u8; 16],
    }
}

fn coupons(campaign: &CampaignId, sequences: std::ops::RangeInclusive<u32>) -> Vec<Row> {
    sequences
        .map(|sequence| coupon(campaign, sequence, &format!("u{sequence}")))
        .flat_map(|coupon| Row::of_both_views(&coupon))
        .collect()
}

fn version(campaign: &CampaignId, offset: Offset) -> DefinitionVersion {
    let terms = Terms {
        per_user_limit: 1_000,
        opens_at: Some(Timestamp(1_700_000_000_000)),
        title: Some("Frühling".to_owned()),
        listed: false,
        ..Terms::of(100_000_000)
    };
    DefinitionVersion {
        campaign: campaign.clone(),
        position: Position { log_epoch: 1, partition: 3, offset },
        time: Timestamp(1_690_000_000_000),
        definition: Definition::first(terms),
        issued: 12,
        digest: [5; 16],
    }
}

fn progress(partition: Partition, next: Offset, last: Option<LastRecord>) -> Progress {
    Progress { partition, log_epoch: 1, next, last }
}

fn layout(instance: &str) -> Layout {
    Layout::new(instance.to_owned(), 12, "f".to_owned())
}

async fn all(store: &dyn CouponStore, campaign: &CampaignId) -> Vec<Coupon> {
    let pages: Vec<Vec<Coupon>> =
        store.coupons(campaign, Selection::All).try_collect().await.unwrap();
    pages.concat()
}

fn row(cells: &[(&str, CqlValue)]) -> HashMap<String, CqlValue> {
    cells.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn text(value: &str) -> CqlValue {
    CqlValue::Text(value.to_owned())
}

fn blob(byte: u8) -> CqlValue {
    CqlValue::Blob(vec![byte; 16])
}

fn time(millis: i64) -> CqlValue {
    CqlValue::Timestamp(CqlTimestamp(millis))
}

async fn coupons_are_plain_cql() {
    let (scratch, store) = Scratch::with_store().await;
    let given = coupon(&campaign("spring"), 20_002, "ada@example.org");
    store.write(&Row::of_both_views(&given)).await.unwrap();
    let (int, big) = (CqlValue::Int, CqlValue::BigInt);
    let shared = [
        ("campaign_id", text("spring")),
        ("sequence", int(20_002)),
        ("user_id", text("ada@example.org")),
        ("code", text(&given.code)),
        ("issued_at", time(given.issued_at.0)),
        ("log_epoch", int(1)),
        ("partition", int(3)),
        ("offset", big(40_004)),
        ("key_digest", blob(7)),
        ("user_bucket", int(1)),
        ("rules_version", int(1)),
        ("digest", blob(20_002_u32 as u8)),
    ];
    let mut by_sequence = row(&shared);
    by_sequence.insert("bucket".to_owned(), int(1));
    let found = "SELECT * FROM $coupons WHERE campaign_id = 'spring' AND bucket = 1";
    assert_eq!(scratch.query(found).await, [by_sequence]);
    let found = "SELECT * FROM $coupons_by_user WHERE campaign_id = 'spring' AND user_bucket = 1 \
                 AND user_id = 'ada@example.org'";
    assert_eq!(scratch.query(found).await, [row(&shared)]);
    let cells = "SELECT WRITETIME(code) AS coupon FROM $coupons";
    let timestamp = given.issued_at.0 * 1_000 + 4;
    assert_eq!(scratch.query(cells).await[0]["coupon"], big(timestamp));
    scratch.drop_keyspace().await;
}

async fn other_rows_are_plain_cql() {
    let (scratch, store) = Scratch::with_store().await;
    let spring = campaign("spring");
    let hold = Hold {
        campaign: spring.clone(),
        partition: 3,
        from: 9,
        number: 1,
        kind: HoldKind::Contradiction,
        reason: "row 7 is gone".to_owned(),
        state: HoldState::Open,
        until: 0,
    };
    let last = Some(LastRecord { offset: 40_004, digest: [3; 16] });
    let counts = Counts { issued: 20_002, versions: 1, latest: 6 };
    let rows = [
        Row::Version(version(&spring, 6)),
        Row::Hold(hold),
        Row::Mark(Mark { campaign: spring.clone(), offset: 40_005, counts }),
        Row::Progress(progress(3, 40_005, last)),
    ];
    store.write(&rows).await.unwrap();
    store.layout(&Layout { secret: Some("s".into()), ..layout("i") }).await.unwrap();

    let (int, big) = (CqlValue::Int, CqlValue::BigInt);
    let found = scratch.query("SELECT * FROM $definition_versions").await;
    assert_eq!(found[0]["quota"], int(100_000_000));
    assert_eq!(found[0]["offset"], big(6));
    assert_eq!(found[0]["opens_at"], time(1_700_000_000_000));
    assert!(!found[0].contains_key("closes_at"), "a missing value is not bound");
    assert_eq!(found[0]["title"], text("Frühling"));
    assert_eq!(found[0]["listed"], CqlValue::Boolean(false));
    assert_eq!(found[0].len(), 19);
    let found = scratch.query("SELECT campaign_id, kind, reason, state FROM $holds").await;
    let hold = [
        ("campaign_id", text("spring")),
        ("kind", text("contradiction")),
        ("reason", text("row 7 is gone")),
        ("state", text("open")),
    ];
    assert_eq!(found, [row(&hold)]);
    let mark = [
        ("campaign_id", text("spring")),
        ("below_offset", big(40_005)),
        ("issued", int(20_002)),
        ("versions", int(1)),
        ("latest_version", big(6)),
    ];
    assert_eq!(scratch.query("SELECT * FROM $marks").await, [row(&mark)]);
    let progress = [
        ("partition", int(3)),
        ("log_epoch", int(1)),
        ("next_offset", big(40_005)),
        ("last_offset", big(40_004)),
        ("last_digest", blob(3)),
    ];
    assert_eq!(scratch.query("SELECT * FROM $progress").await, [row(&progress)]);
    let listing = scratch.query("SELECT campaign_id FROM $campaigns WHERE listing = 0").await;
    assert_eq!(listing, [row(&[("campaign_id", text("spring"))])]);
    let layout = scratch.query("SELECT * FROM $layout WHERE name = 'layout'").await;
    assert_eq!(layout[0]["partitions"], int(12));
    assert_eq!(scratch.query("SELECT step, name FROM $schema_steps").await.len(), STEPS.len());
    scratch.drop_keyspace().await;
}

async fn a_late_lower_progress_changes_no_cell() {
    let store = shared().await;
    let higher = progress(71, 10, None);
    // At equal timestamps CQL keeps the higher value, which would be this digest.
    let late = progress(71, 7, Some(LastRecord { offset: 6, digest: [255; 16] }));
    for row in [late.clone(), higher.clone(), late, progress(71, 0, None)] {
        store.write(&[Row::Progress(row)]).await.unwrap();
    }
    assert_eq!(store.progress(71).await.unwrap(), Some(higher));
}

async fn batches_of_the_longest_rows_are_accepted() {
    let store = shared().await;
    let longest = campaign(&"c".repeat(64));
    let row = |sequence: u32| {
        let user = format!("{}{sequence:05}", "u".repeat(123));
        let mut coupon = coupon(&longest, sequence, &user);
        coupon.code = format!("{}{sequence:05}", "C".repeat(139)).into();
        coupon.key_digest = Some([1; 16]);
        coupon.user_bucket = 0;
        Row::Coupon(coupon)
    };
    let rows: Vec<Row> = (1..=1_000).map(row).collect();
    store.write(&rows).await.unwrap();
    let found: Vec<Row> = all(&store, &longest).await.into_iter().map(Row::Coupon).collect();
    assert_eq!(found, rows);
}

async fn a_row_above_a_gap_is_still_read() {
    let store = shared().await;
    let hole = campaign("hole");
    let rows = [coupon(&hole, 7, "a"), coupon(&hole, SEQUENCES_PER_BUCKET + 1, "b")];
    store.write(&rows.clone().map(Row::Coupon)).await.unwrap();
    assert_eq!(all(&store, &hole).await, rows);
}

async fn a_number_too_large_for_cql_is_an_error() {
    let store = shared().await.0;
    let error = store.write(&[Row::Progress(progress(73, u64::MAX, None))]).await.unwrap_err();
    assert!(error.to_string().starts_with("writing progress"), "{error}");
}
