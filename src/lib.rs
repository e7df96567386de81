//! coupond issues a limited number of coupons, first come first served, and can prove it.

#![forbid(unsafe_code)]
// Only the command line prints, and its module allows it. Everything else logs.
#![warn(clippy::print_stdout, clippy::print_stderr)]

/// Batches are allocated on one thread and freed on another, which is slow with the allocator of
/// the system. Unit tests link the library twice, so that it must not define one there.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod actors;
mod answer;
mod api;
pub mod audit;
mod chaos;
mod children;
pub mod cli;
pub mod clock;
mod columns;
pub mod config;
pub mod domain;
pub mod embedded;
pub mod feed;
#[cfg(test)]
mod fuzz;
mod identity;
pub mod kafka;
pub mod log;
pub mod node;
pub mod partition;
pub mod random;
pub mod rehearse;
pub mod report;
mod retry;
mod shares;
mod simulation;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod tidy;
mod tls;
pub mod wire;
