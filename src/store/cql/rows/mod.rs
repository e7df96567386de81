//! Converts rows to column values and back.
//!
//! Write timestamps make every write idempotent, because the database keeps the cell with the
//! highest timestamp. Coupons and versions take theirs from the record, marks and progress from the
//! offset, a register's is its number, and a hold's timestamp rises with its state. So a row that is
//! written again, late or by another owner changes nothing.

use scylla::{
    DeserializeRow, SerializeRow,
    value::{CqlTimestamp, MaybeUnset},
};
use thiserror::Error;

pub(super) use self::change::{ChangeCells, change};
pub(super) use self::version::{decode_version, version, version_columns};
use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, Position, Sequence, Timestamp, UserId},
        rows::{Counts, Hold, HoldKind, HoldState, LastRecord, Mark, Progress, Register},
    },
    store::{Layout, SEQUENCES_PER_BUCKET},
};

/// A value that does not fit its column, or a stored value that coupond never writes.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("column {column} can't be {value}")]
pub(super) struct BadValue {
    pub(super) column: &'static str,
    pub(super) value: String,
}

/// Converts between the domain's unsigned and the database's signed numbers.
pub(super) fn fit<To, From>(column: &'static str, value: From) -> Result<To, BadValue>
where
    To: TryFrom<From>,
    From: Copy + std::fmt::Display,
{
    To::try_from(value).map_err(|_| BadValue { column, value: value.to_string() })
}

fn digest(column: &'static str, bytes: &[u8]) -> Result<[u8; 16], BadValue> {
    let value = || format!("{} bytes long", bytes.len());
    bytes.try_into().map_err(|_| BadValue { column, value: value() })
}

fn campaign(text: &str) -> Result<CampaignId, BadValue> {
    let bad = |_| BadValue { column: "campaign_id", value: format!("{text:?}") };
    CampaignId::parse(text).map_err(bad)
}

/// Returns a record's write timestamp in microseconds since the epoch.
fn record_timestamp(time: Timestamp, offset: Offset) -> Result<i64, BadValue> {
    // The offset fills the microseconds, so that records of one millisecond differ.
    let within: i64 = fit("offset", offset % 1_000)?;
    let micros = time.0.checked_mul(1_000).and_then(|micros| micros.checked_add(within));
    micros.ok_or(BadValue { column: "record_time", value: time.0.to_string() })
}

/// Returns a write timestamp that rises with the offset. It starts at 1, because the driver takes 0
/// for "no timestamp".
fn offset_timestamp(offset: Offset) -> Result<i64, BadValue> {
    let offset: i64 = fit("offset", offset)?;
    offset.checked_add(1).ok_or(BadValue { column: "offset", value: offset.to_string() })
}

/// Returns the bucket of the coupon rows that holds `sequence`.
pub(super) fn bucket(sequence: Sequence) -> u32 {
    sequence.saturating_sub(1) / SEQUENCES_PER_BUCKET
}

/// Values bound for a coupon. In both views they follow the key.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct CouponValues<'a> {
    sequence: i32,
    user_id: &'a str,
    code: &'a str,
    issued_at: CqlTimestamp,
    log_epoch: i32,
    partition: i32,
    offset: i64,
    key_digest: MaybeUnset<&'a [u8]>,
    user_bucket: i32,
    rules_version: i32,
    digest: &'a [u8],
    timestamp: i64,
}

impl<'a> CouponValues<'a> {
    pub(super) fn of(coupon: &'a Coupon) -> Result<Self, BadValue> {
        Ok(Self {
            sequence: fit("sequence", coupon.sequence)?,
            user_id: coupon.user.as_str(),
            code: &coupon.code,
            issued_at: CqlTimestamp(coupon.issued_at.0),
            log_epoch: fit("log_epoch", coupon.position.log_epoch)?,
            partition: fit("partition", coupon.position.partition)?,
            offset: fit("offset", coupon.position.offset)?,
            key_digest: MaybeUnset::from_option(coupon.key_digest.as_ref().map(|key| &key[..])),
            user_bucket: i32::from(coupon.user_bucket),
            rules_version: i32::from(coupon.rules_version),
            digest: &coupon.digest,
            timestamp: record_timestamp(coupon.issued_at, coupon.position.offset)?,
        })
    }
}

/// Values bound for a row of `coupons`.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct BySequence<'a> {
    campaign_id: &'a str,
    bucket: i32,
    #[scylla(flatten)]
    coupon: CouponValues<'a>,
}

impl<'a> BySequence<'a> {
    pub(super) fn of(coupon: &'a Coupon) -> Result<Self, BadValue> {
        Ok(Self {
            campaign_id: coupon.campaign.as_str(),
            bucket: fit("bucket", bucket(coupon.sequence))?,
            coupon: CouponValues::of(coupon)?,
        })
    }
}

/// Values bound for a row of `coupons_by_user`.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct ByUser<'a> {
    campaign_id: &'a str,
    #[scylla(flatten)]
    coupon: CouponValues<'a>,
}

impl<'a> ByUser<'a> {
    pub(super) fn of(coupon: &'a Coupon) -> Result<Self, BadValue> {
        let coupon_values = CouponValues::of(coupon)?;
        Ok(Self { campaign_id: coupon.campaign.as_str(), coupon: coupon_values })
    }
}

/// A coupon's cells, read from either view.
#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order")]
pub(super) struct CouponCells<'a> {
    sequence: i32,
    user_id: &'a str,
    code: &'a str,
    issued_at: CqlTimestamp,
    log_epoch: i32,
    partition: i32,
    offset: i64,
    key_digest: Option<&'a [u8]>,
    user_bucket: i32,
    rules_version: i32,
    digest: &'a [u8],
}

impl CouponCells<'_> {
    pub(super) fn decode(self, campaign: &CampaignId) -> Result<Coupon, BadValue> {
        let bad_user = |_| BadValue { column: "user_id", value: format!("{:?}", self.user_id) };
        let key_digest = self.key_digest.map(|bytes| digest("key_digest", bytes));
        Ok(Coupon {
            campaign: campaign.clone(),
            sequence: fit("sequence", self.sequence)?,
            user: UserId::parse(self.user_id).map_err(bad_user)?,
            code: Box::from(self.code),
            issued_at: Timestamp(self.issued_at.0),
            position: Position {
                log_epoch: fit("log_epoch", self.log_epoch)?,
                partition: fit("partition", self.partition)?,
                offset: fit("offset", self.offset)?,
            },
            key_digest: key_digest.transpose()?,
            user_bucket: fit("user_bucket", self.user_bucket)?,
            rules_version: fit("rules_version", self.rules_version)?,
            digest: digest("digest", self.digest)?,
        })
    }
}

/// Returns the values bound for a campaign's listing row. Every version of a campaign writes the
/// same row.
pub(super) fn listing(version: &DefinitionVersion) -> Result<(&str, i32, i64), BadValue> {
    let partition = fit("partition", version.position.partition)?;
    let timestamp = record_timestamp(version.time, version.position.offset)?;
    Ok((version.campaign.as_str(), partition, timestamp))
}

type HoldValues<'a> = (i32, &'a str, i64, i32, &'a str, &'a str, &'a str, i64, i64);

/// Returns the values bound for a hold.
pub(super) fn hold(hold: &Hold) -> Result<HoldValues<'_>, BadValue> {
    let kind = match hold.kind {
        HoldKind::Failure => "failure",
        HoldKind::Contradiction => "contradiction",
    };
    let state = match hold.state {
        HoldState::Open => "open",
        HoldState::Released => "released",
        HoldState::Closed => "closed",
    };
    Ok((
        fit("partition", hold.partition)?,
        hold.campaign.as_str(),
        fit("from_offset", hold.from)?,
        fit("number", hold.number)?,
        kind,
        &hold.reason,
        state,
        fit("until_offset", hold.until)?,
        // The write timestamp.
        fit("until_offset", hold.rank())?,
    ))
}

/// A hold's cells.
#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order")]
pub(super) struct HoldCells<'a> {
    campaign_id: &'a str,
    from_offset: i64,
    number: i32,
    kind: &'a str,
    reason: &'a str,
    state: &'a str,
    until_offset: i64,
}

impl HoldCells<'_> {
    pub(super) fn decode(self, partition: Partition) -> Result<Hold, BadValue> {
        let bad = |column, text: &str| BadValue { column, value: format!("{text:?}") };
        Ok(Hold {
            campaign: campaign(self.campaign_id)?,
            partition,
            from: fit("from_offset", self.from_offset)?,
            number: fit("number", self.number)?,
            kind: match self.kind {
                "failure" => HoldKind::Failure,
                "contradiction" => HoldKind::Contradiction,
                other => return Err(bad("kind", other)),
            },
            reason: self.reason.to_owned(),
            state: match self.state {
                "open" => HoldState::Open,
                "released" => HoldState::Released,
                "closed" => HoldState::Closed,
                other => return Err(bad("state", other)),
            },
            until: fit("until_offset", self.until_offset)?,
        })
    }
}

/// The cells of a mark beside its campaign.
type MarkCells = (i64, i32, i32, i64);

/// Returns the values bound for a mark.
pub(super) fn mark(mark: &Mark) -> Result<(&str, i64, i32, i32, i64, i64), BadValue> {
    let timestamp = offset_timestamp(mark.offset)?;
    let Counts { issued, versions, latest } = mark.counts;
    let offset = fit("below_offset", mark.offset)?;
    let (issued, versions) = (fit("issued", issued)?, fit("versions", versions)?);
    let latest = fit("latest_version", latest)?;
    Ok((mark.campaign.as_str(), offset, issued, versions, latest, timestamp))
}

/// Decodes a mark's cells.
pub(super) fn decode_mark(
    campaign: &CampaignId,
    (offset, issued, versions, latest): MarkCells,
) -> Result<Mark, BadValue> {
    let counts = Counts {
        issued: fit("issued", issued)?,
        versions: fit("versions", versions)?,
        latest: fit("latest_version", latest)?,
    };
    Ok(Mark { campaign: campaign.clone(), offset: fit("below_offset", offset)?, counts })
}

type ProgressValues<'a> = (i32, i32, i64, i64, &'a [u8], i64);

/// Returns the values bound for a partition's progress.
pub(super) fn progress(progress: &Progress) -> Result<ProgressValues<'_>, BadValue> {
    // "No last record" is bound as values too: an unset column would keep the cell of an earlier,
    // lower progress.
    let (last_offset, last_digest) = match &progress.last {
        Some(LastRecord { offset, digest }) => (fit("last_offset", *offset)?, &digest[..]),
        None => (-1, &[][..]),
    };
    Ok((
        fit("partition", progress.partition)?,
        fit("log_epoch", progress.log_epoch)?,
        fit("next_offset", progress.next)?,
        last_offset,
        last_digest,
        offset_timestamp(progress.next)?,
    ))
}

/// Decodes the cells of a partition's progress.
pub(super) fn decode_progress(
    partition: Partition,
    (log_epoch, next, last_offset, last_digest): (i32, i64, i64, &[u8]),
) -> Result<Progress, BadValue> {
    let last = match last_offset {
        -1 => None,
        offset => Some(LastRecord {
            offset: fit("last_offset", offset)?,
            digest: digest("last_digest", last_digest)?,
        }),
    };
    let log_epoch = fit("log_epoch", log_epoch)?;
    Ok(Progress { partition, log_epoch, next: fit("next_offset", next)?, last })
}

/// Returns the values bound for a register. The last one is the write timestamp, which is never 0,
/// because no register is written with 0.
pub(super) fn register(
    partition: Partition,
    register: Register,
    number: u64,
) -> Result<(i32, &'static str, i64, i64), BadValue> {
    let number = fit("number", number)?;
    Ok((fit("partition", partition)?, register.name(), number, number))
}

/// Decodes a register's cell.
pub(super) fn decode_register((number,): (i64,)) -> Result<u64, BadValue> {
    fit("number", number)
}

type LayoutValues<'a> = (&'a str, i32, i32, i32, &'a str, &'a str, MaybeUnset<&'a str>);

/// Returns the values bound for the layout.
pub(super) fn layout(layout: &Layout) -> Result<LayoutValues<'_>, BadValue> {
    Ok((
        &layout.instance,
        fit("log_epoch", layout.log_epoch)?,
        fit("partitions", layout.partitions)?,
        fit("format", layout.format)?,
        &layout.fingerprint,
        &layout.identity_fold,
        MaybeUnset::from_option(layout.secret.as_deref()),
    ))
}

/// Cells of the layout: instance, log epoch, partitions, format, fingerprint, identity fold, secret.
pub(super) type LayoutCells = (String, i32, i32, i32, String, String, Option<String>);

/// Decodes the layout's cells.
pub(super) fn decode_layout(cells: LayoutCells) -> Result<Layout, BadValue> {
    let (instance, log_epoch, partitions, format, fingerprint, identity_fold, secret) = cells;
    Ok(Layout {
        instance,
        log_epoch: fit("log_epoch", log_epoch)?,
        partitions: fit("partitions", partitions)?,
        format: fit("format", format)?,
        fingerprint,
        identity_fold,
        secret,
    })
}

/// Decodes a campaign's cell of the listing.
pub(super) fn decode_campaign((text,): (&str,)) -> Result<CampaignId, BadValue> {
    campaign(text)
}

mod change;
mod version;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
