//! Stories about the service, on in-memory ports and on the embedded engine.

mod change;
mod embedded;
mod fakes;
mod find;
mod issue;
mod world;
