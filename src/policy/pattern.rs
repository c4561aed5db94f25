//! SPIFFE patterns, host patterns and path templates.
