//! Tests of the service, on ports in memory and on the embedded engine.

mod change;
mod embedded;
mod fakes;
mod find;
mod issue;
mod owner;
mod world;
