//! The rules of a partition's owner, besides those for coupons: what is sent to which campaign, how
//! far the partition is settled, when to read on, to retry and to halt. Pure: events in, effects out.
//!
//! `assignment` decides whether a partition may be taken over. `flow` is the state machine of one
//! owned partition: `acks` is its watermark, and `owned_campaign`, `window` and `campaign_holds`
//! are the states of one campaign in it. `recovery` turns rows into a campaign, `fold` turns a batch
//! of records into rows and decisions, `pipeline` keeps the order of deciding, storing and reporting.
//! `tallies` counts a campaign's decisions for the feed.
//! `expiry` says when undecided records are about to be removed, `restart` decides when to try again
//! and when to give up, `scrub` finds by-user rows that vanished. `skips` says which positions are
//! passed undecided, and `range_search` finds the end of what cannot be read. `watermark_age` says for
//! how long nothing was settled while records wait, and `liveness` when a node that cannot decide
//! leaves the consumer group and joins again.

pub mod acks;
pub mod actor_view;
pub mod assignment;
mod campaign_holds;
pub mod expiry;
pub mod flow;
pub mod fold;
mod gathered;
pub mod liveness;
mod owned_campaign;
pub mod pipeline;
pub mod range_search;
pub mod recovery;
pub mod restart;
pub mod scrub;
pub mod skips;
pub mod tallies;
pub mod watermark_age;
pub mod window;
