//! What an allowed request carries on to the service: header templates and header ownership.
