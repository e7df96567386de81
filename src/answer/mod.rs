//! From a request id to its answer, and the state of an API node between two reads of the store.
//!
//! `request_id` seals a request's position and content. `position` answers it from rows alone;
//! `rows` decides when that is allowed. `follower` gives the decisions of feed messages to waiters, and
//! `told` turns them into answers.
//! `admission` refuses requests that would certainly be rejected. `rate` limits one user's requests.
//!
//! Pure: no async, no clock, no randomness, no I/O. The caller passes time in: a [`Moment`] for
//! ages, a `Timestamp` for the wall clock.

pub(crate) mod admission;
pub(crate) mod follower;
#[cfg(test)]
mod fuzz;
pub(crate) mod position;
pub(crate) mod rate;
pub(crate) mod request_id;
pub(crate) mod rows;
pub(crate) mod told;

use std::time::Duration;

/// Time on the node's monotonic clock since the node started.
pub(crate) type Moment = Duration;
