//! The upper bound of the coupon store: writes the same rows to the same tables with the bare
//! driver, without decisions, actors, error handling or limits. The product's figures are given as
//! a ratio of this one, measured in the same run.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use coupond::{domain::coupon::Coupon, store::SEQUENCES_PER_BUCKET};
use scylla::{
    client::{PoolSize, session::Session, session_builder::SessionBuilder},
    response::PagingState,
    serialize::row::SerializeRow,
    statement::{
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
    value::{CqlTimestamp, MaybeUnset},
};

/// Rows of a batch: measured best between 64 and 200.
const BATCH_ROWS: usize = 128;

/// Batches in flight, each in both views.
#[allow(dead_code, reason = "a server writes what comes")]
const IN_FLIGHT: usize = 16;

/// Most attempts of a write. After them, the database counts as unavailable.
const REPEATS_MAX: usize = 20;

/// Most buckets read at once.
#[allow(dead_code, reason = "a server reads nothing")]
const BUCKETS_AT_ONCE: usize = 8;

/// Writes and scans coupons with the bare driver.
pub(crate) struct BareCql {
    session: Session,
    by_sequence: PreparedStatement,
    by_user: PreparedStatement,
    mark: PreparedStatement,
    bucket: PreparedStatement,
}

/// What is written of each coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The row by sequence.
    #[allow(dead_code, reason = "for a server")]
    Rows,
    /// The rows of both views.
    Views,
    /// The rows of both views, and a mark of the campaign.
    #[allow(dead_code, reason = "for a server")]
    Marks,
}

impl BareCql {
    /// Connects to a keyspace in which the store has created its tables.
    pub(crate) async fn connect(nodes: &[String], keyspace: &str) -> Arc<Self> {
        let pool = PoolSize::PerHost(NonZeroUsize::new(4).expect("4 is not 0"));
        let session = SessionBuilder::new().known_nodes(nodes).pool_size(pool).build().await;
        let session = session.expect("the database answers");
        let prepare = async |text: String| session.prepare(text).await.expect("the tables exist");
        let by_sequence = prepare(format!(
            "INSERT INTO {keyspace}.coupons (campaign_id, bucket, sequence, user_id, code, \
             issued_at, log_epoch, partition, offset, key_digest, user_bucket, rules_version, \
             digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
        ))
        .await;
        let by_user = prepare(format!(
            "INSERT INTO {keyspace}.coupons_by_user (campaign_id, user_bucket, user_id, sequence, \
             code, issued_at, log_epoch, partition, offset, key_digest, rules_version, digest) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
        ))
        .await;
        let mark = prepare(format!(
            "INSERT INTO {keyspace}.marks (campaign_id, below_offset, issued, versions, \
             latest_version) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
        ))
        .await;
        let mut bucket = prepare(format!(
            "SELECT sequence, user_id, code, issued_at, log_epoch, partition, offset, key_digest, \
             user_bucket, rules_version, digest FROM {keyspace}.coupons \
             WHERE campaign_id = ? AND bucket = ?"
        ))
        .await;
        bucket.set_page_size(5_000);
        Arc::new(Self { session, by_sequence, by_user, mark, bucket })
    }

    /// Writes dense coupons of one campaign in one user bucket, in the order of sequences.
    #[allow(dead_code, reason = "a server writes what comes")]
    pub(crate) async fn write(self: &Arc<Self>, coupons: &Arc<Vec<Coupon>>) {
        let batches = batches_of(coupons);
        let batches: Vec<_> =
            batches.map(|batch| (batch[0].sequence as usize - 1, batch.len())).collect();
        let (batches, next) = (Arc::new(batches), Arc::new(AtomicUsize::new(0)));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (bare, coupons) = (Arc::clone(self), Arc::clone(coupons));
            let (batches, next) = (Arc::clone(&batches), Arc::clone(&next));
            workers.spawn(async move {
                let first = coupons.first().map_or(1, |coupon| coupon.sequence as usize) - 1;
                while let Some((from, rows)) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    bare.write_batch(&coupons[from - first..][..*rows], Form::Views).await;
                }
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker.expect("a worker ends well");
        }
    }

    /// Writes coupons of one bucket.
    pub(crate) async fn write_batch(&self, coupons: &[Coupon], form: Form) {
        let key = |coupon: &Coupon| MaybeUnset::from_option(coupon.key_digest.map(Vec::from));
        let big = |number: u64| i64::try_from(number).expect("offsets are small here");
        let int = |number: u32| i32::try_from(number).expect("numbers are small here");
        let timestamp =
            |coupon: &Coupon| coupon.issued_at.0 * 1_000 + big(coupon.position.offset % 1_000);
        let by_sequence: Vec<_> = coupons
            .iter()
            .map(|coupon| {
                (
                    coupon.campaign.as_str(),
                    int(bucket_of(coupon)),
                    int(coupon.sequence),
                    coupon.user.as_str(),
                    &*coupon.code,
                    CqlTimestamp(coupon.issued_at.0),
                    int(coupon.position.log_epoch),
                    int(coupon.position.partition),
                    big(coupon.position.offset),
                    key(coupon),
                    i32::from(coupon.user_bucket),
                    i32::from(coupon.rules_version),
                    &coupon.digest[..],
                    timestamp(coupon),
                )
            })
            .collect();
        let by_user: Vec<_> = coupons
            .iter()
            .map(|coupon| {
                (
                    coupon.campaign.as_str(),
                    i32::from(coupon.user_bucket),
                    coupon.user.as_str(),
                    int(coupon.sequence),
                    &*coupon.code,
                    CqlTimestamp(coupon.issued_at.0),
                    int(coupon.position.log_epoch),
                    int(coupon.position.partition),
                    big(coupon.position.offset),
                    key(coupon),
                    i32::from(coupon.rules_version),
                    &coupon.digest[..],
                    timestamp(coupon),
                )
            })
            .collect();
        let batch = |statement: &PreparedStatement| {
            let statements = vec![statement.clone().into(); coupons.len()];
            Batch::new_with_statements(BatchType::Unlogged, statements)
        };
        let by_sequence_batch = batch(&self.by_sequence);
        let users = async {
            if form != Form::Rows {
                self.repeat(&batch(&self.by_user), &by_user).await;
            }
        };
        let mark = async {
            if form == Form::Marks
                && let Some(last) = coupons.last()
            {
                let offset = big(last.position.offset);
                let values =
                    (last.campaign.as_str(), offset, int(last.sequence), 1, 0_i64, timestamp(last));
                self.session.execute_unpaged(&self.mark, values).await.expect("a mark is written");
            }
        };
        tokio::join!(self.repeat(&by_sequence_batch, &by_sequence), users, mark);
    }

    /// A database on a slow disk sometimes times out a write, whichever client sends it.
    async fn repeat<V: SerializeRow>(&self, batch: &Batch, values: &Vec<V>) {
        for _ in 0..REPEATS_MAX {
            match self.session.batch(batch, values).await {
                Ok(_) => return,
                Err(error) => println!("repeating a bare batch: {error}"),
            }
        }
        panic!("a batch was not written in {REPEATS_MAX} attempts");
    }

    #[allow(dead_code, reason = "a server reads nothing")]
    /// Reads the coupon rows of a campaign's first `buckets` buckets in no order, decoding every
    /// column, and counts them.
    pub(crate) async fn scan(self: &Arc<Self>, campaign: &str, buckets: u32) -> usize {
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..BUCKETS_AT_ONCE {
            let (bare, next, campaign) = (Arc::clone(self), Arc::clone(&next), campaign.to_owned());
            workers.spawn(async move {
                let mut rows = 0;
                loop {
                    let bucket = next.fetch_add(1, Ordering::Relaxed);
                    if bucket >= buckets as usize {
                        return rows;
                    }
                    rows += bare.scan_bucket(&campaign, bucket).await;
                }
            });
        }
        let mut rows = 0;
        while let Some(worker) = workers.join_next().await {
            rows += worker.expect("a worker ends well");
        }
        rows
    }

    #[allow(dead_code, reason = "a server reads nothing")]
    async fn scan_bucket(&self, campaign: &str, bucket: usize) -> usize {
        type Cells =
            (i32, String, String, CqlTimestamp, i32, i32, i64, Option<Vec<u8>>, i32, i32, Vec<u8>);
        let values = (campaign, i32::try_from(bucket).expect("few buckets"));
        let (mut state, mut count) = (PagingState::start(), 0);
        loop {
            let page = self.session.execute_single_page(&self.bucket, values, state).await;
            let (page, next) = page.expect("a page is read");
            let page = page.into_rows_result().expect("rows");
            for row in page.rows::<Cells>().expect("the columns are as prepared") {
                std::hint::black_box(row.expect("a row is decoded"));
                count += 1;
            }
            match next.into_paging_control_flow() {
                std::ops::ControlFlow::Break(()) => return count,
                std::ops::ControlFlow::Continue(next) => state = next,
            }
        }
    }
}

/// Cuts coupons of one campaign, in the order of sequences, into batches of one bucket each.
pub(crate) fn batches_of(coupons: &[Coupon]) -> impl Iterator<Item = &[Coupon]> {
    let buckets = coupons.chunk_by(|one, next| bucket_of(one) == bucket_of(next));
    buckets.flat_map(|bucket| bucket.chunks(BATCH_ROWS))
}

fn bucket_of(coupon: &Coupon) -> u32 {
    (coupon.sequence - 1) / SEQUENCES_PER_BUCKET
}
