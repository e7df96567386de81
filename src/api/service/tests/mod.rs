//! Tests of the service, in simulated worlds and on the embedded engine.

mod change;
mod embedded;
mod find;
mod issue;
mod world;
