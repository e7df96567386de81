//! A read in flight, shared by all callers that wait for it.

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug)]
enum State<R> {
    Queued,
    Reading,
    Done(R),
}

/// A read in flight, shared by all callers that wait for it.
///
/// Not a `watch` channel, which wakes its receivers in an order drawn by chance: those that came
/// first go on first here, and a simulated world takes the same course twice.
#[derive(Debug)]
pub(super) struct Load<R> {
    state: Mutex<State<R>>,
    done: Notify,
}

impl<R: Clone> Load<R> {
    /// Returns a read that has not begun.
    pub(super) fn queued() -> Self {
        Self { state: Mutex::new(State::Queued), done: Notify::new() }
    }

    /// Returns whether the read has begun.
    pub(super) fn was_reading(&self) -> bool {
        !matches!(*self.state.lock(), State::Queued)
    }

    /// Returns whether the read has ended.
    pub(super) fn is_done(&self) -> bool {
        matches!(*self.state.lock(), State::Done(_))
    }

    /// Notes that the read has begun.
    pub(super) fn begin(&self) {
        *self.state.lock() = State::Reading;
    }

    /// Ends the read with its result.
    pub(super) fn done(&self, result: R) {
        *self.state.lock() = State::Done(result);
        self.done.notify_waiters();
    }

    /// Waits for the result.
    pub(super) async fn finished(&self) -> R {
        loop {
            // Registered before the look, so that no change is missed.
            let changed = self.done.notified();
            if let State::Done(result) = &*self.state.lock() {
                return result.clone();
            }
            changed.await;
        }
    }
}
