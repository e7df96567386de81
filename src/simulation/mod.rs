//! The whole system in a world of its own: from one seed, on one thread, under a virtual clock.
//!
//! API nodes, owners of partitions, clients and operators run the same pure code as production
//! (`domain`, `partition`, `answer`, the codecs); log, store, feed and the actors' waiting are
//! replaced by a world that lets faults strike between any two steps. Then everything heals, must
//! settle, and is judged by a model that shares no code with what it judges.
//!
//! `world` has clock and queue · `owner`, `coupon`, `writes` are the partition consumer and its
//! coupon actors · `api_node`, `asking`, `appends` an API node · `client`, `admin` who uses it · `log`, `store`
//! what may be lost · `faults`, `trouble`, `phases` what goes wrong and when · `model`, `evidence`
//! the judge.

mod act;
mod admin;
mod api_node;
mod appends;
mod asking;
mod client;
mod coupon;
mod evidence;
mod faults;
mod happen;
mod log;
mod model;
#[cfg(test)]
mod nodes;
mod owner;
mod phases;
mod run;
pub(crate) mod shrink;
mod store;
#[cfg(test)]
mod tests;
mod trouble;
mod world;
mod writes;

pub(crate) use self::{
    evidence::Violation,
    faults::{Fault, Kinds},
    run::{Report, Simulator},
    world::Setup,
};
