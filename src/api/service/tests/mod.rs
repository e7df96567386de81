//! Tests of the service, in simulated worlds.

mod change;
mod find;
mod issue;
mod replayed;
mod restart;
mod restored;
mod skip;
mod world;
