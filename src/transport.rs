//! The Authorization service: receives a check, runs the pipeline, always answers with a decision.

pub mod admin;
pub mod server;
pub mod wire;
