//! measures containers and microVMs against the bare process.
