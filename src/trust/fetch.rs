//! Fetching over HTTP, bounded.
