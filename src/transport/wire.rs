//! The messages on the wire: a lean view of `envoy.service.auth.v3`, see `proto/symbolon/wire/v1`.

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/"
)]

include!(concat!(env!("OUT_DIR"), "/symbolon.wire.v1.rs"));
