//! Reads a policy directory as one version: all of it, or nothing.
