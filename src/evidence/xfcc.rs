//! `x-forwarded-client-cert`, both formats, strictly.
