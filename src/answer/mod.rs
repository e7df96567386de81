//! From a request id to its answer, and what an API node knows between two reads of the store.
//!
//! Request id seals a request's position and content · position answers it from rows alone, rows
//! says when that may be done ·
//! follower turns feed messages into answers for waiters · admission refuses what is certain ·
//! rate keeps one user from crowding a campaign.
//!
//! Pure: no async, no clock, no randomness, no I/O. Time is handed in, as a [`Moment`] for ages
//! and as a `Timestamp` where the wall clock is meant.

pub mod admission;
pub mod follower;
pub mod position;
pub mod rate;
pub mod recent;
pub mod request_id;
pub mod rows;

use std::time::Duration;

/// A point in time on the node's monotonic clock, counted from when the node started.
pub type Moment = Duration;
