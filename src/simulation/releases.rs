//! Judges who ended a hold: only a record of the log that names it releases it, and a contradiction ends
//! in no other way.

use std::collections::BTreeSet;

use super::{
    evidence::{Evidence, Violation},
    landed::Landed,
    node::Engines,
};
use crate::{
    domain::{
        ids::{CampaignId, Partition},
        record::{Change, Record},
        rows::{Hold, HoldKind, HoldName, HoldState, Row},
    },
    wire::{
        LogRecord,
        codec::{Codec, Decoded},
    },
};

/// Returns the campaign and the holds that a record releases, if it is a release record.
pub(super) fn released_by(
    codec: &Codec,
    partition: Partition,
    record: &LogRecord,
) -> Option<(CampaignId, Vec<HoldName>)> {
    match codec.decode(partition, record) {
        Decoded::Record(Record::Control(control)) => match control.change {
            Change::Released { holds } => Some((control.campaign, holds)),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn violations(
    engines: &Engines,
    evidence: &Evidence,
    history: &[Landed],
) -> Vec<Violation> {
    let mut named = BTreeSet::new();
    for (partition, log) in (0..).zip(engines.brokers.lock().whole()) {
        for record in log.records.values() {
            let (campaign, holds) = match released_by(&engines.codec, partition, record) {
                Some(release) => release,
                None => continue,
            };
            let names = holds.into_iter().map(|name| (campaign.clone(), name.from, name.number));
            named.extend(names);
        }
    }
    let mut released = BTreeSet::new();
    let mut broken = Vec::new();
    for landed in history {
        let Row::Hold(hold) = &landed.row else { continue };
        let Hold { campaign, from, number, kind, state, .. } = hold;
        // A log that was damaged may have lost the record.
        if evidence.is_damaged(hold.partition) {
            continue;
        }
        let key = (campaign.clone(), *from, *number);
        let mut says = |invariant, what: &str| {
            let detail = format!("hold {number} of {campaign} from {from} {what}");
            broken.push(Violation::new(invariant, detail));
        };
        match state {
            HoldState::Open => {}
            HoldState::Released => {
                if !named.contains(&key) {
                    says("INV-11", "was released, and no record of the log names it");
                }
                released.insert(key);
            }
            HoldState::Closed if *kind == HoldKind::Contradiction && !released.contains(&key) => {
                says("INV-12", "is a contradiction, and ended without a release");
            }
            HoldState::Closed => {}
        }
    }
    broken
}
