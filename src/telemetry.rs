//! Logs, metrics and the decision record.
