//! Worlds of real nodes: supervisor, partition consumers, coupon actors, API service and feed
//! follower of production, several nodes in one world, on simulated ports.
//!
//! A course is a list of acts. `draw` draws it from a seed; `act` names what may happen. `world` has
//! time, events and lives, `life_clock` the clocks of a node. `link` carries calls to the engines; `log`, `store` and `feed` are the
//! ports, `appends` knows which call appended what, and `strange` appends what no node writes.
//! `node` runs the core of a node on them. `story` plays a course with its `client`s; `trouble` lets
//! acts happen. `probe` lets actors panic, `unreachable` keeps rows from them, and `bounds` and
//! `leaks` count what they have under way. `judge`, `order` and `telling` say what is wrong; `evidence` is what
//! they judge by. `shrink` makes a failure short.

mod act;
#[cfg(test)]
mod actors;
mod appends;
mod bounds;
mod client;
#[cfg(test)]
mod contract;
mod course;
mod damage;
mod draw;
mod evidence;
mod feed;
mod group;
mod half_dead;
mod judge;
mod landed;
mod leaks;
mod life_clock;
mod link;
mod log;
mod node;
mod node_rows;
mod order;
mod panics;
mod probe;
mod reader;
mod releases;
mod shrink;
mod skips;
mod store;
mod story;
mod strange;
mod telling;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trouble;
mod unreachable;
mod unreadable;
mod world;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub(crate) use self::{
    course::{Course, Kinds},
    draw::{draw, every_fault},
    evidence::Violation,
    shrink::shrink,
};
use self::{evidence::Evidence, node::Engines, story::Story, world::World};
use crate::domain::answer::Answer;

/// Most violations reported for one world. One bug often affects many clients.
const VIOLATIONS_MAX: usize = 3;

/// How a world went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Hash of what happened.
    pub(crate) trace: u64,
    /// Events that happened.
    pub(crate) events: u64,
    /// Answers that clients got: issued, already issued, rejected, pending.
    pub(crate) told: [u64; 4],
    /// How often each kind of act struck.
    pub(crate) struck: BTreeMap<String, u64>,
    pub(crate) violations: Vec<Violation>,
    /// What happened, with its time in microseconds, if that was asked for.
    pub(crate) story: Vec<(u64, String)>,
}

/// Plays a course. Panics of this process are not printed from then on.
pub(crate) fn run(course: &Course, is_told: bool) -> Outcome {
    panics::watch();
    let setup = course.setup.clone();
    let world = World::new(setup.seed, setup.nodes, is_told);
    let engines = Engines::new(setup);
    let story = Story::new(world.clone(), engines.clone());
    let course = course.clone();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut evidence = world.run(story.play(course));
        let mut violations = std::mem::take(&mut evidence.violations);
        violations.extend(judge::judge(&engines, &evidence));
        (evidence, violations)
    }));
    let mut violations = panics::take();
    let evidence = match played {
        Ok((evidence, found)) => {
            violations.extend(found);
            evidence
        }
        // What stopped it is among the panics.
        Err(_) => Evidence::default(),
    };
    violations.truncate(VIOLATIONS_MAX);
    let mut told = [0; 4];
    for answer in evidence.told.iter().map(|told| &told.answer) {
        let index = match answer {
            Some(Answer::Issued { .. }) => 0,
            Some(Answer::AlreadyIssued { .. }) => 1,
            Some(_) => 2,
            None => 3,
        };
        told[index] += 1;
    }
    let (trace, events) = world.course();
    Outcome { trace, events, told, struck: world.counts(), violations, story: world.story() }
}
