//! The tasks of a service. All of them end when the service is shut down or dropped.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::NodeClock;

/// Pause before a task that panicked or returned runs again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Owns the tasks of a service.
#[derive(Debug)]
pub(super) struct Tasks {
    clock: NodeClock,
    end: CancellationToken,
    /// Cancelled when nobody may wait for a decision any more; with `end` at the latest.
    no_waiting: CancellationToken,
    running: Mutex<JoinSet<()>>,
}

impl Tasks {
    pub(super) fn new(clock: NodeClock) -> Self {
        let end = CancellationToken::new();
        Self { clock, no_waiting: end.child_token(), end, running: Mutex::default() }
    }

    /// Spawns `work`. A panic is logged and drops what the future owns, so waiters see their
    /// channel closed. Callers bound concurrency.
    pub(super) fn once(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        let mut running = self.running.lock();
        // Ended tasks stay in the set until they are joined; it would grow with every load.
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            let guarded = AssertUnwindSafe(work).catch_unwind();
            if let Some(Err(_)) = end.run_until_cancelled(guarded).await {
                tracing::error!(task = name, "service task panicked");
            }
        });
    }

    /// Spawns `work` and starts it again after each panic or return, until the service ends.
    pub(super) fn keep<F>(&self, name: &'static str, mut work: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let clock = self.clock.clone();
        self.once(name, async move {
            loop {
                if AssertUnwindSafe(work()).catch_unwind().await.is_err() {
                    tracing::error!(task = name, "service task panicked, restarting it");
                }
                clock.sleep(RESTART_AFTER).await;
            }
        });
    }

    /// Waits until [`Self::stop_waiting`] or [`Self::end`] is called.
    pub(super) async fn no_waiting(&self) {
        self.no_waiting.cancelled().await;
    }

    /// Ends all waits for decisions, and those to come.
    pub(super) fn stop_waiting(&self) {
        self.no_waiting.cancel();
    }

    /// Cancels every task and waits for them.
    pub(super) async fn end(&self) {
        self.end.cancel();
        let mut running = std::mem::take(&mut *self.running.lock());
        while running.join_next().await.is_some() {}
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
