//! Watches, loads, validates; swaps, or keeps the last known good.
