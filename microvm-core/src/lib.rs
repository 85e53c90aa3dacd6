//! Boots a Linux kernel in a virtual machine: on KVM by a virtual machine monitor of our own, or on QEMU's `microvm`
//! machine where KVM cannot serve.
//!
//! Machines of the first kind can be saved where their agent waits and others made from that: see [`template`].
//!
//! The two are twins behind [`Hypervisor`]: the same [`VmConfig`] goes in, the same [`MicroVm`] comes out, with the
//! control channel to the guest's agent as a plain stream of bytes. What is said on that channel is the business of
//! `session`; this part knows nothing of images, instances or the agent's protocol.
//!
//! ```no_run
//! use microvm_core::{Request, VmConfig, choose, launch};
//!
//! let (accelerator, why) = choose(Request::Auto)?;
//! eprintln!("{why}");
//! let console = std::fs::File::create("console.log").unwrap();
//! let config = VmConfig::new("vmlinux".into(), "initramfs.cpio".into(), console);
//! let mut vm = launch(accelerator, &config)?;
//! println!("{}", vm.wait()?);
//! # Ok::<(), microvm_core::Error>(())
//! ```

mod accelerator;
mod arch;
pub mod cmdline;
mod config;
mod devices;
pub mod disk;
mod error;
mod event_loop;
#[cfg(test)]
mod fuzz;
mod kernel;
pub mod kvm;
mod machine;
mod memory;
mod nic;
pub mod process;
pub mod qemu;
pub mod session;
mod share;
pub mod stock;
pub mod template;

pub use accelerator::{Accelerator, Request, Substrate, choose, qemu_binary, substrate};
pub use config::{
    Discovery, MEMORY_MIB, Membership, NICS_MAX, Nic, Share, Stage, Start, VCPUS, VmConfig,
    monotonic_now,
};
pub use error::Error;
pub use machine::{End, Ending, MicroVm};

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A way to start virtual machines: [`kvm::Kvm`] is our own monitor, `qemu::Qemu` drives QEMU.
pub trait Hypervisor {
    /// Starts a virtual machine and returns once its first virtual CPU is about to execute its first instruction.
    ///
    /// The caller must be the thread that lives as long as the machine is wanted: the monitor is killed by the kernel
    /// when the thread that started it ends (`PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// Everything that can be known to be wrong before a guest runs is an error here, and nothing is left behind.
    fn launch(&self, config: &VmConfig) -> Result<MicroVm>;
}

/// Starts a virtual machine on this accelerator: see [`Hypervisor::launch`].
///
/// # Errors
/// As for [`Hypervisor::launch`].
pub fn launch(accelerator: Accelerator, config: &VmConfig) -> Result<MicroVm> {
    match accelerator {
        Accelerator::Kvm => kvm::Kvm.launch(config),
        Accelerator::Tcg | Accelerator::QemuKvm => qemu::Qemu::new(accelerator).launch(config),
    }
}
