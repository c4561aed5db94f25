//! symbolon: an external authorizer for Envoy and Istio (`envoy.service.auth.v3.Authorization`).
//!
//! A *symbolon* was a token broken in two: its bearer was believed when the halves fitted. For every call
//! in a mesh, the access token and the caller's certificate must fit, and a policy must allow the pair.
//!
//! # The way of one check
//!
//! ```text
//! CheckRequest ─► evidence ─► credential ─► policy ─► response ─► CheckResponse
//!  (transport)     what the     what of it     allow or   the only place     + decision record
//!                  request      is proven      deny, and  that builds a        + metrics
//!                  carried                     why        CheckResponse
//!                                  ▲              ▲
//!                         trust ───┘   snapshot ──┘
//! ```
//!
//! 1. [`transport`] receives the RPC, loads the one [`snapshot`] of this check, runs the pipeline and always
//!    answers RPC OK with a decision: Envoy may take an RPC error for an allow.
//! 2. [`evidence`] reads what the request carried, strictly and under bounds, and believes none of it.
//! 3. [`policy`] finds the candidate rules and says what they need; nothing else is verified.
//! 4. [`credential`] verifies that against [`trust`]: the peer, the token and the bond between them. A bad
//!    token is a fact for the rules, not the end of the check.
//! 5. [`policy`] decides: pure, without clock or I/O. An allow carries a permit that only it can make.
//! 6. [`response`] builds the answer; an allowing one needs the permit.
//! 7. [`telemetry`] counts the decision once and writes one decision record.
//!
//! What is cached is verified claims and parsed certificates, never a decision or a binding.
//!
//! Beside the way: [`identity`] (SPIFFE IDs and thumbprints), [`reason`] (the closed set of codes that say why),
//! [`diagnostic`] (what is wrong in a file, and where), [`config`] (the process's settings, which are not policy),
//! [`clock`] (the only source of time) and [`json`] (JSON from outside, read strictly).
//!
//! Checks run on one current-thread runtime per core (`transport::server`); fetching, reloading and
//! administration on a background runtime of their own. [`app`] puts it together; [`cli`] is the outside.

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
