//! What a partition's owner decides besides coupons: what to send to whom, how far it is settled,
//! when to read on, when to try again, when to halt. Pure: events in, effects out.
//!
//! `assignment` says whether a partition may be taken over; `flow` is the state machine of one owned partition; `acks` its watermark; `lane` what it keeps
//! of one campaign; `recovery` how a campaign's state comes out of its rows; `fold` how a batch
//! of records becomes rows and answers; `pipeline` what is decided and not yet reported; `restart`
//! when to give up.

pub mod acks;
pub mod actor_view;
pub mod assignment;
pub mod flow;
pub mod fold;
mod lane;
pub mod pipeline;
pub mod recovery;
pub mod restart;
