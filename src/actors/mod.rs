//! Who owns what, and who restarts whom.
//!
//! ```text
//! Supervisor ─┬─ PartitionConsumer(p)   one per assigned partition: reads, routes, settles
//!             └─ CouponActor(campaign)  one per live campaign: decides, stores, reports
//! ```
//!
//! All three are shells: what a partition does is decided by `partition::flow`, what a campaign
//! answers by `partition::fold`. Everything else that runs (readers, loads, writes) is a task
//! whose guard lies in the state of the actor that started it, and ends with it.
//!
//! A coupon actor that fails is started again by its partition's flow, with backoff, and put on
//! hold after repeated failure at one position. A partition consumer that fails is started again
//! from durable progress, with its campaigns. A supervisor that fails ends the node.

pub mod coupon;
mod dead_letters;
pub mod directory;
pub mod environment;
mod handle;
mod io;
mod load;
pub mod partition_consumer;
mod replay;
pub mod supervisor;
mod task;

pub use directory::Directory;
#[cfg(any(test, feature = "contract"))]
pub use environment::Probe;
pub use environment::{Environment, Shared};
pub use handle::CouponHandle;
