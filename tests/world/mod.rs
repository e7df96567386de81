//! Runs a node's real actors on one thread under paused time. The ports are in memory and fail,
//! hang and panic on demand. A naive model gives the expected outcome of every record.

#![allow(dead_code, reason = "each test target uses another part of the world")]

pub(crate) mod faults;
pub(crate) mod feed;
pub(crate) mod judge;
pub(crate) mod log;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod store;

use std::future::Future;

pub(crate) use coupond::random::Random;
use coupond::{
    clock::Clock,
    domain::ids::{CampaignId, Timestamp},
};

/// Wall-clock time at the start of every world, in summer 2024.
const BEGIN_MS: i64 = 1_720_000_000_000;

/// The paused clock.
pub(crate) struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(BEGIN_MS + i64::try_from(self.0.elapsed().as_millis()).expect("a short test"))
    }

    fn instant(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// Runs a story on one thread. Time moves only while every task waits.
pub(crate) fn run<T>(story: impl Future<Output = T>) -> T {
    faults::hide_injected_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        // A story that yields continues after one poll of one task. It can act between any two
        // polls.
        .event_interval(1)
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(story)
}

pub(crate) fn campaign(index: usize) -> CampaignId {
    CampaignId::parse(&format!("c{index}")).expect("an id")
}
