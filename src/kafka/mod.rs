//! The Kafka code that the request log and the decision feed share: client settings, names of
//! topics, errors and their causes, and the creation and check of topics.

pub(crate) mod client;
pub(crate) mod errors;
pub mod topics;
mod trial;
pub(crate) mod trouble;

pub use crate::tls::Trouble;
pub use client::ClientError;
