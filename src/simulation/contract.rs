//! Without faults, the ports of a world keep what the ports promise.

use std::sync::Arc;

use super::{
    Kinds, draw,
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
    let mut setup = draw(1, &Kinds::new(), 0).setup;
    setup.partitions = PARTITIONS;
    let (world, engines) = (World::new(1, 1, false), Engines::new(setup));
    let address: Address = world.begin_life(0, 0, 0);
    let link = engines.link(&world, address);
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
        let (link, engines, driver) = fresh_world();
        (Arc::new(engines.log(&link)), driver)
    }

    crate::log::contract::request_log_contract!(fresh);
}

mod store {
    use super::*;

    async fn fresh() -> (Arc<WorldStore>, Driver) {
        let (link, engines, driver) = fresh_world();
        (Arc::new(engines.store(&link)), driver)
    }

    crate::store::contract::coupon_store_contract!(fresh);

    mod nodes {
        use super::fresh;

        crate::store::contract::nodes::node_rows_contract!(fresh);
    }
}

mod feed {
    use super::*;

    async fn fresh() -> (Arc<WorldFeed>, Driver) {
        let (link, engines, driver) = fresh_world();
        (Arc::new(engines.feed(&link)), driver)
    }

    crate::feed::contract::decision_feed_contract!(fresh);
}
