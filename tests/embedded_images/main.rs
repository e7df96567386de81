//! What a power cut or a bad disk leaves of an embedded node's folder, image by image: opened by
//! the real recovery, read by the real readers, judged against what was acknowledged.
//!
//! `cargo test --test embedded_images` judges a few hundred of each kind. All of them, with the
//! table of counts:
//!
//! ```sh
//! COUPOND_IMAGES=all cargo test --test embedded_images -- --nocapture --test-threads 1
//! ```

#![allow(clippy::unwrap_used, reason = "everything here is a test")]

mod flips;
mod image;
mod journal;
mod judge;
mod origin;
mod power_cuts;
#[path = "../quiet/mod.rs"]
mod quiet;
mod replay;

/// How many of something that is judged by the thousand: `few` by default, `all` when asked for.
fn how_many(few: usize, all: usize) -> usize {
    if std::env::var_os("COUPOND_IMAGES").is_some_and(|which| which == "all") { all } else { few }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
