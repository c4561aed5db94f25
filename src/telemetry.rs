//! Logs, metrics and the decision record.
//!
//! A check costs one counter, one histogram sample and one line appended to a buffer; all else happens
//! on other threads.

pub mod decision_id;
pub mod log;
pub mod metrics;
pub mod record;
pub mod sink;
