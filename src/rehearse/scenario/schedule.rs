//! When each request of an open loop is due.

use super::Stage;

/// Yields the times at which requests are due, in seconds from the start, each with its stage. They
/// follow from the stages alone: an answer that is late moves no later request.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    stages: Vec<Stage>,
    stage: usize,
    /// When the current stage began.
    began: f64,
    /// Requests due before the current stage, with fractions.
    before: f64,
    /// Number of the next request.
    next: u64,
}

impl Schedule {
    /// Returns the schedule of these stages.
    #[must_use]
    pub(crate) fn new(stages: &[Stage]) -> Self {
        Self { stages: stages.to_vec(), stage: 0, began: 0.0, before: 0.0, next: 0 }
    }
}

impl Iterator for Schedule {
    /// Seconds from the start, and the index of the stage.
    type Item = (f64, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stage = self.stages.get(self.stage)?;
            // The n-th request is due when n + 1/2 requests have become due: the first of a constant
            // rate comes half a gap after the start, and ramps from 0 begin with no burst.
            let wanted = self.next as f64 + 0.5 - self.before;
            if let Some(after) = reached(stage, wanted) {
                self.next += 1;
                return Some((self.began + after, self.stage));
            }
            self.before += total(stage);
            self.began += stage.seconds;
            self.stage += 1;
        }
    }
}

/// Returns how many requests become due in a stage.
fn total(stage: &Stage) -> f64 {
    stage.seconds * f64::midpoint(stage.from, stage.to)
}

/// Returns the seconds after which `wanted` requests of a stage have become due; None if there are
/// not so many.
fn reached(stage: &Stage, wanted: f64) -> Option<f64> {
    if wanted >= total(stage) {
        return None;
    }
    // from·t + slope·t²/2 = wanted, in the form that is exact for a slope of 0.
    let slope = (stage.to - stage.from) / stage.seconds;
    let root = (stage.from * stage.from + 2.0 * slope * wanted).max(0.0).sqrt();
    Some((2.0 * wanted / (stage.from + root)).clamp(0.0, stage.seconds))
}
