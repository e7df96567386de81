//! The only way into a coupon actor. An actor's mailbox has no bound; the handle is the bound.

use ractor::ActorRef;

use super::{messages::CouponMessage, task::TaskGuard};
use crate::{
    check_invariant,
    partition::{flow::BATCHES_MAX, fold::Batch},
};

/// Hands batches to one incarnation of a coupon actor, and counts those it has not reported.
#[derive(Debug)]
pub struct CouponHandle {
    pub(super) incarnation: u64,
    actor: ActorRef<CouponMessage>,
    unreported: usize,
}

impl CouponHandle {
    /// Wraps an actor that has reported itself started.
    #[must_use]
    pub fn new(incarnation: u64, actor: ActorRef<CouponMessage>) -> Self {
        Self { incarnation, actor, unreported: 0 }
    }

    /// Hands a batch over.
    ///
    /// # Panics
    /// If the actor has [`BATCHES_MAX`] batches already.
    pub fn send(&mut self, batch: Batch) {
        check_invariant!(Bounded, self.unreported < BATCHES_MAX, "{} batches", self.unreported);
        self.unreported += 1;
        // An error means that the actor has ended. Its supervisor reports that, and the flow then
        // sends the batch to the next incarnation.
        let _ended = self.actor.cast(CouponMessage::Decide(batch));
    }

    /// Counts a batch as reported.
    pub fn reported(&mut self) {
        self.unreported = self.unreported.saturating_sub(1);
    }

    /// Runs `future` until the guard is dropped. A panic in it ends the actor.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> TaskGuard {
        TaskGuard::spawn(&self.actor, future)
    }
}
