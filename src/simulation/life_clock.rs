//! The clocks of a node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::world::{Address, World};
use crate::{
    clock::{Clock, Sleep},
    domain::ids::Timestamp,
};

/// The clocks of one life of a node.
#[derive(Clone)]
pub(super) struct LifeClock {
    pub(super) world: Arc<World>,
    pub(super) address: Address,
}

impl Clock for LifeClock {
    fn now(&self) -> Timestamp {
        self.world.wall(self.address.node)
    }

    fn instant(&self) -> Instant {
        self.world.base + self.boot()
    }

    fn boot(&self) -> Duration {
        Duration::from_micros(self.world.local(self.address.node).0)
    }

    fn sleep_until(&self, until: Instant) -> Sleep {
        let clock = self.clone();
        Box::pin(async move {
            loop {
                let left = until.saturating_duration_since(clock.instant());
                if left.is_zero() {
                    return;
                }
                // A slow clock needs more of the world's time: then it is asked again.
                let us = left.as_micros() as u64 + 1;
                clock.world.wait(us, Some(clock.address)).await;
            }
        })
    }
}
