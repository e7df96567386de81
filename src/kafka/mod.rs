//! The Kafka code that the request log and the decision feed share: client settings, names of
//! topics, errors, and the creation and check of topics.

pub(crate) mod client;
pub(crate) mod errors;
pub mod topics;

pub use client::ClientError;
