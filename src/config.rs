//! Process settings (not policy).
