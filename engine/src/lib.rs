//! instances: specification, state, names, backends.
