//! The memory of ten thousand live campaigns on one node. A separate test target, because the test
//! measures the memory of the whole process.

mod world;

use coupond::domain::ids::Timestamp;
use world::{campaign, faults::Plan, node::NodeWorld};

const CAMPAIGNS: usize = 10_000;

/// Most bytes of an idle campaign, with its rows in the fake store.
const CAMPAIGN_BYTES_MAX: u64 = 16 * 1_024;

/// Returns the resident memory of this process in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1_024)
}

#[test]
fn ten_thousand_campaigns_live_on_one_node() {
    world::run(async {
        let mut world = NodeWorld::start(1, 12, Plan::default()).await;
        (0..world.partitions).for_each(|partition| world.revoke(partition));
        (0..CAMPAIGNS).for_each(|index| world.define(&campaign(index), 2, 1));
        world.wait_ms(100).await;
        let before = resident();
        (0..world.partitions).for_each(|partition| world.assign(partition));
        world.settle().await;
        world.rest().await;
        let live = (0..CAMPAIGNS).filter(|index| world.state(&campaign(*index)) == "live").count();
        assert_eq!(live, CAMPAIGNS);
        if let (Some(before), Some(after)) = (before, resident()) {
            let each = after.saturating_sub(before) / CAMPAIGNS as u64;
            println!("{CAMPAIGNS} idle campaigns, {each} bytes of memory each");
            assert!(each <= CAMPAIGN_BYTES_MAX, "{each} bytes for each idle campaign");
        }
        for user in 0..3 {
            let Timestamp(begun) = world.now();
            (0..CAMPAIGNS).for_each(|index| world.request(&campaign(index), user));
            world.settle().await;
            println!("one request each, settled after {} virtual ms", world.now().0 - begun);
        }
        assert_eq!(world.truth.facts().coupons.len(), 2 * CAMPAIGNS);
        assert_eq!(world.end().await, Vec::<String>::new());
    });
}
