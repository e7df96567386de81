//! What the request log and the decision feed on Kafka share: client settings, names of topics,
//! errors, and the creation and check of topics.

pub(crate) mod client;
pub mod topics;

pub use client::ClientError;
