//! Data folders of an embedded node after a power cut or on a bad disk. Each image is opened by the
//! real recovery, read by the real readers, and compared with the acknowledged records.
//!
//! `cargo test --test embedded_images` checks a few hundred images of each kind. To check all, and
//! print a table of counts:
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

/// Returns how many images to check: `few` by default, `all` with `COUPOND_IMAGES=all`.
fn how_many(few: usize, all: usize) -> usize {
    if std::env::var_os("COUPOND_IMAGES").is_some_and(|which| which == "all") { all } else { few }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
