//! What came of a control record, for whoever asks later: who asked, what, before and after.

use serde::{Deserialize, Serialize};

use super::{
    decision::{Decision, Refusal},
    definition::Definition,
    ids::{CampaignId, Position, Timestamp},
    keys::Keys,
    record::{Change, Control},
};

/// The row of one control record, accepted or refused. It decides nothing and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// The campaign.
    #[serde(rename = "campaign_id")]
    pub campaign: CampaignId,
    /// Position of the control record.
    pub position: Position,
    /// Time of the control record.
    pub time: Timestamp,
    /// Who asked. Not `by`, which is a word of CQL.
    #[serde(rename = "asked_by")]
    pub by: String,
    /// Their node makes the change again if another version is in effect.
    pub retried: bool,
    /// What they asked.
    pub change: Change,
    /// The definition in effect at the position; none if the campaign was not defined.
    pub before: Option<Definition>,
    /// The definition in effect from the next position on.
    pub after: Option<Definition>,
    /// Why nothing was changed, if nothing was.
    pub refusal: Option<Refusal>,
    /// Keyed digest over all fields above.
    pub digest: [u8; 16],
}

impl ChangeRow {
    /// Returns the row of a control record that was decided so.
    #[must_use]
    pub fn of(
        keys: &Keys,
        (position, time): (Position, Timestamp),
        control: &Control,
        (before, after): (Option<Definition>, Option<Definition>),
        decision: &Decision,
    ) -> Self {
        let Control { campaign, by, retried, change, .. } = control.clone();
        let refusal = match decision {
            Decision::Refused(refusal) => Some(*refusal),
            _ => None,
        };
        let digest = [0; 16];
        let mut row =
            Self { campaign, position, time, by, retried, change, before, after, refusal, digest };
        row.digest = keys.change_digest(&row);
        row
    }

    /// Returns whether the row is listed. Not, if another version was in effect and the node made the
    /// change again by itself: what came of that is listed, if anything did.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        !(self.retried && self.refusal == Some(Refusal::StaleVersion))
    }
}
