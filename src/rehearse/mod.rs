//! Rehearsals: a scenario's load on a running instance or on a local one, sampled while it runs, judged by
//! its targets, and reported.

mod admin;
mod exposition;
mod figures;
mod judge;
mod k6;
mod load;
mod loaded;
mod local;
mod outcomes;
mod pauses;
mod predecessor;
mod run;
mod sample;
mod scenario;
mod tally;
#[cfg(test)]
mod tests;

pub use self::{
    figures::report,
    load::{Driven, drive},
    local::{EngineProcess, Local},
    predecessor::predecessor,
    run::{Audited, Live, Order, RehearseError, Run, check, rehearse},
    scenario::{Goal, Kind, Scenario, ScenarioError, Stage},
};
