//! The thread that looks at clock and storage while nothing is written.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;

use super::{hooks::Fatal, opened::OpenedStorage, record_clock::RecordClock};

/// Time between two looks. A folder that vanished ends the process within a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Owns the thread. Dropping it waits until the thread has ended.
pub(super) struct Watcher {
    /// Dropping it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread. It calls `fatal` once if the storage is not the one that was opened, and
    /// ends.
    pub(super) fn start(
        clock: Arc<RecordClock>,
        storage: Arc<Mutex<OpenedStorage>>,
        fatal: Fatal,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let watch = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                // A step is told to the log, and appends see it by themselves.
                let _step = clock.look();
                if let Err(changed) = storage.lock().check() {
                    fatal(&changed);
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("storage watch".to_owned()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and nothing is left to be done if it has.
            let _ = thread.join();
        }
    }
}
