//! The thread that looks at clock, storage and free space while nothing is written.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;

use super::{hooks::Fatal, opened::OpenedStorage, record_clock::RecordClock, space::Reserve};

/// Time between two looks. A folder that vanished ends the process within a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Owns the thread. Dropping it waits until the thread has ended.
pub(super) struct Watcher {
    /// Dropping it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Whether free space is known to be short.
    pub(super) space_short: Arc<AtomicBool>,
}

impl Watcher {
    /// Starts the thread. It keeps [`Self::space_short`] up to date, and calls `fatal` once if the storage is not the one that was opened, and
    /// ends.
    pub(super) fn start(
        clock: Arc<RecordClock>,
        storage: Arc<Mutex<OpenedStorage>>,
        reserve: Reserve,
        fatal: Fatal,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let space_short = Arc::new(AtomicBool::new(false));
        let seen = space_short.clone();
        let watch = move || {
            loop {
                seen.store(reserve.is_short(), Ordering::Relaxed);
                if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                // A step is told to the log, and appends see it by themselves.
                let _step = clock.look();
                if let Err(changed) = storage.lock().check() {
                    fatal(&changed);
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("storage watch".to_owned()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread), space_short })
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
