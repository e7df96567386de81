//! The real supervisor, partition consumers and coupon actors under paused time, with ports that
//! fail, hang and panic. `COUPOND_PANICS=10000 cargo test --test actors storms` injects that many
//! panics. `COUPOND_SEED=N` starts with another seed.

mod damaged;
mod life;
mod readers;
mod storms;
#[path = "../world/mod.rs"]
mod world;
