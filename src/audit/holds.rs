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
    let passed = passed(rows);
    if passed > ever {
        // Of two owners that open holds at once, each knows only its own until its next look. So the
        // register is read again, behind their holds.
        let counted = context.ports.store.register(partition, Register::Holds).await?;
        if passed > counted {
            let detail = format!("{passed} holds are closed, but only {counted} are counted");
            findings.add(FindingKind::HoldsUncounted, here(None), detail);
        }
    }
    Ok(())
}

/// Returns the number of closed holds that progress has passed. A hold is counted in front of the
/// progress that passes its end. Before that, every owner may have died with the number unwritten; the
/// next one writes it.
fn passed(rows: &PartitionRows) -> u64 {
    let next = rows.next();
    let is_passed = |hold: &&Hold| hold.state == HoldState::Closed && hold.until <= next;
    rows.holds.iter().filter(is_passed).count() as u64
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ids::CampaignId,
        rows::{HoldKind, Progress},
    };

    #[test]
    fn only_holds_below_progress_must_be_counted() {
        let hold = |(state, until)| Hold {
            campaign: CampaignId::parse("spring").unwrap(),
            partition: 0,
            from: 4,
            number: 1,
            kind: HoldKind::Failure,
            reason: "it failed".to_owned(),
            state,
            until,
        };
        let (open, closed) = (HoldState::Open, HoldState::Closed);
        let holds = [(open, 0), (HoldState::Released, 0), (closed, 8), (closed, 9), (closed, 10)];
        let holds = holds.map(hold).to_vec();
        let progress = Progress { partition: 0, log_epoch: 1, next: 9, last: None };
        let of = |progress| PartitionRows { progress, holds: holds.clone(), ..Default::default() };
        assert_eq!(passed(&of(Some(progress))), 2);
        assert_eq!(passed(&of(None)), 0, "every owner died before progress was written");
    }
}
