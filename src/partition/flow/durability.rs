//! When progress is written, and when closed holds are extended.

use super::{HOLD_SWEEP_INTERVAL_MS, Limits};
use crate::domain::ids::Offset;

/// Durable progress, and the write of the next one.
#[derive(Debug)]
pub(super) struct Durability {
    limits: Limits,
    progress: Offset,
    /// A write is in flight. Progress must be written in order, so there is one at a time.
    writing: bool,
    written_ms: u64,
    swept_ms: u64,
    sweep_asked: bool,
}

/// A write of progress that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Closed holds of campaigns without records are extended as well.
    pub(super) sweep: bool,
}

impl Durability {
    pub(super) fn new(progress: Offset, now_ms: u64, limits: Limits) -> Self {
        let (written_ms, swept_ms) = (now_ms, now_ms);
        Self { limits, progress, writing: false, written_ms, swept_ms, sweep_asked: false }
    }

    /// Returns durable progress.
    pub(super) fn progress(&self) -> Offset {
        self.progress
    }

    /// Asks for a sweep with the next write.
    pub(super) fn sweep_soon(&mut self) {
        self.sweep_asked = true;
    }

    /// Returns whether a write may begin: progress is a number of records or some time behind.
    ///
    /// Holds of campaigns without records are extended in sweeps only. A new owner that finds such
    /// a hold short of progress only searches in vain for records that passed under it.
    pub(super) fn due(&mut self, watermark: Offset, now_ms: u64) -> Option<Due> {
        let Limits { progress_records, progress_interval_ms, .. } = self.limits;
        let behind = watermark.saturating_sub(self.progress) >= progress_records;
        let late = now_ms.saturating_sub(self.written_ms) >= progress_interval_ms;
        if self.writing || !(behind || late) {
            return None;
        }
        let sweep =
            self.sweep_asked || now_ms.saturating_sub(self.swept_ms) >= HOLD_SWEEP_INTERVAL_MS;
        if sweep {
            self.swept_ms = now_ms;
            self.sweep_asked = false;
        }
        Some(Due { sweep })
    }

    /// Notes that a write begins.
    pub(super) fn begin(&mut self) {
        self.writing = true;
    }

    /// Notes that `progress` is durable.
    pub(super) fn written(&mut self, progress: Offset, now_ms: u64) {
        self.writing = false;
        self.written_ms = now_ms;
        self.progress = self.progress.max(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_written_when_behind_or_late() {
        let mut durability = Durability::new(100, 0, Limits::default());
        assert_eq!(durability.due(100 + Limits::default().progress_records - 1, 0), None);
        assert!(durability.due(100 + Limits::default().progress_records, 0).is_some());
        assert!(durability.due(101, Limits::default().progress_interval_ms).is_some());
    }

    #[test]
    fn progress_has_one_write_and_never_falls() {
        let mut durability = Durability::new(100, 0, Limits::default());
        durability.begin();
        assert_eq!(durability.due(9_999, 9_999), None);
        durability.written(90, 9_999);
        assert_eq!(durability.progress(), 100);
    }

    #[test]
    fn a_sweep_comes_with_time_or_when_asked_for() {
        let mut durability = Durability::new(100, 0, Limits::default());
        assert_eq!(
            durability.due(101, Limits::default().progress_interval_ms),
            Some(Due { sweep: false })
        );
        durability.sweep_soon();
        assert_eq!(
            durability.due(101, Limits::default().progress_interval_ms),
            Some(Due { sweep: true })
        );
        assert_eq!(durability.due(101, HOLD_SWEEP_INTERVAL_MS * 2), Some(Due { sweep: true }));
    }
}
