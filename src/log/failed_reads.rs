//! When reads that fail at one position mean that its record cannot be read.

use super::ReadError;
use crate::{domain::ids::Offset, telemetry::Chain};

/// How long reads may fail at one position before its record counts as unreadable, in milliseconds.
/// Longer than the election of a leader, in which reads may fail as well.
const FAILING_MAX_MS: u64 = 10_000;

/// The failures of one reader at its position. Begin a new value once a read has succeeded.
#[derive(Debug, Default)]
pub(crate) struct FailedReads {
    since_ms: Option<u64>,
}

impl FailedReads {
    /// Judges the error of a reader whose next record is at or above `wanted`. Returns
    /// [`ReadError::Failed`] for as long as another try may help, then [`ReadError::Unreadable`].
    /// Other errors are final, and stay as they are.
    pub(crate) fn judge(&mut self, error: ReadError, wanted: Offset, now_ms: u64) -> ReadError {
        let ReadError::Failed(failure) = error else { return error };
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < FAILING_MAX_MS {
            return ReadError::Failed(failure);
        }
        ReadError::Unreadable { wanted, detail: Chain(&failure).to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Bounds, LogError};

    fn failed() -> ReadError {
        LogError { operation: "reading".to_owned(), source: "a bad disk".into() }.into()
    }

    #[test]
    fn reads_that_fail_for_long_are_unreadable() {
        let mut reads = FailedReads::default();
        for now_ms in [500, 501, 499 + FAILING_MAX_MS] {
            assert!(matches!(reads.judge(failed(), 7, now_ms), ReadError::Failed(_)), "{now_ms}");
        }
        let ReadError::Unreadable { wanted, detail } =
            reads.judge(failed(), 7, 500 + FAILING_MAX_MS)
        else {
            panic!("it failed for long enough");
        };
        assert_eq!((wanted, detail.as_str()), (7, "reading: a bad disk"));
    }

    #[test]
    fn final_errors_stay_as_they_are() {
        let mut reads = FailedReads::default();
        let outside = Bounds { low: 5, high: 8 }.without(3);
        assert!(matches!(reads.judge(outside, 3, 0), ReadError::OutOfRange { wanted: 3, .. }));
        let detail = "no such codec".to_owned();
        let unreadable = ReadError::Unreadable { wanted: 6, detail };
        let judged = reads.judge(unreadable, 5, 0);
        assert!(matches!(judged, ReadError::Unreadable { wanted: 6, .. }), "{judged:?}");
    }
}
