//! From a request id to its answer, and the state of an API node between two reads of the store.
//!
//! `request_id` seals a request's position and content. `position` answers it from rows alone;
//! `rows` decides when that is allowed. `follower` turns feed messages into answers for waiters.
//! `admission` refuses requests that would certainly be rejected. `rate` limits one user's requests.
//!
//! Pure: no async, no clock, no randomness, no I/O. The caller passes time in: a [`Moment`] for
//! ages, a `Timestamp` for the wall clock.

pub mod admission;
pub mod follower;
pub mod position;
pub mod rate;
pub mod request_id;
pub mod rows;

use std::time::Duration;

/// Time on the node's monotonic clock since the node started.
pub type Moment = Duration;
