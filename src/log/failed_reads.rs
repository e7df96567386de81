//! When reads that fail at one position mean that its record cannot be read.

use super::ReadError;
use crate::{domain::ids::Offset, telemetry::Chain};

/// How long reads may fail at one position before its record counts as unreadable, in milliseconds.
/// Longer than the election of a leader, in which reads may fail as well.
const FAILING_MAX_MS: u64 = 10_000;

/// Longest pause between two reads that fail one after the other, in milliseconds: a read that fails
/// may take 3 s.
const PAUSE_MAX_MS: u64 = 5_000;

/// The failures of one reader at its position. Begin a new value once a read has succeeded.
#[derive(Debug, Default)]
pub(crate) struct FailedReads {
    /// When the first and the latest of them failed.
    failed_ms: Option<(u64, u64)>,
}

impl FailedReads {
    /// Judges the error of a reader whose next record is at or above `wanted`. Returns
    /// [`ReadError::Failed`] for as long as another try may help, then [`ReadError::Unreadable`].
    /// Other errors are final, and stay as they are.
    pub(crate) fn judge(&mut self, error: ReadError, wanted: Offset, now_ms: u64) -> ReadError {
        let ReadError::Failed(failure) = error else { return error };
        // While nothing is tried, nothing fails: a reader may wait for its turn for long.
        let latest = self.failed_ms.filter(|(_, at)| now_ms.saturating_sub(*at) <= PAUSE_MAX_MS);
        let (since_ms, _) =
            *self.failed_ms.insert((latest.map_or(now_ms, |(since, _)| since), now_ms));
        if now_ms.saturating_sub(since_ms) < FAILING_MAX_MS {
            return ReadError::Failed(failure);
        }
        let detail = Chain(&failure).to_string();
        ReadError::Unreadable { wanted, detail, other_build: false }
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
        for now_ms in [500, 501, 5_501, 499 + FAILING_MAX_MS] {
            assert!(matches!(reads.judge(failed(), 7, now_ms), ReadError::Failed(_)), "{now_ms}");
        }
        let ReadError::Unreadable { wanted, detail, .. } =
            reads.judge(failed(), 7, 500 + FAILING_MAX_MS)
        else {
            panic!("it failed for long enough");
        };
        assert_eq!((wanted, detail.as_str()), (7, "reading: a bad disk"));
    }

    #[test]
    fn time_without_a_try_does_not_count() {
        let mut reads = FailedReads::default();
        for now_ms in [0, PAUSE_MAX_MS + 1, FAILING_MAX_MS, FAILING_MAX_MS + PAUSE_MAX_MS] {
            assert!(matches!(reads.judge(failed(), 7, now_ms), ReadError::Failed(_)), "{now_ms}");
        }
        let judged = reads.judge(failed(), 7, FAILING_MAX_MS + PAUSE_MAX_MS + 1);
        assert!(matches!(judged, ReadError::Unreadable { .. }), "{judged:?}");
    }

    #[test]
    fn final_errors_stay_as_they_are() {
        let mut reads = FailedReads::default();
        let outside = Bounds { low: 5, high: 8 }.without(3);
        assert!(matches!(reads.judge(outside, 3, 0), ReadError::OutOfRange { wanted: 3, .. }));
        let detail = "no such codec".to_owned();
        let unreadable = ReadError::Unreadable { wanted: 6, detail, other_build: false };
        let judged = reads.judge(unreadable, 5, 0);
        assert!(matches!(judged, ReadError::Unreadable { wanted: 6, .. }), "{judged:?}");
    }
}
