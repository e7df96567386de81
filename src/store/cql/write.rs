//! Writes: coupons go in batches, one database partition each. All requests of a call run
//! concurrently.

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
        change::ChangeRow,
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Partition},
        rows::{Hold, Mark, Progress, Register, Row},
    },
    store::StoreError,
    telemetry::metrics::{self, DatabaseRequest},
};

/// Most bytes of one batch. ScyllaDB warns above 128 KiB. Cassandra's limit of 50 KiB applies only
/// to batches of several database partitions.
const BATCH_BYTES_MAX: usize = 40 * 1_024;

/// Most rows of one batch. Between 64 and 200 the number made no difference in measurements.
const BATCH_ROWS_MAX: usize = 128;

/// Bytes of a row without its texts, as the database counts them: about 20 bytes of overhead for
/// each of eleven cells, and the numbers and digests in them.
const ROW_BYTES: usize = 320;

/// Requests of one call in flight. More of them would only wait for the limit of the whole store.
const IN_FLIGHT_PER_CALL: usize = 64;

/// One request to the database.
enum Request<'a> {
    Coupons(View, Vec<&'a Coupon>),
    Version(&'a DefinitionVersion),
    Change(&'a ChangeRow),
    Hold(&'a Hold),
    Mark(&'a Mark),
    Progress(&'a Progress),
    Register(Partition, Register, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    BySequence,
    ByUser,
}

impl View {
    /// Returns the bucket. With the campaign, it is the key of the database partition of `coupon`.
    fn bucket(self, coupon: &Coupon) -> u32 {
        match self {
            Self::BySequence => rows::bucket(coupon.sequence),
            Self::ByUser => u32::from(coupon.user_bucket),
        }
    }
}

/// A batch that is not full yet.
struct OpenBatch<'a> {
    view: View,
    bucket: u32,
    bytes: usize,
    coupons: Vec<&'a Coupon>,
}

impl<'a> OpenBatch<'a> {
    fn accepts(&self, view: View, coupon: &Coupon, bucket: u32) -> bool {
        self.view == view
            && self.bucket == bucket
            && self.coupons.first().is_none_or(|first| first.campaign == coupon.campaign)
    }
}

/// Turns rows into requests. Coupons are batched by database partition; every other row is a
/// request of its own.
fn requests(rows: &[Row]) -> Vec<Request<'_>> {
    let mut requests = Vec::new();
    let mut open: Vec<OpenBatch<'_>> = Vec::new();
    for row in rows {
        match row {
            Row::Coupon(coupon) => {
                requests.extend(add_to_batch(&mut open, View::BySequence, coupon));
            }
            Row::ByUser(coupon) => requests.extend(add_to_batch(&mut open, View::ByUser, coupon)),
            Row::Version(version) => requests.push(Request::Version(version)),
            Row::Change(change) => requests.push(Request::Change(change)),
            Row::Hold(hold) => requests.push(Request::Hold(hold)),
            Row::Mark(mark) => requests.push(Request::Mark(mark)),
            Row::Progress(progress) => requests.push(Request::Progress(progress)),
            Row::Register(partition, register, number) => {
                requests.push(Request::Register(*partition, *register, *number));
            }
        }
    }
    requests.extend(open.into_iter().map(|batch| Request::Coupons(batch.view, batch.coupons)));
    requests
}

/// Adds `coupon` to the batch of its database partition. Returns that batch if it was full and a
/// new one was opened.
fn add_to_batch<'a>(
    open: &mut Vec<OpenBatch<'a>>,
    view: View,
    coupon: &'a Coupon,
) -> Option<Request<'a>> {
    let bucket = view.bucket(coupon);
    let texts = coupon.campaign.as_str().len() + coupon.user.as_str().len() + coupon.code.len();
    let bytes = texts + ROW_BYTES;
    // Rows come in order and from few campaigns, so the batch is usually among the last ones.
    let found = open.iter().rposition(|batch| batch.accepts(view, coupon, bucket));
    let Some(batch) = found.map(|index| &mut open[index]) else {
        open.push(OpenBatch { view, bucket, bytes, coupons: vec![coupon] });
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
    /// Writes rows in one attempt. Returns the first failure, but only after every request has
    /// ended: a sent request cannot be cancelled in the database, and should keep its permit.
    pub(super) async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let mut waiting = requests(rows).into_iter();
        let mut in_flight = FuturesUnordered::new();
        let mut outcome = Ok(());
        loop {
            let free = IN_FLIGHT_PER_CALL - in_flight.len();
            in_flight.extend(waiting.by_ref().take(free).map(|request| self.send(request)));
            match in_flight.next().await {
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
                let of = Some(&version.campaign);
                match self.send_row(of, &statements.version, rows::version(version)).await {
                    // A place in the listing without a version means that the version has vanished.
                    Ok(()) => self.send_row(of, &statements.campaign, rows::listing(version)).await,
                    failed => failed,
                }
            }
            Request::Change(change) => {
                let of = Some(&change.campaign);
                self.send_row(of, &statements.change, rows::change(change)).await
            }
            // The partition waits for these, and each campaign has few of them.
            Request::Hold(hold) => self.send_row(None, &statements.hold, rows::hold(hold)).await,
            Request::Mark(mark) => self.send_row(None, &statements.mark, rows::mark(mark)).await,
            Request::Progress(progress) => {
                self.send_row(None, &statements.progress, rows::progress(progress)).await
            }
            Request::Register(partition, register, number) => {
                let values = rows::register(*partition, *register, *number);
                self.send_row(None, &statements.register, values).await
            }
        };
        sent.map_err(|source| StoreError { operation: request.describe(), source })
    }

    async fn send_row(
        &self,
        of: Option<&CampaignId>,
        statement: &PreparedStatement,
        values: Result<impl SerializeRow, BadValue>,
    ) -> Result<(), Cause> {
        let values = values?;
        let _permit = self.writes.acquire(of, 1).await;
        metrics::database_request(DatabaseRequest::Write);
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
        let of = coupons.first().map(|coupon| &coupon.campaign);
        let _permit = self.writes.acquire(of, 1).await;
        metrics::database_request(DatabaseRequest::Write);
        self.session.batch(&batch, &values).await?;
        Ok(())
    }
}

impl Request<'_> {
    /// Describes the request for an error message.
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
            Self::Change(change) => {
                let ChangeRow { campaign, position, .. } = change;
                format!("writing the change of {campaign} at {}", position.offset)
            }
            Self::Hold(hold) => {
                format!("writing hold {} of {} from {}", hold.number, hold.campaign, hold.from)
            }
            Self::Mark(mark) => format!("writing the mark of {} at {}", mark.campaign, mark.offset),
            Self::Progress(progress) => {
                format!("writing progress {} of partition {}", progress.next, progress.partition)
            }
            Self::Register(partition, register, number) => {
                format!("writing register {} of partition {partition}: {number}", register.name())
            }
        }
    }
}
