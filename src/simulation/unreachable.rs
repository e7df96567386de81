//! Rows that cannot be read or written while all others can.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::link::Failed;
use crate::{
    domain::ids::{CampaignId, Partition},
    store::{StoreError, Unreadable},
};

/// Whose rows they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Campaign(CampaignId),
    /// One bucket of a campaign's by-user view.
    ByUser(CampaignId, u8),
    /// The holds of a partition.
    Holds(Partition),
}

/// What becomes of a call about such rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Why {
    /// It waits until the rows can be reached again.
    Hangs,
    Fails,
    /// Reads only: the rows cannot be decoded.
    Undecodable,
}

struct Trouble {
    why: Why,
    /// Calls that hang. They go on when their sender is gone.
    hung: Vec<oneshot::Sender<()>>,
}

/// The rows that cannot be reached now.
#[derive(Default)]
pub(super) struct Unreachable(Mutex<BTreeMap<Whose, Trouble>>);

impl Unreachable {
    pub(super) fn set(&self, whose: Whose, why: Why) {
        self.0.lock().insert(whose, Trouble { why, hung: Vec::new() });
    }

    pub(super) fn end(&self, whose: &Whose) {
        self.0.lock().remove(whose);
    }

    pub(super) fn end_all(&self) {
        self.0.lock().clear();
    }

    /// Lets a call pass, or not.
    pub(super) async fn pass(&self, whose: Whose, is_read: bool) -> Result<(), StoreError> {
        let hung = {
            let mut all = self.0.lock();
            let Some(trouble) = all.get_mut(&whose) else { return Ok(()) };
            match trouble.why {
                Why::Fails => return Err(StoreError::new("reaching the rows", Failed::Refused)),
                Why::Undecodable if is_read => {
                    return Err(StoreError::new("reading the rows", Unreadable::new("a row")));
                }
                Why::Undecodable => return Ok(()),
                Why::Hangs => {
                    let (sender, hung) = oneshot::channel::<()>();
                    trouble.hung.push(sender);
                    hung
                }
            }
        };
        let _gone = hung.await;
        Ok(())
    }
}
