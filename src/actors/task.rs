//! Tasks that belong to an actor, and retries without end.

use std::{any::Any, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use ractor::{ActorRef, Message};
use tokio::task::JoinHandle;

use super::Environment;
use crate::retry::Backoff;

/// Pauses of a retry. The longest one is the longest delay after a store or log has recovered.
const RETRY: Backoff = Backoff::doubling(Duration::from_millis(20), Duration::from_secs(1));

/// A task of an actor. Dropping the guard aborts the task. A panic in the task ends the actor, with
/// the panic's text as the reason: an actor that waits for the task would wait forever.
#[derive(Debug)]
pub(super) struct TaskGuard(JoinHandle<()>);

impl TaskGuard {
    /// Runs `future` for `owner` until it ends or the guard is dropped.
    pub(super) fn spawn<M: Message>(
        owner: &ActorRef<M>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let owner = owner.clone();
        Self(tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                owner.stop(Some(panic_text(&*panic)));
            }
        }))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the message of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = literal.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a task panicked without a text".to_owned())
}

/// Repeats `attempt` until it succeeds. Use it only where nothing can go on without the result: it
/// ends with success, or with its task.
pub(super) async fn until_done<T, E, F>(
    environment: &Environment,
    operation: &str,
    attempt: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, E>>,
    E: std::error::Error,
{
    RETRY.until_done(&*environment.clock, operation, attempt).await
}
