//! Worlds of real nodes: supervisor, partition consumers, coupon actors, API service and feed
//! follower of production, several nodes in one world, on simulated ports.
//!
//! `world` has time, chance and events. `link` carries calls to the engines. `log`, `store` and
//! `feed` are the ports. `node` runs the core of a node on them. `story` draws requests, changes and
//! faults. `judge` runs the audit on log, rows and answers.

#[cfg(test)]
mod contract;
mod feed;
mod judge;
mod link;
mod log;
mod node;
mod store;
mod story;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;

use self::{
    link::Weather,
    node::Engines,
    story::{Heard, NODES, PARTITIONS, Story},
    world::World,
};

/// Most violations reported for one world. One bug often affects many clients.
const VIOLATIONS_MAX: usize = 3;

/// How a world went.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Hash of its course.
    pub(super) trace: u64,
    /// Events that happened.
    pub(super) events: u64,
    /// Answers that clients got.
    pub(super) told: usize,
    /// Acts by name.
    pub(super) acts: BTreeMap<&'static str, u64>,
    pub(super) violations: Vec<String>,
}

/// Runs the world of `seed`, with faults or without.
pub(super) fn run(seed: u64, faults: bool) -> Outcome {
    let world = World::new(seed, NODES);
    let engines = Engines::new(PARTITIONS);
    let weather = match faults {
        true => Weather {
            refused: 80,
            lost: 150,
            answer_lost: 100,
            late: 150,
            slow: 60,
            partial: 60,
            message_lost: 60,
            message_late: 60,
        },
        false => Weather::default(),
    };
    let story = Story::new(world.clone(), engines.clone());
    let Heard { told, acts, mut violations } = world.run(story.run(weather, faults));
    let (trace, events) = world.course();
    violations.extend(judge::findings(&engines, &told));
    violations.truncate(VIOLATIONS_MAX);
    Outcome { trace, events, told: told.len(), acts, violations }
}
