//! What every actor of a node shares.

use std::{sync::Arc, time::Instant};

use tokio::sync::Semaphore;

use super::Directory;
use crate::{
    clock::SharedClock,
    domain::{ids::Partition, keys::Keys},
    feed::DecisionFeed,
    log::RequestLog,
    store::CouponStore,
    wire::{codec::Codec, decode_step::DecodeStep},
};

/// Campaigns that load their rows at once. Each has a few pages in memory; more would only make
/// all of them late.
const LOADS_MAX: usize = 8;

/// Ports, keys and bounds that the actors of one node share.
pub struct Environment {
    /// Records in.
    pub log: Arc<dyn RequestLog>,
    /// Rows.
    pub store: Arc<dyn CouponStore>,
    /// Decisions out.
    pub feed: Arc<dyn DecisionFeed>,
    /// Bytes ↔ records.
    pub codec: Codec,
    /// The instance's keys.
    pub keys: Arc<Keys>,
    /// Which life of the log this is.
    pub log_epoch: u32,
    /// Time.
    pub clock: SharedClock,
    /// A record more than this far ahead of the node's clock halts its partition, in
    /// milliseconds: a database refuses rows from the far future. None where it does not.
    pub future_max_ms: Option<i64>,
    /// What the actors tell of themselves.
    pub directory: Arc<Directory>,
    /// What the actors share beside all of this.
    pub shared: Shared,
}

impl Environment {
    /// What becomes of the records of `partition`.
    pub(super) fn decode_step(&self, partition: Partition) -> DecodeStep {
        DecodeStep {
            codec: self.codec.clone(),
            keys: self.keys.clone(),
            partition,
            future_max_ms: self.future_max_ms,
        }
    }

    /// Milliseconds since the node started.
    pub(super) fn now_ms(&self) -> u64 {
        let since = self.clock.instant().saturating_duration_since(self.shared.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What one node's actors share among themselves.
pub struct Shared {
    /// Bounds the loads.
    pub(super) loads: Semaphore,
    started: Instant,
    #[cfg(any(test, feature = "contract"))]
    probe: Option<Arc<dyn Probe>>,
}

impl Shared {
    /// For a node that starts now.
    #[must_use]
    pub fn new(clock: &SharedClock) -> Self {
        Self {
            loads: Semaphore::new(LOADS_MAX),
            started: clock.instant(),
            #[cfg(any(test, feature = "contract"))]
            probe: None,
        }
    }

    /// An actor is about to handle a message.
    #[cfg(any(test, feature = "contract"))]
    pub(super) fn handled(&self, actor: &'static str, message: &'static str) {
        if let Some(probe) = &self.probe {
            probe.handled(actor, message);
        }
    }

    /// An actor is about to handle a message; only tests want to know.
    #[cfg(not(any(test, feature = "contract")))]
    pub(super) fn handled(&self, _actor: &'static str, _message: &'static str) {}
}

/// Looks on while actors handle messages. What panics here panics in the actor.
#[cfg(any(test, feature = "contract"))]
pub trait Probe: Send + Sync + 'static {
    /// `actor` is about to handle `message`.
    fn handled(&self, actor: &'static str, message: &'static str);
}

#[cfg(any(test, feature = "contract"))]
impl Shared {
    /// With someone who looks on.
    #[must_use]
    pub fn with_probe(self, probe: Arc<dyn Probe>) -> Self {
        Self { probe: Some(probe), ..self }
    }
}
