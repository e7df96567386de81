//! The actors of a node: one supervisor, a partition consumer for each assigned partition, and a
//! coupon actor for each live campaign.
//!
//! ```text
//! Supervisor ─┬─ PartitionConsumer(p)   reads, routes, tracks the watermark
//!             └─ CouponActor(campaign)  decides, stores, reports
//! ```
//!
//! All three are shells. `partition::flow` decides what a partition does, `partition::fold` what a
//! campaign answers. Readers, loads and writes are tasks. A task's guard lies in the state of the
//! actor that spawned it, so the task ends with the actor.
//!
//! A campaign starts in three hops between actors; its batches then go to and fro without the
//! supervisor:
//!
//! ```text
//! PartitionConsumer ──1 Start──▶ Supervisor ──2 spawn, linked──▶ CouponActor: loads the rows
//!         ▲  ▲                                                      │  ▲
//!         │  └──────────────3 Started, with the actor's address─────┤  │
//!         └───────────────────── Report, Contradicted ──────────────┘  │
//!                        Decide, through the CouponHandle ─────────────┘
//! ```
//!
//! The supervisor notices the end of a coupon actor and reports it to the partition's flow. The
//! flow restarts the campaign with backoff, or puts it on hold after repeated failure at one
//! position. A failed partition consumer is restarted from durable progress, with its campaigns.
//! A failed supervisor ends the node.

pub mod coupon;
mod dead_letters;
pub mod directory;
pub mod environment;
mod handle;
mod io;
mod load;
mod lookup;
pub(crate) mod membership;
pub mod messages;
pub mod partition_consumer;
mod places;
pub(crate) mod prober;
mod replay;
mod scrub;
pub mod supervisor;
mod task;

pub use directory::Directory;
pub(crate) use environment::LOADS_MAX;
pub use environment::{Environment, Probe, Shared};
pub use handle::CouponHandle;
