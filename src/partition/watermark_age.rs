//! How long a partition's watermark has stood still while records wait.

use crate::domain::ids::Offset;

/// The age of a watermark. It goes on while the partition is halted: nobody decides then.
#[derive(Debug, Default)]
pub struct WatermarkAge {
    watermark: Offset,
    moved_ms: u64,
    waits: bool,
}

impl WatermarkAge {
    /// Notes the watermark, and whether records wait above it.
    pub fn observe(&mut self, now_ms: u64, watermark: Offset, waits: bool) {
        // A record that comes after a rest waits from now on, not since the rest began.
        if watermark != self.watermark || !self.waits {
            self.moved_ms = now_ms;
        }
        (self.watermark, self.waits) = (watermark, waits);
    }

    /// Returns the age in milliseconds; 0 when nothing waits.
    #[must_use]
    pub fn ms(&self, now_ms: u64) -> u64 {
        if self.waits { now_ms.saturating_sub(self.moved_ms) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_only_while_records_wait() {
        let mut age = WatermarkAge::default();
        age.observe(1_000, 10, false);
        assert_eq!(age.ms(9_000), 0, "nothing waits");
        age.observe(9_000, 10, true);
        assert_eq!(age.ms(9_500), 500, "the record came just now");
        age.observe(12_000, 10, true);
        assert_eq!(age.ms(12_000), 3_000);
        age.observe(13_000, 11, true);
        assert_eq!(age.ms(13_000), 0, "it has moved");
        age.observe(14_000, 11, true);
        age.observe(15_000, 11, false);
        assert_eq!(age.ms(15_000), 0);
    }
}
