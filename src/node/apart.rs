//! Work that runs beside the node's runtime, or as one of its tasks.

use std::{future::Future, io, time::Duration};

use tokio::{runtime, sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Longest wait for blocking calls of a runtime that ends: joining a group takes about a millisecond.
const CALLS_WITHIN: Duration = Duration::from_millis(100);

/// Running work. Dropping it ends the work soon.
pub(crate) enum Work {
    /// A task of the node's runtime.
    Task(JoinHandle<()>),
    /// A thread with a runtime of its own, which goes on while all workers of the node's runtime are
    /// blocked.
    Thread {
        /// Cancelled when the work should end.
        stop: CancellationToken,
        /// Closed when the thread has ended.
        ended: oneshot::Receiver<()>,
    },
}

impl Work {
    /// Runs `work` as a task of the current runtime.
    pub(crate) fn task(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::Task(tokio::spawn(work))
    }

    /// Runs `work` on a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread, or no runtime.
    pub(crate) fn thread(
        name: &str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let (stop, (ending, ended)) = (CancellationToken::new(), oneshot::channel());
        let stopped = stop.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _ending: oneshot::Sender<()> = ending;
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => {}
                    () = work => {}
                }
            });
            runtime.shutdown_timeout(CALLS_WITHIN);
        })?;
        Ok(Self::Thread { stop, ended })
    }

    /// Waits until the work has ended, which it should not do by itself.
    pub(crate) async fn ended(&mut self) {
        match self {
            Self::Task(task) => drop(task.await),
            Self::Thread { ended, .. } => drop(ended.await),
        }
    }

    /// Ends the work.
    pub(crate) async fn end(&mut self) {
        match self {
            Self::Task(task) => task.abort(),
            Self::Thread { stop, .. } => stop.cancel(),
        }
        self.ended().await;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        match self {
            Self::Task(task) => task.abort(),
            Self::Thread { stop, .. } => stop.cancel(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::mpsc};

    use super::*;

    #[test]
    fn a_thread_goes_on_while_the_runtime_is_blocked() {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let (said, heard) = mpsc::channel();
        runtime.block_on(async {
            let mut work = Work::thread("apart", async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                said.send(()).unwrap();
                pending().await
            })
            .unwrap();
            // Blocks the only thread of this runtime.
            heard.recv_timeout(Duration::from_secs(60)).unwrap();
            work.end().await;
        });
        assert!(heard.recv().is_err(), "the work is dropped");
    }

    #[tokio::test]
    async fn work_that_panics_has_ended() {
        let mut thread = Work::thread("apart", async { panic!("as a test wants it") }).unwrap();
        thread.ended().await;
        let mut task = Work::task(async { panic!("as a test wants it") });
        task.ended().await;
    }
}
