//! Retries: how long to pause between attempts, and when to give up.

use std::{error::Error, future::Future, time::Duration};

use tokio::time::sleep;

use crate::{clock::Clock, telemetry::Chain};

/// Pauses between attempts, from the first to the longest one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    first: Duration,
    factor: u32,
    max: Duration,
}

impl Backoff {
    /// Pauses equally long each time.
    #[must_use]
    pub(crate) const fn every(pause: Duration) -> Self {
        Self { first: pause, factor: 1, max: pause }
    }

    /// Starts with `first` and doubles the pause up to `max`.
    #[must_use]
    pub(crate) const fn doubling(first: Duration, max: Duration) -> Self {
        Self { first, factor: 2, max }
    }

    /// Gives up after `count` attempts; the first one counts too.
    #[must_use]
    pub(crate) const fn attempts(self, count: u32) -> Bounded {
        Bounded { backoff: self, attempts_max: count }
    }

    /// Returns the pauses for a loop that decides by itself what a failure is. A new value starts
    /// again with the first pause.
    #[must_use]
    pub(crate) const fn pauses(self) -> Pauses {
        Pauses { backoff: self, next: self.first }
    }

    /// Repeats `attempt` until it succeeds. Logs each failure under `operation`.
    ///
    /// Use it only where nothing can go on without the result, and where dropping the future is
    /// how the caller stops.
    pub(crate) async fn until_done<T, E, F>(
        self,
        clock: &dyn Clock,
        operation: &str,
        mut attempt: impl FnMut() -> F,
    ) -> T
    where
        E: Error,
        F: Future<Output = Result<T, E>>,
    {
        let mut pauses = self.pauses();
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(error) => clock.sleep(pauses.failed(operation, &error)).await,
            }
        }
    }
}

/// A [`Backoff`] that gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounded {
    backoff: Backoff,
    attempts_max: u32,
}

impl Bounded {
    /// Repeats `attempt` until it succeeds or the last attempt has failed. Logs each failure under
    /// `operation`.
    ///
    /// # Errors
    /// The last error, or the first one for which `is_transient` is false.
    pub(crate) async fn run<T, E, F>(
        self,
        operation: &str,
        is_transient: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        E: Error,
        F: Future<Output = Result<T, E>>,
    {
        let mut pauses = self.backoff.pauses();
        let mut attempts = 1;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if attempts >= self.attempts_max || !is_transient(&error) {
                return Err(error);
            }
            sleep(pauses.failed(operation, &error)).await;
            attempts += 1;
        }
    }
}

/// The pauses of one loop.
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: Backoff,
    next: Duration,
}

impl Pauses {
    /// Returns the next pause.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * self.backoff.factor).min(self.backoff.max);
        pause
    }

    /// Logs a failure of `operation` and returns the pause before the next attempt.
    pub(crate) fn failed(&mut self, operation: &str, error: &dyn Error) -> Duration {
        let pause = self.next_pause();
        tracing::warn!(
            operation,
            error = %Chain(error),
            retry_in_ms = pause.as_millis() as u64,
            "operation failed, retrying"
        );
        pause
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::clock::SystemClock;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Debug, thiserror::Error)]
    #[error("attempt {0}")]
    struct Failed(u32);

    /// Returns an attempt that fails `failures` times, then gives the number of the attempt.
    fn failing(failures: u32) -> impl FnMut() -> std::future::Ready<Result<u32, Failed>> {
        let mut attempt = 0;
        move || {
            attempt += 1;
            std::future::ready(if attempt > failures { Ok(attempt) } else { Err(Failed(attempt)) })
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Backoff::doubling(SECOND, 5 * SECOND).pauses();
        let seconds: Vec<_> = (0..5).map(|_| pauses.next_pause().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 5, 5]);
        let mut pauses = Backoff::every(SECOND).pauses();
        assert_eq!([pauses.next_pause(), pauses.next_pause()], [SECOND; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unbounded_retry_ends_with_success() {
        let started = Instant::now();
        let done = Backoff::doubling(SECOND, 4 * SECOND)
            .until_done(&SystemClock, "test", failing(4))
            .await;
        assert_eq!((done, started.elapsed().as_secs()), (5, 1 + 2 + 4 + 4));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_counted() {
        let retry = Backoff::every(SECOND).attempts(3);
        assert_eq!(retry.run("test", |_| true, failing(2)).await.unwrap(), 3);
        assert_eq!(retry.run("test", |_| true, failing(3)).await.unwrap_err().0, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_lasts_is_not_retried() {
        let retry = Backoff::every(SECOND).attempts(9);
        let is_transient = |error: &Failed| error.0 < 2;
        assert_eq!(retry.run("test", is_transient, failing(9)).await.unwrap_err().0, 2);
    }
}
