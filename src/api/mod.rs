//! HTTP in, JSON out. `http` knows URLs and status codes and no rules; `service` appends, waits and
//! answers from feed and store, and knows no URLs.

pub mod http;
pub mod service;
