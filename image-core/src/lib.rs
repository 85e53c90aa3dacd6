//! OCI images: store, layers, archives, root file systems.
