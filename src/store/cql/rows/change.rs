//! Changes as columns. What they asked, what was in effect and why they were refused are JSON.

use scylla::{
    DeserializeRow, SerializeRow,
    value::{CqlTimestamp, MaybeUnset},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{BadValue, campaign, digest, fit, record_timestamp};
use crate::domain::{
    change::ChangeRow,
    ids::{Partition, Position, Timestamp},
};

/// Values bound for a change.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(in crate::store::cql) struct ChangeValues<'a> {
    partition: i32,
    offset: i64,
    log_epoch: i32,
    campaign_id: &'a str,
    record_time: CqlTimestamp,
    asked_by: &'a str,
    retried: bool,
    change: String,
    before: MaybeUnset<String>,
    after: MaybeUnset<String>,
    refusal: MaybeUnset<String>,
    rules_version: MaybeUnset<i32>,
    digest: &'a [u8],
    timestamp: i64,
}

/// Returns the values bound for a change.
pub(in crate::store::cql) fn change(row: &ChangeRow) -> Result<ChangeValues<'_>, BadValue> {
    let Position { log_epoch, partition, offset } = row.position;
    let rules = row.after.as_ref().map(|definition| i32::from(definition.rules_version));
    Ok(ChangeValues {
        partition: fit("partition", partition)?,
        offset: fit("offset", offset)?,
        log_epoch: fit("log_epoch", log_epoch)?,
        campaign_id: row.campaign.as_str(),
        record_time: CqlTimestamp(row.time.0),
        asked_by: &row.by,
        retried: row.retried,
        change: json("change", &row.change)?,
        before: maybe("before", row.before.as_ref())?,
        after: maybe("after", row.after.as_ref())?,
        refusal: maybe("refusal", row.refusal.as_ref())?,
        rules_version: MaybeUnset::from_option(rules),
        digest: &row.digest,
        timestamp: record_timestamp(row.time, offset)?,
    })
}

fn json(column: &'static str, value: &impl Serialize) -> Result<String, BadValue> {
    serde_json::to_string(value).map_err(|error| BadValue { column, value: error.to_string() })
}

fn maybe(
    column: &'static str,
    value: Option<&impl Serialize>,
) -> Result<MaybeUnset<String>, BadValue> {
    Ok(MaybeUnset::from_option(value.map(|value| json(column, value)).transpose()?))
}

/// The cells of a change.
#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order")]
pub(in crate::store::cql) struct ChangeCells<'a> {
    offset: i64,
    log_epoch: i32,
    campaign_id: &'a str,
    record_time: CqlTimestamp,
    asked_by: &'a str,
    retried: bool,
    change: &'a str,
    before: Option<&'a str>,
    after: Option<&'a str>,
    refusal: Option<&'a str>,
    digest: &'a [u8],
}

impl ChangeCells<'_> {
    pub(in crate::store::cql) fn decode(self, partition: Partition) -> Result<ChangeRow, BadValue> {
        Ok(ChangeRow {
            campaign: campaign(self.campaign_id)?,
            position: Position {
                log_epoch: fit("log_epoch", self.log_epoch)?,
                partition,
                offset: fit("offset", self.offset)?,
            },
            time: Timestamp(self.record_time.0),
            by: self.asked_by.to_owned(),
            retried: self.retried,
            change: parsed("change", self.change)?,
            before: self.before.map(|text| parsed("before", text)).transpose()?,
            after: self.after.map(|text| parsed("after", text)).transpose()?,
            refusal: self.refusal.map(|text| parsed("refusal", text)).transpose()?,
            digest: digest("digest", self.digest)?,
        })
    }
}

fn parsed<T: DeserializeOwned>(column: &'static str, text: &str) -> Result<T, BadValue> {
    serde_json::from_str(text).map_err(|error| BadValue { column, value: error.to_string() })
}
