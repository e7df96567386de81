//! Takes the schema steps that a keyspace lacks, and refuses a keyspace that does not fit.
//!
//! Two nodes must not change the schema at the same time: concurrent changes corrupt tables. So
//! the keyspace and the first table are created with `IF NOT EXISTS` through one coordinator, and
//! nothing is written before all database nodes agree on the schema. Later steps are taken under a
//! lock in the first table, which is a lease.
//!
//! A step is idempotent, and recorded only after its table was checked. So if a node dies in a
//! step, the next node takes that step again.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use scylla::{
    client::session::Session, deserialize::value::DeserializeValue, statement::Consistency,
};
use tokio::time::Instant;

use super::{
    error::{ConnectError, SetupRefusal},
    session::{self, Placement},
    setup::Setup,
    steps::{Column, Columns, SchemaChange, Step, tables_after},
};
use crate::{
    config::CqlConfig,
    domain::keys::hex,
    wire::format::{check_identity_fold, check_number},
};

/// Lifetime of the lock, in seconds. Longer than one step and its schema agreement take on a
/// healthy cluster.
const LEASE_S: u32 = 30;

/// Longest wait for another node's steps: three leases, so that the lock of a node that died has
/// expired.
const LOCK_PATIENCE: Duration = Duration::from_secs(90);

/// Pause between two attempts to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// Age of the lease above which it is renewed before the next step.
const RENEW_AFTER: Duration = Duration::from_secs(LEASE_S as u64 / 3);

const LOCK: &str = "schema lock";

/// Sets up one keyspace.
pub(super) struct Schema<'a> {
    setup: Setup<'a>,
    config: &'a CqlConfig,
    /// The steps that this node knows, in order.
    steps: &'a [Step],
    /// Random name under which this node holds the lock.
    holder: String,
}

impl<'a> Schema<'a> {
    pub(super) fn new(
        session: &'a Session,
        config: &'a CqlConfig,
        steps: &'a [Step],
    ) -> Result<Self, ConnectError> {
        check_name(&config.keyspace)?;
        let mut name = [0; 8];
        getrandom::fill(&mut name)
            .map_err(|error| ConnectError::unavailable("drawing a random name", error))?;
        Ok(Self { setup: Setup { session, config }, config, steps, holder: hex(&name) })
    }

    /// Takes the missing steps and checks every table. Returns the keyspace's replication.
    pub(super) async fn establish(&self) -> Result<Placement, ConnectError> {
        self.setup.agree().await?;
        self.check_datacenter()?;
        let placement = self.keyspace().await?;
        self.check_format().await?;
        if !self.missing().await?.is_empty() {
            // Even if the table is listed: a database node lists a table before it can use it, and
            // answers this statement only after the earlier change is done.
            let first = &self.steps[0];
            self.setup.change(&first.statement(&self.keyspace_name())).await?;
            self.check(first).await?;
            self.take_steps().await?;
        }
        self.check_all().await?;
        if self.config.user.is_some() {
            self.check_rights().await?;
        }
        Ok(placement)
    }

    /// Finds out now whether the role may write: nothing else writes before the node serves.
    async fn check_rights(&self) -> Result<(), ConnectError> {
        let keyspace = self.keyspace_name();
        let text = format!("DELETE FROM {keyspace}.layout WHERE name = ? IF holder = ?");
        // This node holds no lock here, so nothing is deleted.
        self.setup.write(&text, (LOCK, &self.holder)).await
    }

    /// Refuses a datacenter that the database does not have.
    fn check_datacenter(&self) -> Result<(), ConnectError> {
        let Some(datacenter) = &self.config.datacenter else { return Ok(()) };
        let found = session::datacenters(self.setup.session);
        if found.contains(datacenter) {
            return Ok(());
        }
        Err(unknown_datacenter(datacenter, "the database".to_owned(), found).into())
    }

    /// Checks every table without changing anything. Returns none if there is no keyspace, or no
    /// table in it.
    pub(super) async fn find(&self) -> Result<Option<Placement>, ConnectError> {
        self.check_datacenter()?;
        let Some(placement) = self.placement().await? else { return Ok(None) };
        self.check_format().await?;
        let missing = self.missing().await?;
        if missing.len() == self.steps.len() {
            return Ok(None);
        }
        if let Some(step) = missing.first() {
            let (keyspace, step) = (self.config.keyspace.clone(), step.name());
            return Err(SetupRefusal::MissingStep { keyspace, step }.into());
        }
        self.check_all().await?;
        Ok(Some(placement))
    }

    /// Returns the quoted name of the keyspace, because the name may be a reserved word.
    fn keyspace_name(&self) -> String {
        format!("\"{}\"", self.config.keyspace)
    }

    /// Creates the keyspace if there is none.
    async fn keyspace(&self) -> Result<Placement, ConnectError> {
        let keyspace = &self.config.keyspace;
        if let Some(placement) = self.placement().await? {
            return Ok(placement);
        }
        let datacenters = match &self.config.datacenter {
            Some(datacenter) => [datacenter.clone()].into(),
            None => session::datacenters(self.setup.session),
        };
        let mut names = datacenters.iter();
        let (Some(datacenter), None) = (names.next(), names.next()) else {
            let found = datacenters.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(
                SetupRefusal::SeveralDatacenters { keyspace: keyspace.clone(), found }.into()
            );
        };
        let nodes = session::nodes_in(self.setup.session, datacenter);
        let copies = session::replication_factor(self.config.replication_factor, nodes);
        let create = format!(
            "CREATE KEYSPACE IF NOT EXISTS \"{keyspace}\" WITH replication = \
             {{'class': 'NetworkTopologyStrategy', '{}': {copies}}}",
            datacenter.replace('\'', "''")
        );
        // Only recent versions of ScyllaDB have lightweight transactions on tablets, so tablets are
        // switched off. A version without tablets, or with tablets only, refuses the option.
        let without_tablets = format!("{create} AND tablets = {{'enabled': false}}");
        let sharded = session::is_sharded(self.setup.session);
        if !(sharded && self.setup.change(&without_tablets).await.is_ok()) {
            self.setup.change(&create).await?;
        }
        tracing::info!(keyspace, copies, datacenter, "keyspace created");
        self.placement().await?.ok_or_else(|| {
            let operation = format!("finding keyspace {keyspace} after creating it");
            ConnectError::unavailable(operation, "the database does not list it")
        })
    }

    async fn placement(&self) -> Result<Option<Placement>, ConnectError> {
        let text = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let rows: Vec<(HashMap<String, String>,)> =
            self.setup.select(text, (&self.config.keyspace,), Consistency::One).await?;
        let Some((replication,)) = rows.first() else { return Ok(None) };
        let wanted = self.config.datacenter.as_deref();
        let placement = Placement::of(replication, wanted).map_err(|found| {
            let keyspace = format!("keyspace {}", self.config.keyspace);
            unknown_datacenter(wanted.unwrap_or_default(), keyspace, found)
        })?;
        Ok(Some(placement))
    }

    /// Takes the missing steps under the lock, or waits until another node has taken them.
    async fn take_steps(&self) -> Result<(), ConnectError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        while !self.missing().await?.is_empty() {
            if self.lock().await? {
                let taken = self.take_missing().await;
                self.unlock().await;
                return taken;
            }
            if Instant::now() >= deadline {
                return Err(self.locked().await?);
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        Ok(())
    }

    /// Takes and records the missing steps in order. The caller holds the lock.
    async fn take_missing(&self) -> Result<(), ConnectError> {
        let keyspace = &self.config.keyspace;
        let mut renewed = Instant::now();
        // Asked again: another node may have taken steps before this one got the lock.
        for step in self.missing().await? {
            if renewed.elapsed() > RENEW_AFTER {
                if !self.lock().await? {
                    return Err(self.locked().await?);
                }
                renewed = Instant::now();
            }
            self.take(step).await?;
            self.check(step).await?;
            tracing::info!(keyspace, step = step.name(), "schema step taken");
            match step.number {
                // Recorded with step 2, which makes the table of records.
                1 => {}
                2 => {
                    self.record(&self.steps[0]).await?;
                    self.record(step).await?;
                }
                _ => self.record(step).await?,
            }
        }
        Ok(())
    }

    /// Creates the table or adds the column of `step`, unless it exists.
    async fn take(&self, step: &Step) -> Result<(), ConnectError> {
        let text = step.statement(&self.keyspace_name());
        let SchemaChange::Column { table, name, .. } = step.change else {
            return self.setup.change(&text).await;
        };
        // Adding a column twice is an error, and an attempt that timed out may have added it. So
        // only the columns decide whether the step is taken.
        if self.columns(table).await?.contains_key(name) {
            return Ok(());
        }
        match self.setup.change(&text).await {
            Err(error) if !self.columns(table).await?.contains_key(name) => Err(error),
            _ => self.setup.agree().await,
        }
    }

    async fn record(&self, step: &Step) -> Result<(), ConnectError> {
        let text = format!(
            "INSERT INTO \"{}\".schema_steps (step, name, applied_at) \
             VALUES (?, ?, toTimestamp(now()))",
            self.config.keyspace
        );
        let name = step.name();
        let values = (step.number, name.as_str());
        self.setup.write(&text, values).await
    }

    /// Builds the error for a lock that another node does not release.
    async fn locked(&self) -> Result<ConnectError, ConnectError> {
        let holder = self.holder().await?.unwrap_or_default();
        Ok(ConnectError::Locked { keyspace: self.config.keyspace.clone(), holder })
    }

    /// Returns the known steps that are not recorded, in order.
    async fn missing(&self) -> Result<Vec<&'a Step>, ConnectError> {
        let recording = &self.steps[1];
        let mut recorded: Vec<i32> = Vec::new();
        if !self.columns(recording.table()).await?.is_empty() {
            // A database node lists a table before it can use it, and before the others know it.
            self.setup.agree().await?;
            self.check(recording).await?;
            let text = format!("SELECT step FROM {}.schema_steps", self.keyspace_name());
            let rows: Vec<(i32,)> = self.setup.select(&text, (), Consistency::Quorum).await?;
            recorded = rows.into_iter().map(|(step,)| step).collect();
        }
        Ok(self.steps.iter().filter(|step| !recorded.contains(&step.number)).collect())
    }

    /// Takes or renews the lock. Returns whether this node holds it.
    async fn lock(&self) -> Result<bool, ConnectError> {
        let keyspace = &self.config.keyspace;
        let take = format!(
            "INSERT INTO \"{keyspace}\".layout (name, holder) VALUES (?, ?) IF NOT EXISTS \
             USING TTL {LEASE_S}"
        );
        let renew = format!(
            "UPDATE \"{keyspace}\".layout USING TTL {LEASE_S} SET holder = ? WHERE name = ? \
             IF holder = ?"
        );
        // The answers of the transactions are not used, because one that timed out may have been
        // applied. A read at SERIAL completes it.
        if self.holder().await?.as_deref() == Some(&*self.holder) {
            self.setup.attempt(&renew, (&self.holder, LOCK, &self.holder)).await;
        } else {
            self.setup.attempt(&take, (LOCK, &self.holder)).await;
        }
        Ok(self.holder().await?.as_deref() == Some(&*self.holder))
    }

    async fn unlock(&self) {
        let text =
            format!("DELETE FROM \"{}\".layout WHERE name = ? IF holder = ?", self.config.keyspace);
        self.setup.attempt(&text, (LOCK, &self.holder)).await;
    }

    async fn holder(&self) -> Result<Option<String>, ConnectError> {
        let text = format!("SELECT holder FROM \"{}\".layout WHERE name = ?", self.config.keyspace);
        let rows: Vec<(Option<String>,)> =
            self.setup.select(&text, (LOCK,), Consistency::Serial).await?;
        Ok(rows.into_iter().next().and_then(|(holder,)| holder))
    }

    /// Refuses a keyspace of another format. Called before any change, because such a keyspace
    /// must stay as it is.
    async fn check_format(&self) -> Result<(), ConnectError> {
        let columns = self.columns(self.steps[0].table()).await?;
        let refused = |other| {
            let keyspace = self.config.keyspace.clone();
            ConnectError::from(SetupRefusal::Format { keyspace, other })
        };
        // Format 1 has no column of the fold, so the number is read first and by itself.
        if columns.contains_key("format")
            && let Some(found) = self.layout_cell::<i32>("format").await?
        {
            // coupond writes no negative number.
            check_number(found.try_into().unwrap_or(0)).map_err(refused)?;
        }
        if columns.contains_key("identity_fold")
            && let Some(found) = self.layout_cell::<String>("identity_fold").await?
        {
            check_identity_fold(&found).map_err(refused)?;
        }
        Ok(())
    }

    /// Reads one cell of the layout row. Returns none if the row or the cell is not set.
    async fn layout_cell<T>(&self, column: &str) -> Result<Option<T>, ConnectError>
    where
        T: for<'frame> DeserializeValue<'frame, 'frame>,
    {
        // A database node lists a table before it can use it.
        self.setup.agree().await?;
        let keyspace = self.keyspace_name();
        let text = format!("SELECT {column} FROM {keyspace}.layout WHERE name = 'layout'");
        let rows: Vec<(Option<T>,)> = self.setup.select(&text, (), Consistency::Serial).await?;
        Ok(rows.into_iter().find_map(|(cell,)| cell))
    }

    /// Checks every table, and logs columns that no known step makes. A newer node has added them.
    /// Within a format number it changes nothing that this node reads or writes.
    async fn check_all(&self) -> Result<(), ConnectError> {
        for (table, expected) in &tables_after(self.steps) {
            let unknown = self.compare(table, expected).await?;
            if !unknown.is_empty() {
                let (keyspace, columns) = (&self.config.keyspace, unknown.join(", "));
                tracing::info!(
                    keyspace,
                    table,
                    columns,
                    "table has columns of a newer version, ignored"
                );
            }
        }
        Ok(())
    }

    /// Compares the table of `step` with what the steps up to this one make.
    async fn check(&self, step: &Step) -> Result<(), ConnectError> {
        let earlier = self.steps.iter().take_while(|earlier| earlier.number <= step.number);
        let expected = &tables_after(earlier)[step.table()];
        self.compare(step.table(), expected).await.map(|_unknown| ())
    }

    /// Refuses a table that lacks a column of `expected` or has another key. Returns the names of
    /// its additional columns.
    async fn compare(&self, table: &str, expected: &Columns) -> Result<Vec<String>, ConnectError> {
        let found = self.columns(table).await?;
        match differences(&found, expected) {
            None => Ok(found.into_keys().filter(|name| !expected.contains_key(name)).collect()),
            Some(differences) => Err(SetupRefusal::Columns {
                keyspace: self.config.keyspace.clone(),
                table: table.to_owned(),
                differences,
            }
            .into()),
        }
    }

    /// Returns the columns of a table, none if there is no table.
    async fn columns(&self, table: &str) -> Result<Columns, ConnectError> {
        let text = "SELECT column_name, type, kind, position FROM system_schema.columns \
                    WHERE keyspace_name = ? AND table_name = ?";
        let rows: Vec<(String, String, String, i32)> =
            self.setup.select(text, (&self.config.keyspace, table), Consistency::One).await?;
        let described = |(name, cql_type, kind, position): (String, String, String, i32)| {
            (name, Column { cql_type, kind, position })
        };
        Ok(rows.into_iter().map(described).collect())
    }
}

fn unknown_datacenter(datacenter: &str, place: String, found: BTreeSet<String>) -> SetupRefusal {
    let found: Vec<_> = found.into_iter().collect();
    let (datacenter, found) = (datacenter.to_owned(), found.join(", "));
    SetupRefusal::UnknownDatacenter { datacenter, place, found }
}

fn check_name(keyspace: &str) -> Result<(), SetupRefusal> {
    let letters = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    let bytes = keyspace.as_bytes();
    let starts_well = bytes.first().is_some_and(u8::is_ascii_lowercase);
    if starts_well && bytes.len() <= 48 && bytes.iter().all(letters) {
        Ok(())
    } else {
        Err(SetupRefusal::KeyspaceName { found: keyspace.to_owned() })
    }
}

/// Describes each column that is not as expected; returns none if all are. An additional regular
/// column is no difference.
fn differences(found: &Columns, expected: &Columns) -> Option<String> {
    let mut differing = Vec::new();
    for (name, expected) in expected {
        match found.get(name) {
            None => differing.push(format!("{name} is missing, expected {expected}")),
            Some(found) if found != expected => {
                differing.push(format!("{name} is {found}, expected {expected}"));
            }
            Some(_) => {}
        }
    }
    let unknown = found.iter().filter(|(name, _)| !expected.contains_key(*name));
    let of_key = unknown.filter(|(_, column)| !column.is_regular());
    differing.extend(of_key.map(|(name, found)| format!("{name} is {found}, expected none")));
    (!differing.is_empty()).then(|| differing.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_name_needs_no_quotes() {
        let long = "k".repeat(49);
        for good in ["coupond", "c", "a_1", &long[..48]] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "1a", "_a", "Coupond", "a-b", "a\"b", &long] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    fn columns(list: &[(&str, &str, &str, i32)]) -> Columns {
        let column = |&(name, cql_type, kind, position): &(&str, &str, &str, i32)| {
            let (cql_type, kind) = (cql_type.to_owned(), kind.to_owned());
            (name.to_owned(), Column { cql_type, kind, position })
        };
        list.iter().map(column).collect()
    }

    #[test]
    fn a_column_more_is_no_difference() {
        let expected = columns(&[("a", "int", "partition_key", 0)]);
        let found = columns(&[("a", "int", "partition_key", 0), ("b", "text", "regular", -1)]);
        assert_eq!(differences(&expected, &expected), None);
        assert_eq!(differences(&found, &expected), None);
    }

    #[test]
    fn a_table_that_differs_is_described_by_column() {
        let expected = columns(&[("a", "int", "regular", -1), ("b", "text", "regular", -1)]);
        let found = columns(&[("a", "text", "regular", -1), ("c", "int", "clustering", 0)]);
        assert_eq!(
            differences(&found, &expected).as_deref(),
            Some(
                "a is text, regular, expected int, regular; b is missing, expected text, regular; \
                 c is int, clustering 0, expected none"
            )
        );
    }
}
