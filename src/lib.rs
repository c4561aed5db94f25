//! symbolon: an external authorizer for Envoy and Istio.
//!
//! The way of one check, left to right, is the map of this crate:
//!
//! ```text
//! transport → evidence → credential → policy → response → telemetry
//! ```

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credential;
pub mod diagnostic;
pub mod evidence;
pub mod identity;
pub mod json;
pub mod policy;
pub mod reason;
pub mod response;
pub mod snapshot;
pub mod telemetry;
pub mod transport;
pub mod trust;
