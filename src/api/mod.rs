//! HTTP in, JSON out. `http` has URLs and status codes and no rules. `service` appends, waits, and
//! answers from feed and store; it knows no URLs.

pub(crate) mod http;
pub(crate) mod service;
