//! Keeps the key set of an issuer: read at start, again from time to time, and when a token names a key
//! that is not in it. The last good set stays while the source cannot be read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{
    keys::KeySet,
    source::{KEY_SET_BYTES_MAX, READ_WITHIN, Source, SourceError},
};
use crate::{clock::SharedClock, retry::Backoff};

/// Least time between two reads because of unknown keys: tokens with made-up ones cost nothing to send.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Pauses while the source cannot be read.
const RETRY: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(60));

/// Bytes of the key set in use and of the next one, each as it is read and as keys.
pub(crate) const KEYS_BYTES: usize = 4 * KEY_SET_BYTES_MAX;

/// A key set with its number. Tokens that were verified by another one are verified again.
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) keys: KeySet,
    digest: [u8; 32],
}

/// The key set of an issuer. [`Self::run`] keeps it up to date.
pub(crate) struct KeyRing {
    source: Source,
    clock: SharedClock,
    current: RwLock<Option<Arc<Numbered>>>,
    /// When a read was last asked for because of an unknown key.
    asked: Mutex<Option<Instant>>,
    /// How many reads were asked for, and how many of these have ended.
    wanted: watch::Sender<u64>,
    done: watch::Sender<u64>,
}

impl KeyRing {
    /// Returns a ring without keys.
    pub(crate) fn new(source: Source, clock: SharedClock) -> Self {
        Self {
            source,
            clock,
            current: RwLock::default(),
            asked: Mutex::default(),
            // The read at start is the first that is wanted.
            wanted: watch::Sender::new(1),
            done: watch::Sender::new(0),
        }
    }

    /// Reads the key set now, every few minutes, and when it is asked for. Never ends by itself; it can be
    /// dropped and run again.
    pub(crate) async fn run(&self) {
        let mut wanted = self.wanted.subscribe();
        let mut pauses = RETRY.pauses();
        loop {
            // What is asked for from here on needs another read: this one may be over before.
            let asked = *wanted.borrow_and_update();
            let pause = match self.read().await {
                Ok(()) => {
                    pauses = RETRY.pauses();
                    self.source.every()
                }
                Err(error) => {
                    let operation = format!("reading the keys of {}", self.source.name());
                    pauses.failed(&operation, &error)
                }
            };
            self.done.send_replace(asked);
            let sleep = self.clock.sleep(pause);
            tokio::select! {
                () = sleep => {}
                // The sender is ours, so that it is not closed.
                _ = wanted.changed() => {}
            }
        }
    }

    /// Waits until the source was read once, for at most as long as a read takes. Whether it could be read
    /// is another matter.
    pub(crate) async fn first_read(&self) {
        self.read_of(1).await;
    }

    /// Returns the key set, once there is one.
    pub(super) fn current(&self) -> Option<Arc<Numbered>> {
        self.current.read().clone()
    }

    /// Returns another key set than number `seen`, in which a key was missing. Reads the source for it, if
    /// that was not asked for within [`ASK_EVERY`].
    pub(super) async fn newer_than(&self, seen: u64) -> Option<Arc<Numbered>> {
        let wanted = {
            let mut asked = self.asked.lock();
            let now = self.clock.instant();
            let is_over = |at: Instant| now.saturating_duration_since(at) >= ASK_EVERY;
            if asked.is_none_or(is_over) {
                *asked = Some(now);
                self.wanted.send_modify(|count| *count += 1);
            }
            *self.wanted.borrow()
        };
        self.read_of(wanted).await;
        self.current().filter(|current| current.number != seen)
    }

    /// Waits until the read with this number has ended.
    async fn read_of(&self, number: u64) {
        let mut done = self.done.subscribe();
        let ended = done.wait_for(|done| *done >= number);
        // Another read may have to end first.
        let _ended = self.clock.timeout(2 * READ_WITHIN, ended).await;
    }

    async fn read(&self) -> Result<(), SourceError> {
        let read = self.clock.timeout(READ_WITHIN, self.source.read()).await;
        let bytes = read.unwrap_or(Err(SourceError::TooSlow))?;
        let digest = Sha256::digest(&bytes).into();
        let current = self.current();
        if current.as_ref().is_some_and(|current| current.digest == digest) {
            return Ok(());
        }
        let keys = KeySet::parse(&bytes)?;
        let number = current.map_or(1, |current| current.number + 1);
        tracing::info!(source = self.source.name(), keys = keys.len(), number, "key set read");
        *self.current.write() = Some(Arc::new(Numbered { number, keys, digest }));
        Ok(())
    }
}
