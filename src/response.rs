//! From a decision to a `CheckResponse`: the only place that builds one.
