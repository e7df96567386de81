//! The decision core: what a campaign answers, and nothing of how it is asked.
//!
//! Campaign offers a fixed number of coupons · Record is what the log holds, a request or a
//! control record · Decision is the answer to one record · Coupon is what was issued ·
//! Definition version is the whole definition after an accepted control record.
//!
//! Pure and total: no clock, no randomness, no I/O, no float, no hash order. Time arrives inside
//! the record. A refusal is a value; an error means "could not decide".

pub mod answer;
pub mod campaign;
pub mod code;
pub mod coupon;
pub mod decision;
pub mod definition;
pub mod holders;
pub mod ids;
pub mod invariant;
pub mod keys;
pub mod planted;
pub mod record;
pub mod rows;
