//! boots a kernel on KVM, or on QEMU where KVM cannot serve.
