//! the static programs that run inside instances, built and embedded.
