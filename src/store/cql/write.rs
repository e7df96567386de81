//! Writes: rows gathered into batches, each of one database partition, all in flight at once.

use futures_util::{StreamExt, stream::FuturesUnordered};
use scylla::{
    serialize::row::SerializeRow,
    statement::{
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
};

use super::{
    Cause, Shared,
    rows::{self, BadValue, BySequence, ByUser},
};
use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        rows::{Hold, Mark, Progress, Row},
    },
    store::StoreError,
};

/// Most bytes of one batch. ScyllaDB warns above 128 KiB; Cassandra refuses above 50 KiB what spans
/// partitions, which no batch here does.
const BATCH_BYTES_MAX: usize = 40 * 1_024;

/// Most rows of one batch; 64 to 200 are alike.
const BATCH_ROWS_MAX: usize = 128;

/// What a row weighs beyond its texts, as a database counts it: about 20 bytes for each of its
/// eleven cells, and the numbers and digests in them.
const ROW_BYTES: usize = 320;

/// Requests of one call that are under way at once; more than this only wait for the store's
/// own bound.
const IN_FLIGHT_PER_CALL: usize = 64;

/// One request to the database.
enum Request<'a> {
    Coupons(View, Vec<&'a Coupon>),
    Version(&'a DefinitionVersion),
    Listing(&'a DefinitionVersion),
    Hold(&'a Hold),
    Mark(&'a Mark),
    Progress(&'a Progress),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    BySequence,
    ByUser,
}

impl View {
    /// The number that makes, with the campaign, the database partition of `coupon`.
    fn bucket(self, coupon: &Coupon) -> u32 {
        match self {
            Self::BySequence => rows::bucket(coupon.sequence),
            Self::ByUser => u32::from(coupon.user_bucket),
        }
    }
}

/// A batch that still takes rows.
struct Gathering<'a> {
    view: View,
    bucket: u32,
    bytes: usize,
    coupons: Vec<&'a Coupon>,
}

impl<'a> Gathering<'a> {
    fn takes(&self, view: View, coupon: &Coupon, bucket: u32) -> bool {
        self.view == view
            && self.bucket == bucket
            && self.coupons.first().is_none_or(|first| first.campaign == coupon.campaign)
    }
}

/// Rows as requests: coupons gathered by database partition, everything else by itself.
fn requests(rows: &[Row]) -> Vec<Request<'_>> {
    let mut requests = Vec::new();
    let mut gathering: Vec<Gathering<'_>> = Vec::new();
    for row in rows {
        match row {
            Row::Coupon(coupon) => {
                for view in [View::BySequence, View::ByUser] {
                    requests.extend(gather(&mut gathering, view, coupon));
                }
            }
            Row::Version(version) => {
                requests.push(Request::Version(version));
                requests.push(Request::Listing(version));
            }
            Row::Hold(hold) => requests.push(Request::Hold(hold)),
            Row::Mark(mark) => requests.push(Request::Mark(mark)),
            Row::Progress(progress) => requests.push(Request::Progress(progress)),
        }
    }
    let rest = gathering.into_iter();
    requests.extend(rest.map(|batch| Request::Coupons(batch.view, batch.coupons)));
    requests
}

/// Adds `coupon` to the batch of its database partition; gives the batch that it did not fit in.
fn gather<'a>(
    gathering: &mut Vec<Gathering<'a>>,
    view: View,
    coupon: &'a Coupon,
) -> Option<Request<'a>> {
    let bucket = view.bucket(coupon);
    let texts = coupon.campaign.as_str().len() + coupon.user.as_str().len() + coupon.code.len();
    let bytes = texts + ROW_BYTES;
    // The rows of a call are of one campaign or a few, in order: the last batches are the likely.
    let found = gathering.iter().rposition(|batch| batch.takes(view, coupon, bucket));
    let Some(batch) = found.map(|index| &mut gathering[index]) else {
        gathering.push(Gathering { view, bucket, bytes, coupons: vec![coupon] });
        return None;
    };
    if batch.coupons.len() < BATCH_ROWS_MAX && batch.bytes + bytes <= BATCH_BYTES_MAX {
        batch.bytes += bytes;
        batch.coupons.push(coupon);
        return None;
    }
    batch.bytes = bytes;
    Some(Request::Coupons(view, std::mem::replace(&mut batch.coupons, vec![coupon])))
}

impl Shared {
    /// Writes rows; one attempt. Every request is waited for, also after one failed: what was sent
    /// can't be taken back.
    pub(super) async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let mut waiting = requests(rows).into_iter();
        let mut under_way = FuturesUnordered::new();
        let mut outcome = Ok(());
        loop {
            let free = IN_FLIGHT_PER_CALL - under_way.len();
            under_way.extend(waiting.by_ref().take(free).map(|request| self.send(request)));
            match under_way.next().await {
                Some(sent) => outcome = outcome.and(sent),
                None => return outcome,
            }
        }
    }

    async fn send(&self, request: Request<'_>) -> Result<(), StoreError> {
        let statements = &self.statements;
        let sent = match &request {
            Request::Coupons(View::BySequence, coupons) => {
                self.send_batch(&statements.coupon, coupons, BySequence::of).await
            }
            Request::Coupons(View::ByUser, coupons) => {
                self.send_batch(&statements.coupon_by_user, coupons, ByUser::of).await
            }
            Request::Version(version) => {
                self.send_row(&statements.version, rows::version(version)).await
            }
            Request::Listing(version) => {
                self.send_row(&statements.campaign, rows::listing(version)).await
            }
            Request::Hold(hold) => self.send_row(&statements.hold, rows::hold(hold)).await,
            Request::Mark(mark) => self.send_row(&statements.mark, rows::mark(mark)).await,
            Request::Progress(progress) => {
                self.send_row(&statements.progress, rows::progress(progress)).await
            }
        };
        sent.map_err(|source| StoreError { operation: request.describe(), source })
    }

    async fn send_row(
        &self,
        statement: &PreparedStatement,
        values: Result<impl SerializeRow, BadValue>,
    ) -> Result<(), Cause> {
        let values = values?;
        let _permit = self.write_permit().await;
        self.session.execute_unpaged(statement, values).await?;
        Ok(())
    }

    async fn send_batch<'a, V>(
        &self,
        statement: &PreparedStatement,
        coupons: &'a [&'a Coupon],
        values: fn(&'a Coupon) -> Result<V, BadValue>,
    ) -> Result<(), Cause>
    where
        V: SerializeRow,
    {
        let values: Vec<V> =
            coupons.iter().map(|coupon| values(coupon)).collect::<Result<_, _>>()?;
        let statements = vec![statement.clone().into(); values.len()];
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        batch.set_execution_profile_handle(Some(self.profiles.write.clone()));
        let _permit = self.write_permit().await;
        self.session.batch(&batch, &values).await?;
        Ok(())
    }
}

impl Request<'_> {
    /// What was attempted, for whoever reads that it failed.
    fn describe(&self) -> String {
        match self {
            Self::Coupons(view, coupons) => {
                let view = match view {
                    View::BySequence => "sequence",
                    View::ByUser => "user",
                };
                let first = coupons.first();
                let campaign = first.map_or("", |coupon| coupon.campaign.as_str());
                let sequence = first.map_or(0, |coupon| coupon.sequence);
                let count = coupons.len();
                format!("writing {count} coupons of {campaign} by {view}, from {sequence} on")
            }
            Self::Version(version) => {
                let DefinitionVersion { campaign, position, .. } = version;
                format!("writing the definition version of {campaign} at {}", position.offset)
            }
            Self::Listing(version) => format!("listing campaign {}", version.campaign),
            Self::Hold(hold) => {
                format!("writing hold {} of {} from {}", hold.number, hold.campaign, hold.from)
            }
            Self::Mark(mark) => format!("writing the mark of {} at {}", mark.campaign, mark.offset),
            Self::Progress(progress) => {
                format!("writing progress {} of partition {}", progress.next, progress.partition)
            }
        }
    }
}
