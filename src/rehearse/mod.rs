//! Rehearsals: a scenario's load on a running instance or on a local one, sampled while it runs, judged by
//! its targets, and reported.

mod admin;
mod exposition;
mod figures;
mod judge;
mod k6;
mod load;
mod local;
mod outcomes;
mod predecessor;
mod run;
mod sample;
mod scenario;
mod tally;

pub use self::{
    figures::report,
    load::{Driven, drive},
    local::Local,
    predecessor::predecessor,
    run::{Audited, Live, Order, RehearseError, Run, check, rehearse},
    scenario::{Goal, Kind, Scenario, ScenarioError, Stage},
};
