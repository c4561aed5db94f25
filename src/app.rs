//! Composition root: config → sources → services → servers → drain.
