//! coupond gives out a limited number of coupons, first come first served, and can prove it.

#![forbid(unsafe_code)]

/// A batch is made on one thread and let go of on another, which the system's allocator does
/// with a lock and much searching. Unit tests are linked with the library itself, which has it.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod actors;
pub mod answer;
pub mod api;
pub mod audit;
pub mod cli;
pub mod clock;
mod columns;
pub mod config;
pub mod domain;
pub mod embedded;
pub mod feed;
pub mod kafka;
pub mod log;
pub mod node;
pub mod partition;
pub mod retry;
pub mod simulation;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod tidy;
pub mod wire;
