//! What an API node does: admits requests, appends them, waits for decisions, and answers any
//! request id, from the feed or from the store. A shell around `answer`, which is pure.

pub mod model;
