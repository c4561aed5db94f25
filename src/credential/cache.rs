//! Verified tokens, cached under bounds.
