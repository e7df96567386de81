//! Skips: written under lightweight transactions, read like other rows.

use scylla::{
    response::query_result::QueryRowsResult, serialize::row::SerializeRow,
    statement::prepared::PreparedStatement,
};

use super::{
    Cause, Shared,
    read::decoded,
    rows::{BadValue, fit},
};
use crate::{
    domain::{
        ids::{Offset, Partition},
        rows::{Skip, SkipState},
    },
    store::NO_SKIP,
    telemetry::metrics::{self, DatabaseRequest},
};

/// Cells of a skip: from, to, reason, by, state.
type SkipCells<'a> = (i64, i64, &'a str, &'a str, &'a str);

impl Shared {
    /// Reads the skips of a partition in the order of `from`.
    pub(super) async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, Cause> {
        self.read_skips(&self.statements.read_skips, partition).await
    }

    /// Makes a skip unless there is one that begins at the same offset, and returns the stored one.
    pub(super) async fn make_skip(&self, skip: &Skip) -> Result<Skip, Cause> {
        let (from, to) =
            (fit::<i64, _>("from_offset", skip.from)?, fit::<i64, _>("to_offset", skip.to)?);
        let (reason, by) = (skip.reason.as_str(), skip.by.as_str());
        let values = (i32::try_from(skip.partition)?, from, to, reason, by);
        self.transact(&self.statements.make_skip, values, skip).await
    }

    /// Changes the state of a skip that is made, and returns the state that it has then.
    pub(super) async fn settle_skip(
        &self,
        skip: &Skip,
        state: SkipState,
    ) -> Result<SkipState, Cause> {
        let from = fit::<i64, _>("from_offset", skip.from)?;
        let values = (state.name(), i32::try_from(skip.partition)?, from);
        let stored = self.transact(&self.statements.settle_skip, values, skip).await?;
        match stored.state {
            SkipState::Made => Err("the transaction changed nothing".into()),
            state => Ok(state),
        }
    }

    /// Runs a transaction on the row of `skip`, and returns that row as it is then.
    async fn transact(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        skip: &Skip,
    ) -> Result<Skip, Cause> {
        let sent = {
            let _permit = self.writes.acquire(None, 1).await;
            metrics::database_request(DatabaseRequest::Write);
            self.session.execute_unpaged(statement, values).await
        };
        // A failed transaction may have been applied, and another node may have won it. This read
        // ends one that is half done. Its error therefore counts only if nothing was changed.
        let stored = self.read_skips(&self.statements.read_skips_serially, skip.partition).await?;
        let stored = stored.into_iter().find(|stored| stored.from == skip.from);
        match (stored, sent) {
            (Some(stored), Ok(_)) => Ok(stored),
            (Some(stored), Err(_)) if stored.state != SkipState::Made => Ok(stored),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err(NO_SKIP.into()),
        }
    }

    async fn read_skips(
        &self,
        statement: &PreparedStatement,
        partition: Partition,
    ) -> Result<Vec<Skip>, Cause> {
        let values = (i32::try_from(partition)?,);
        let skips = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(decode(partition, cells?)?)))
        };
        Ok(self.read(statement, values, skips).await?.concat())
    }
}

fn decode(
    partition: Partition,
    (from, to, reason, by, state): SkipCells<'_>,
) -> Result<Skip, BadValue> {
    let known = SkipState::ALL.into_iter().find(|known| known.name() == state);
    let state = known.ok_or_else(|| BadValue { column: "state", value: format!("{state:?}") })?;
    let (reason, by) = (reason.to_owned(), by.to_owned());
    let (from, to): (Offset, Offset) = (fit("from_offset", from)?, fit("to_offset", to)?);
    Ok(Skip { partition, from, to, reason, by, state })
}
