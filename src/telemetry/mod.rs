//! What the outside sees of the inside: logs and metrics.

pub mod metrics;
