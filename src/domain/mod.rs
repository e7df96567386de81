//! The decision core.
//!
//! A *campaign* offers a fixed number of coupons. A *record* of the log is a request or a control
//! record. A *decision* is the answer to one record. A *coupon* was issued to a request. A
//! *definition version* is the whole definition after an accepted control record.
//!
//! Pure and total: no clock, no randomness, no I/O, no float, no hash order. Time comes from the
//! record. A refusal is a value; an error means "could not decide".

pub mod answer;
pub mod campaign;
pub mod change;
pub mod code;
mod code_key;
pub mod coupon;
pub mod decision;
pub mod definition;
mod digests;
pub mod fault;
pub mod halt;
pub mod holders;
pub mod identity_fold;
pub mod ids;
pub mod invariant;
pub mod keys;
pub mod reason;
pub mod record;
pub mod rows;
