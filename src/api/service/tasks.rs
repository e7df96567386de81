//! The tasks of a service: all of them end when it is shut down or dropped.

use std::{
    panic::AssertUnwindSafe,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Pause before a task that panicked runs again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Locks `mutex`, poisoned or not: what it guards here is knowledge that is read again, and a
/// panic elsewhere must not take the service with it.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Owns the tasks of a service.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    end: CancellationToken,
    running: Mutex<JoinSet<()>>,
}

impl Tasks {
    /// Runs `work` once. If it panics, whoever waits for its result is told so by the result's
    /// absence; the panic is logged. Its callers bound how many run at once.
    pub(super) fn once(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        let mut running = lock(&self.running);
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            let guarded = AssertUnwindSafe(work).catch_unwind();
            if let Some(Err(_)) = end.run_until_cancelled(guarded).await {
                tracing::error!(task = name, "task of the service panicked");
            }
        });
    }

    /// Runs `work` for as long as the service lives, again after each panic or end.
    pub(super) fn keep<F>(&self, name: &'static str, mut work: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.once(name, async move {
            loop {
                if AssertUnwindSafe(work()).catch_unwind().await.is_err() {
                    tracing::error!(task = name, "task of the service panicked, starting it again");
                }
                tokio::time::sleep(RESTART_AFTER).await;
            }
        });
    }

    /// Waits until the tasks are ended.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Ends every task and waits for them.
    pub(super) async fn end(&self) {
        self.end.cancel();
        let mut running = std::mem::take(&mut *lock(&self.running));
        while running.join_next().await.is_some() {}
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
