//! The only way into a coupon actor. An actor's mailbox has no bound; the handle is the bound.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ractor::ActorRef;

use super::{coupon::CouponMessage, task::TaskGuard};
use crate::{
    check_invariant,
    partition::{flow::BATCHES_MAX, fold::Batch},
};

/// Batches that a coupon actor has and has not reported.
#[derive(Debug, Clone, Default)]
pub(super) struct Credit(Arc<AtomicUsize>);

impl Credit {
    /// A batch was reported.
    pub(super) fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hands batches to one incarnation of a coupon actor.
#[derive(Debug, Clone)]
pub struct CouponHandle {
    pub(super) incarnation: u64,
    actor: ActorRef<CouponMessage>,
    credit: Credit,
}

impl CouponHandle {
    pub(super) fn new(incarnation: u64, actor: ActorRef<CouponMessage>, credit: Credit) -> Self {
        Self { incarnation, actor, credit }
    }

    /// Hands a batch over. An actor that has ended takes none, and its end is told elsewhere.
    ///
    /// # Panics
    /// When more batches are under way than the flow may send.
    pub fn send(&self, batch: Batch) {
        let under_way = self.credit.0.fetch_add(1, Ordering::Relaxed);
        check_invariant!(Bounded, under_way < BATCHES_MAX, "{under_way} batches under way");
        // An error means that the actor has ended; its supervisor says so, and the flow sends
        // the batch to the next incarnation.
        let _ended = self.actor.cast(CouponMessage::Decide(batch));
    }

    /// Runs `future` for the actor, which ends when it panics, until the guard is dropped.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> TaskGuard {
        TaskGuard::spawn(&self.actor, future)
    }

    /// Makes the actor panic, as a bug would.
    pub(super) fn crash(&self) {
        let _ended = self.actor.cast(CouponMessage::Crash);
    }
}
