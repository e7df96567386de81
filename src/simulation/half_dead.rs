//! A node that does not reach all of its engines, after all else has healed: the others must decide.

use super::{act::Foreign, client::campaign_id, link::Engine, story::Story, strange};
use crate::domain::ids::{Partition, UserId};

/// Time after which each node has seen the others' numbers rise, in microseconds. One that another
/// thinks dead is no reason to leave.
const ACQUAINTED_US: u64 = 10_000_000;

/// Time in which everything is decided while a node is half dead, in microseconds: 15 s of failed probes,
/// up to 5 s until the first of them has failed and the last one ends, a rebalance; and up to 10 s more
/// where the others wait out their own time and join again only because nobody else decides.
const DECIDED_WITHIN_US: u64 = 40_000_000;

/// A node, and what it does not reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct HalfDead {
    pub(super) node: usize,
    pub(super) engine: Engine,
    pub(super) partition: Option<Partition>,
}

impl Story {
    /// Cuts a node off, asks for a coupon of every campaign, and waits until all is decided.
    pub(super) async fn be_half_dead(&mut self) {
        let Some(HalfDead { node, engine, partition }) = self.half_dead else { return };
        let is_damaged = self.clients.evidence.lock().damaged.is_some();
        // One that is damaged is on hold or halted, whoever owns it.
        if is_damaged || self.log_damage.is_some() || !self.engines.setup.probes {
            return;
        }
        self.pass(self.world.now_us() + ACQUAINTED_US).await;
        self.world.count(format!("half-dead-{}", super::act::link(engine, partition)));
        self.world.say(|| format!("!! node {node} is half dead: {engine:?} {partition:?}"));
        self.world.cut(node, engine, partition);
        let user = UserId::parse("half-dead").expect("a valid id");
        for campaign in 0..self.engines.setup.campaigns {
            let campaign = campaign_id(campaign);
            strange::append(&self.engines, &self.world, Foreign::Request, &campaign, &user);
        }
        let is_decided = self.settle_within(DECIDED_WITHIN_US).await;
        self.world.mend(node, engine, partition);
        if is_decided {
            self.settle().await;
        }
    }
}
