//! Tests of the service, in simulated worlds.

mod change;
mod changes;
mod find;
mod heard;
mod issue;
mod listing;
mod replayed;
mod restart;
mod restored;
mod skip;
mod world;
