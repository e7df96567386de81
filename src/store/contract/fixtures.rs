//! Rows of the checks, with every field filled.

use crate::domain::{
    code::CodeFormat,
    coupon::Coupon,
    definition::{Definition, DefinitionVersion, RULES_VERSION, Terms},
    ids::{CampaignId, Offset, Partition, Position, Sequence, Timestamp, UserId},
    rows::{Counts, Hold, HoldKind, HoldState, LastRecord, Mark, Progress, Row},
};

pub(super) fn campaign(name: &str) -> CampaignId {
    CampaignId::parse(name).expect("a check's campaign has a valid id")
}

pub(super) fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a check's user has a valid id")
}

/// Returns the partition of a check. They start at 9,000, above those of the tests that share the
/// store.
pub(super) fn partition(check: Partition) -> Partition {
    9_000 + check
}

pub(super) fn coupon(campaign: &CampaignId, sequence: Sequence, user: &UserId) -> Coupon {
    let mut digest = [0; 16];
    digest[..4].copy_from_slice(&sequence.to_le_bytes());
    Coupon {
        campaign: campaign.clone(),
        sequence,
        user: user.clone(),
        code: format!("CODE-{sequence:010}").into(),
        issued_at: Timestamp(1_760_000_000_000 + i64::from(sequence)),
        position: Position { log_epoch: 1, partition: 3, offset: 10 + 2 * u64::from(sequence) },
        key_digest: sequence.is_multiple_of(2).then_some([0xAB; 16]),
        user_bucket: 2,
        rules_version: RULES_VERSION,
        digest,
    }
}

pub(super) fn version(campaign: &CampaignId, offset: Offset) -> DefinitionVersion {
    let code = CodeFormat::with(Some("SALE-".into()), None, Some("0123456789".into()));
    let quota = 100_000 + u32::try_from(offset % 1_000).expect("a remainder below 1,000");
    let terms = Terms {
        per_user_limit: 3,
        opens_at: Some(Timestamp(1_760_000_000_000)),
        title: Some("Frühling".to_owned()),
        listed: false,
        code,
        ..Terms::of(quota)
    };
    DefinitionVersion {
        campaign: campaign.clone(),
        position: Position { log_epoch: 1, partition: 3, offset },
        time: Timestamp(1_760_000_000_000),
        definition: Definition { paused: offset % 2 == 1, ..Definition::first(terms) },
        issued: 42,
        digest: [0xCD; 16],
    }
}

pub(super) fn hold(
    campaign: &CampaignId,
    partition: Partition,
    number: u32,
    state: HoldState,
) -> Hold {
    Hold {
        campaign: campaign.clone(),
        partition,
        from: 17,
        number,
        kind: HoldKind::Contradiction,
        reason: "coupon 5 is not the one that follows from the log".to_owned(),
        state,
        until: 0,
    }
}

pub(super) fn progress(partition: Partition, next: Offset) -> Progress {
    let last = next.checked_sub(1).map(|offset| LastRecord { offset, digest: [0xEF; 16] });
    Progress { partition, log_epoch: 1, next, last }
}

/// Returns a mark that counts `issued` coupons and two versions below `offset`.
pub(super) fn mark(campaign: &CampaignId, offset: Offset, issued: Sequence) -> Mark {
    let counts = Counts { issued, versions: 2, latest: offset / 2 };
    Mark { campaign: campaign.clone(), offset, counts }
}

/// Returns the rows of coupons in both views.
pub(super) fn both(coupons: &[Coupon]) -> Vec<Row> {
    coupons.iter().flat_map(Row::of_both_views).collect()
}
