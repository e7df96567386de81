//! Compares the holds of a partition with its log, and with the register that counts them.

use super::{
    AuditError, Context,
    finding::{FindingKind, Findings, Location},
};
use crate::{
    domain::{
        ids::{Offset, Partition},
        rows::{Hold, HoldState, PartitionRows, Register},
    },
    log::Bounds,
};

/// Checks the holds that were read behind progress.
pub(super) async fn check(
    context: &Context,
    partition: Partition,
    rows: &PartitionRows,
    bounds: Bounds,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    let here = |offset: Option<Offset>| Location {
        partition: Some(partition),
        offset,
        ..Location::default()
    };
    for hold in &rows.holds {
        let campaign = Some(hold.campaign.clone());
        let place = Location { campaign, ..here(Some(hold.from)) };
        let home = context.codec.partition_of(&hold.campaign);
        if let Some(fault) = impossible(hold, partition, home, bounds.high) {
            let detail = format!("hold {} of {} {fault}", hold.number, hold.campaign);
            findings.add(FindingKind::HoldImpossible, place, detail);
        } else if hold.is_in_force() && hold.from < bounds.low {
            let detail =
                format!("held from {} on, but the log starts at {}", hold.from, bounds.low);
            findings.add(FindingKind::HeldRecordsLost, place, detail);
        }
    }
    let (found, ever) = (rows.holds.len() as u64, rows.holds_ever);
    if found < ever {
        let detail = format!("there were {ever} holds, but {found} have rows");
        findings.add(FindingKind::HoldMissing, here(None), detail);
    }
    // The number follows a hold within a second. One that is closed is older than that, and the
    // register is read behind it.
    let is_closed = |hold: &&Hold| hold.state == HoldState::Closed;
    let closed = rows.holds.iter().filter(is_closed).count() as u64;
    if closed > ever {
        let counted = context.ports.store.register(partition, Register::Holds).await?;
        if closed > counted {
            let detail = format!("{closed} holds are closed, but only {counted} are counted");
            findings.add(FindingKind::HoldsUncounted, here(None), detail);
        }
    }
    Ok(())
}

/// Says why no owner can have written the hold, if so.
fn impossible(hold: &Hold, partition: Partition, home: Partition, high: Offset) -> Option<String> {
    if home != partition {
        Some(format!("belongs to partition {home}"))
    } else if hold.until > high {
        Some(format!("is closed up to {}, but the log ends at {high}", hold.until))
    } else if hold.state != HoldState::Closed && hold.until != 0 {
        Some(format!("is not closed, but has the end {}", hold.until))
    } else {
        None
    }
}
