//! The prepared statements that read and write rows.

use scylla::{client::session::Session, statement::prepared::PreparedStatement};

use super::{error::ConnectError, rows, session::Profiles};
use crate::partition::liveness::NODES_MAX;

/// Most rows of a page. The database also ends a page at about 1 MB.
const PAGE_ROWS: i32 = 5_000;

/// Columns of a coupon in both views, in the order in which [`super::rows::CouponCells`] reads
/// them.
const COUPON_CELLS: &str = "sequence, user_id, code, issued_at, log_epoch, partition, offset, \
                            key_digest, user_bucket, rules_version, digest";

/// The prepared statements of one session.
pub(super) struct Statements {
    pub(super) coupon: PreparedStatement,
    pub(super) coupon_by_user: PreparedStatement,
    pub(super) version: PreparedStatement,
    pub(super) change: PreparedStatement,
    pub(super) campaign: PreparedStatement,
    pub(super) hold: PreparedStatement,
    pub(super) mark: PreparedStatement,
    pub(super) progress: PreparedStatement,
    pub(super) register: PreparedStatement,
    pub(super) layout: PreparedStatement,
    pub(super) make_skip: PreparedStatement,
    pub(super) settle_skip: PreparedStatement,
    pub(super) read_bucket: PreparedStatement,
    pub(super) read_between: PreparedStatement,
    pub(super) read_users: PreparedStatement,
    pub(super) read_user_bucket: PreparedStatement,
    pub(super) read_versions: PreparedStatement,
    pub(super) read_changes: PreparedStatement,
    pub(super) read_campaigns: PreparedStatement,
    pub(super) read_listed: PreparedStatement,
    /// Those that read ids of campaigns in any order.
    pub(super) read_known: [PreparedStatement; 3],
    pub(super) read_partition_holds: PreparedStatement,
    pub(super) read_campaign_holds: PreparedStatement,
    pub(super) read_mark: PreparedStatement,
    pub(super) read_progress: PreparedStatement,
    pub(super) read_register: PreparedStatement,
    pub(super) read_layout: PreparedStatement,
    pub(super) read_skips: PreparedStatement,
    pub(super) read_skips_serially: PreparedStatement,
    pub(super) node: PreparedStatement,
    pub(super) forget_node: PreparedStatement,
    pub(super) read_nodes: PreparedStatement,
}

/// The purpose of a statement. Timeouts, retries and consistency follow from it.
#[derive(Clone, Copy)]
enum Purpose {
    Write,
    Scan,
    Lookup,
    Transaction,
    SerialRead,
}

struct Preparer<'a> {
    session: &'a Session,
    profiles: &'a Profiles,
    keyspace: &'a str,
}

impl Preparer<'_> {
    /// Prepares `text`. A `$` before a table is replaced by the keyspace.
    async fn prepare(
        &self,
        purpose: Purpose,
        text: &str,
    ) -> Result<PreparedStatement, ConnectError> {
        let text = text.replace('$', &format!("\"{}\".", self.keyspace));
        let prepared = self.session.prepare(text.as_str()).await;
        let mut prepared = prepared
            .map_err(|error| ConnectError::unavailable(format!("preparing {text}"), error))?;
        // The driver may send idempotent statements twice. Row writes and reads are idempotent. A
        // repeated transaction would be answered "not applied" although its first attempt was.
        prepared.set_is_idempotent(!matches!(purpose, Purpose::Transaction));
        let profile = match purpose {
            Purpose::Write => &self.profiles.write,
            Purpose::Scan => &self.profiles.recovery,
            Purpose::Lookup => &self.profiles.lookup,
            Purpose::Transaction | Purpose::SerialRead => &self.profiles.serial,
        };
        prepared.set_execution_profile_handle(Some(profile.clone()));
        prepared.set_page_size(PAGE_ROWS);
        if matches!(purpose, Purpose::SerialRead) {
            prepared.set_consistency(scylla::statement::Consistency::Serial);
        }
        Ok(prepared)
    }
}

impl Statements {
    pub(super) async fn prepare(
        session: &Session,
        profiles: &Profiles,
        keyspace: &str,
    ) -> Result<Self, ConnectError> {
        use Purpose::{Lookup, Scan, SerialRead, Transaction, Write};
        let with = Preparer { session, profiles, keyspace };
        Ok(Self {
            coupon: with.prepare(Write, &insert(COUPON, "campaign_id, bucket")).await?,
            coupon_by_user: with.prepare(Write, &insert(COUPON_BY_USER, "campaign_id")).await?,
            version: with.prepare(Write, &insert_version()).await?,
            change: with.prepare(Write, CHANGE).await?,
            campaign: with.prepare(Write, CAMPAIGN).await?,
            hold: with.prepare(Write, HOLD).await?,
            mark: with.prepare(Write, MARK).await?,
            progress: with.prepare(Write, PROGRESS).await?,
            register: with.prepare(Write, REGISTER).await?,
            layout: with.prepare(Transaction, LAYOUT).await?,
            make_skip: with.prepare(Transaction, MAKE_SKIP).await?,
            settle_skip: with.prepare(Transaction, SETTLE_SKIP).await?,
            read_bucket: with.prepare(Scan, &select(COUPON, READ_BUCKET)).await?,
            read_between: with.prepare(Lookup, &select(COUPON, READ_BETWEEN)).await?,
            read_users: with.prepare(Lookup, &select(COUPON_BY_USER, READ_USERS)).await?,
            read_user_bucket: with.prepare(Scan, &select(COUPON_BY_USER, READ_USER_BUCKET)).await?,
            read_versions: with.prepare(Lookup, &select_versions()).await?,
            read_changes: with.prepare(Lookup, READ_CHANGES).await?,
            read_campaigns: with.prepare(Lookup, READ_CAMPAIGNS).await?,
            read_listed: with.prepare(Lookup, READ_LISTED).await?,
            read_known: [
                with.prepare(Scan, READ_DEFINED).await?,
                with.prepare(Scan, READ_MARKED).await?,
                with.prepare(Scan, READ_ALL_LISTED).await?,
            ],
            read_partition_holds: with.prepare(Lookup, READ_PARTITION_HOLDS).await?,
            read_campaign_holds: with.prepare(Lookup, READ_CAMPAIGN_HOLDS).await?,
            read_mark: with.prepare(Lookup, READ_MARK).await?,
            read_progress: with.prepare(Lookup, READ_PROGRESS).await?,
            read_register: with.prepare(Lookup, READ_REGISTER).await?,
            read_layout: with.prepare(SerialRead, READ_LAYOUT).await?,
            read_skips: with.prepare(Lookup, READ_SKIPS).await?,
            read_skips_serially: with.prepare(SerialRead, READ_SKIPS).await?,
            node: with.prepare(Write, NODE).await?,
            forget_node: with.prepare(Write, FORGET_NODE).await?,
            read_nodes: with.prepare(Lookup, &read_nodes()).await?,
        })
    }
}

/// Returns the insert of a coupon into `view`. `key` lists the key columns that are not cells.
fn insert(view: &str, key: &str) -> String {
    let markers = "?, ".repeat(key.split(',').count() + COUPON_CELLS.split(',').count());
    let markers = markers.trim_end_matches(", ");
    format!("INSERT INTO ${view} ({key}, {COUPON_CELLS}) VALUES ({markers}) USING TIMESTAMP ?")
}

fn select(view: &str, condition: &str) -> String {
    format!("SELECT {COUPON_CELLS} FROM ${view} WHERE {condition}")
}

fn insert_version() -> String {
    let columns = rows::version_columns();
    let markers = vec!["?"; 1 + columns.len()].join(", ");
    let columns = columns.join(", ");
    format!(
        "INSERT INTO $definition_versions (campaign_id, {columns}) VALUES ({markers}) \
         USING TIMESTAMP ?"
    )
}

fn select_versions() -> String {
    let columns = rows::version_columns().join(", ");
    format!("SELECT {columns} FROM $definition_versions WHERE campaign_id = ?")
}

const COUPON: &str = "coupons";
const COUPON_BY_USER: &str = "coupons_by_user";

const READ_BUCKET: &str = "campaign_id = ? AND bucket = ?";
const READ_BETWEEN: &str = "campaign_id = ? AND bucket = ? AND sequence >= ? AND sequence <= ?";
const READ_USERS: &str = "campaign_id = ? AND user_bucket = ? AND user_id IN ?";
const READ_USER_BUCKET: &str = "campaign_id = ? AND user_bucket = ?";

const CHANGE: &str = "INSERT INTO $changes (partition, offset, log_epoch, campaign_id, record_time, \
    asked_by, retried, change, before, after, refusal, rules_version, digest) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
const READ_CHANGES: &str = "SELECT offset, log_epoch, campaign_id, record_time, asked_by, retried, \
    change, before, after, refusal, digest FROM $changes \
    WHERE partition = ? AND offset >= ? LIMIT ?";

const CAMPAIGN: &str = "INSERT INTO $campaigns (listing, campaign_id, partition) \
    VALUES (0, ?, ?) USING TIMESTAMP ?";
const READ_CAMPAIGNS: &str = "SELECT campaign_id FROM $campaigns \
    WHERE listing = 0 AND campaign_id > ? LIMIT ?";
const READ_LISTED: &str = "SELECT campaign_id FROM $campaigns \
    WHERE listing = 0 AND campaign_id = ?";

// One row for each database partition: a scan of keys, however many versions a campaign has.
const READ_DEFINED: &str = "SELECT DISTINCT campaign_id FROM $definition_versions";
const READ_MARKED: &str = "SELECT DISTINCT campaign_id FROM $marks";
const READ_ALL_LISTED: &str = "SELECT campaign_id FROM $campaigns WHERE listing = 0";

const HOLD: &str = "INSERT INTO $holds (partition, campaign_id, from_offset, number, kind, \
    reason, state, until_offset) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
const READ_PARTITION_HOLDS: &str = "SELECT campaign_id, from_offset, number, kind, reason, state, \
    until_offset \
    FROM $holds WHERE partition = ?";
const READ_CAMPAIGN_HOLDS: &str = "SELECT campaign_id, from_offset, number, kind, reason, state, \
    until_offset \
    FROM $holds WHERE partition = ? AND campaign_id = ?";

const MARK: &str = "INSERT INTO $marks (campaign_id, below_offset, issued, versions, latest_version) \
                    VALUES (?, ?, ?, ?, ?) \
    USING TIMESTAMP ?";
const READ_MARK: &str = "SELECT below_offset, issued, versions, latest_version FROM $marks \
                         WHERE campaign_id = ?";

const PROGRESS: &str = "INSERT INTO $progress (partition, log_epoch, next_offset, last_offset, \
    last_digest) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
const READ_PROGRESS: &str = "SELECT log_epoch, next_offset, last_offset, last_digest \
    FROM $progress WHERE partition = ?";

const REGISTER: &str = "INSERT INTO $registers (partition, name, number) VALUES (?, ?, ?) \
    USING TIMESTAMP ?";
const READ_REGISTER: &str = "SELECT number FROM $registers WHERE partition = ? AND name = ?";
const MAKE_SKIP: &str = "INSERT INTO $skips (partition, from_offset, to_offset, reason, made_by, \
    state) VALUES (?, ?, ?, ?, ?, 'made') IF NOT EXISTS";
const SETTLE_SKIP: &str = "UPDATE $skips SET state = ? WHERE partition = ? AND from_offset = ? \
    IF state = 'made'";
const READ_SKIPS: &str = "SELECT from_offset, to_offset, reason, made_by, state FROM $skips \
    WHERE partition = ?";

const NODE: &str = "INSERT INTO $nodes (listing, name, number, is_member, can_decide, hangs) \
    VALUES (0, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
const FORGET_NODE: &str = "DELETE FROM $nodes USING TIMESTAMP ? WHERE listing = 0 AND name = ?";

fn read_nodes() -> String {
    let columns = "name, number, is_member, can_decide, hangs";
    format!("SELECT {columns} FROM $nodes WHERE listing = 0 LIMIT {NODES_MAX}")
}

const LAYOUT: &str = "INSERT INTO $layout (name, instance, log_epoch, partitions, format, \
    fingerprint, identity_fold, secret) VALUES ('layout', ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS";
const READ_LAYOUT: &str = "SELECT instance, log_epoch, partitions, format, fingerprint, \
    identity_fold, secret FROM $layout WHERE name = 'layout'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_binds_each_column_and_the_timestamp() {
        let text = insert(COUPON, "campaign_id, bucket");
        let columns = text.split_once(" VALUES").unwrap().0.matches(',').count() + 1;
        assert_eq!(columns, 13);
        assert_eq!(text.matches('?').count(), columns + 1);
    }
}
