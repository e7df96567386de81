//! Which call of a client or an operator appended which records: an error says that nothing of its
//! call is in the log.

use std::collections::BTreeMap;

use crate::domain::ids::{Offset, Partition};

tokio::task_local! {
    /// The call in which a task is.
    static CALL: u64;
}

/// What one call appended.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// How often it called the log.
    pub(super) times: u32,
    /// Where its records landed, at whatever time.
    pub(super) landed: Vec<(Partition, Offset)>,
}

/// What each call appended.
#[derive(Default)]
pub(super) struct Appends {
    calls: u64,
    sent: BTreeMap<u64, Sent>,
}

impl Appends {
    /// Returns the number of a new call.
    pub(super) fn begin(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// Notes that the log is called. Returns the call in which that is, if it is in one.
    pub(super) fn send(&mut self) -> Option<u64> {
        let call = CALL.try_with(|call| *call).ok()?;
        self.sent.entry(call).or_default().times += 1;
        Some(call)
    }

    pub(super) fn land(&mut self, call: Option<u64>, partition: Partition, offset: Offset) {
        let sent = call.and_then(|call| self.sent.get_mut(&call));
        sent.into_iter().for_each(|sent| sent.landed.push((partition, offset)));
    }

    pub(super) fn of(&self, call: u64) -> Option<&Sent> {
        self.sent.get(&call)
    }
}

/// Makes a call: what it appends is counted for it.
pub(super) async fn calling<F: Future>(call: u64, work: F) -> F::Output {
    CALL.scope(call, work).await
}
