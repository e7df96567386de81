//! The real supervisor, partition consumers and coupon actors under paused time, over ports that
//! fail, hang and panic. `COUPOND_PANICS=10000 cargo test --test actors storms` injects that many
//! panics; `COUPOND_SEED=N` begins with another seed.

mod life;
mod readers;
mod spoiled;
mod storms;
#[path = "../world/mod.rs"]
mod world;
