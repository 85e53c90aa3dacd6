//! runs an OCI bundle in namespaces and cgroups.
