//! Without faults, the ports of a world keep what the ports promise.

use std::sync::Arc;

use super::{
    feed::WorldFeed,
    link::Link,
    log::WorldLog,
    node::Engines,
    store::WorldStore,
    world::{Address, World},
};
use crate::log::contract::PARTITIONS;

/// Lets the events of a world happen, until it is dropped.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn fresh_world() -> (Link, Engines, Driver) {
    let (world, engines) = (World::new(1, 1), Engines::new(PARTITIONS));
    let address: Address = world.begin_life(0, 0, 0);
    let link = Link { world: world.clone(), address, weather: engines.weather.clone() };
    let driver = tokio::spawn(async move {
        loop {
            world.happen();
            tokio::task::yield_now().await;
        }
    });
    (link, engines, Driver(driver))
}

mod log {
    use super::*;

    async fn fresh() -> (Arc<WorldLog>, Driver) {
        let (link, Engines { brokers, .. }, driver) = fresh_world();
        (Arc::new(WorldLog { link, brokers }), driver)
    }

    crate::log::contract::request_log_contract!(fresh);
}

mod store {
    use super::*;

    async fn fresh() -> (Arc<WorldStore>, Driver) {
        let (link, Engines { rows, .. }, driver) = fresh_world();
        (Arc::new(WorldStore { link, rows }), driver)
    }

    crate::store::contract::coupon_store_contract!(fresh);
}

mod feed {
    use super::*;

    async fn fresh() -> (Arc<WorldFeed>, Driver) {
        let (link, Engines { followers, .. }, driver) = fresh_world();
        (Arc::new(WorldFeed { link, followers }), driver)
    }

    crate::feed::contract::decision_feed_contract!(fresh);
}
