//! A virtual CPU's state: all that KVM gives out and takes back.

use std::io;

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How many model-specific registers KVM sets in one call at most (MAX_IO_MSRS in arch/x86/kvm/x86.c).
const MSRS_AT_ONCE: usize = 256;

/// A virtual CPU.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    /// Model-specific registers: number and value.
    msrs: Vec<(u32, u64)>,
    tsc_khz: u32,
}

fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm {
        what,
        source: io::Error::from(error),
    }
}

impl CpuState {
    /// What a virtual CPU holds that does not run. `indices` are the model-specific registers that KVM names.
    pub(crate) fn of(vcpu: &VcpuFd, indices: &[u32]) -> Result<Self> {
        // Only where the guest uses kvm-clock; one that does not needs no such word.
        let _ = vcpu.kvmclock_ctrl();
        // KVM brings its interrupts into the state that can be read when it is asked for this one: first.
        let mp_state = vcpu
            .get_mp_state()
            .map_err(failed("read a virtual CPU's state"))?;
        Ok(Self {
            mp_state,
            regs: vcpu.get_regs().map_err(failed("read the registers"))?,
            sregs: vcpu
                .get_sregs()
                .map_err(failed("read the segment registers"))?,
            xsave: vcpu
                .get_xsave()
                .map_err(failed("read the floating-point registers"))?,
            xcrs: vcpu
                .get_xcrs()
                .map_err(failed("read the extended control registers"))?,
            debug: vcpu
                .get_debug_regs()
                .map_err(failed("read the debug registers"))?,
            lapic: vcpu
                .get_lapic()
                .map_err(failed("read the local interrupt controller"))?,
            msrs: msrs(vcpu, indices)?,
            events: vcpu
                .get_vcpu_events()
                .map_err(failed("read a virtual CPU's events"))?,
            tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
        })
    }

    /// Makes a virtual CPU, whose features are set, what this one was.
    pub(crate) fn put(&self, vcpu: &VcpuFd) -> Result<()> {
        if self.tsc_khz != 0 && vcpu.get_tsc_khz().unwrap_or(0) != self.tsc_khz {
            vcpu.set_tsc_khz(self.tsc_khz)
                .map_err(failed("set the rate of the time-stamp counter"))?;
        }
        vcpu.set_mp_state(self.mp_state)
            .map_err(failed("set a virtual CPU's state"))?;
        vcpu.set_regs(&self.regs)
            .map_err(failed("set the registers"))?;
        vcpu.set_sregs(&self.sregs)
            .map_err(failed("set the segment registers"))?;
        // SAFETY: the kernel reads no more than the 4096 bytes that the structure has: more is for guests with states that
        // the process has to ask for (AMX), which this one never does.
        unsafe { vcpu.set_xsave(&self.xsave) }
            .map_err(failed("set the floating-point registers"))?;
        vcpu.set_xcrs(&self.xcrs)
            .map_err(failed("set the extended control registers"))?;
        vcpu.set_debug_regs(&self.debug)
            .map_err(failed("set the debug registers"))?;
        // The deadline of the local timer, a model-specific register, takes effect in the controller.
        vcpu.set_lapic(&self.lapic)
            .map_err(failed("set the local interrupt controller"))?;
        self.put_msrs(vcpu)?;
        vcpu.set_vcpu_events(&self.events)
            .map_err(failed("set a virtual CPU's events"))
    }

    fn put_msrs(&self, vcpu: &VcpuFd) -> Result<()> {
        for some in self.msrs.chunks(MSRS_AT_ONCE) {
            let entries: Vec<kvm_msr_entry> = some.iter().map(|(i, v)| entry(*i, *v)).collect();
            let list = Msrs::from_entries(&entries)
                .map_err(|_| Error::KvmLacks("room for model-specific registers"))?;
            let set = vcpu
                .set_msrs(&list)
                .map_err(failed("set the model-specific registers"))?;
            if let Some((index, value)) = some.get(set) {
                return Err(Error::Start(format!(
                    "KVM refuses {value:#x} for the model-specific register {index:#x}"
                )));
            }
        }
        Ok(())
    }
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

/// The registers that can be read and set back. KVM names some that it does not have, and some that only it may write.
fn msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>> {
    let mut found = Vec::with_capacity(indices.len());
    for index in indices {
        let mut one = Msrs::from_entries(&[entry(*index, 0)])
            .map_err(|_| Error::KvmLacks("room for a model-specific register"))?;
        if vcpu.get_msrs(&mut one).ok() != Some(1) || vcpu.set_msrs(&one).ok() != Some(1) {
            continue;
        }
        found.extend(one.as_slice().iter().map(|entry| (entry.index, entry.data)));
    }
    Ok(found)
}
