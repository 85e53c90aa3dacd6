//! What kvm_pvm's emulator cannot do, hidden from the guest's kernel: a CPU template.
//!
//! The guest's ring 0 is emulated there, and what follows ended in emulation failures or costs more than it saves. Ring
//! 3 runs natively and sees the host's CPUID; the command line repeats the part of this that a kernel would ask for.

use kvm_bindings::kvm_cpuid_entry2;

/// Bits to clear: leaf, subleaf, and masks for EAX, EBX, ECX, EDX.
const HIDDEN: &[(u32, u32, [u32; 4])] = &[
    // ECX: FMA, CX16, PCID, POPCNT, XSAVE, OSXSAVE, AVX, F16C.
    (
        1,
        0,
        [
            0,
            0,
            1 << 12 | 1 << 13 | 1 << 17 | 1 << 23 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29,
            0,
        ],
    ),
    (
        7,
        0,
        [
            0,
            // FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, INVPCID, ADX, SMAP, SHA, and every AVX-512.
            1 | 1 << 3
                | 1 << 5
                | 1 << 7
                | 1 << 8
                | 1 << 9
                | 1 << 10
                | 1 << 19
                | 1 << 20
                | 1 << 29
                | 1 << 16
                | 1 << 17
                | 1 << 21
                | 1 << 26
                | 1 << 27
                | 1 << 28
                | 1 << 30
                | 1 << 31,
            // VBMI, UMIP, PKU, OSPKE, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, LA57, RDPID.
            1 << 1
                | 1 << 2
                | 1 << 3
                | 1 << 4
                | 1 << 6
                | 1 << 8
                | 1 << 9
                | 1 << 10
                | 1 << 11
                | 1 << 12
                | 1 << 14
                | 1 << 16
                | 1 << 22,
            // FSRM, AVX-512's VP2INTERSECT and FP16, and a model-specific register that KVM names but has not
            // (ARCH_CAPABILITIES).
            1 << 4 | 1 << 8 | 1 << 23 | 1 << 29,
        ],
    ),
    // AVX-VNNI, AVX512-BF16, FZRM, FSRS, FSRC, AVX-IFMA.
    (
        7,
        1,
        [
            1 << 4 | 1 << 5 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 23,
            0,
            0,
            0,
        ],
    ),
    // ECX: LZCNT, XOP, FMA4, TBM.
    (
        0x8000_0001,
        0,
        [0, 0, 1 << 5 | 1 << 11 | 1 << 16 | 1 << 21, 0],
    ),
];

/// The leaf of XSAVE's sizes: without XSAVE all of it is zero.
const XSAVE_LEAF: u32 = 0xd;

/// Leaf 0x80000008, EBX: the error pointers are kept by FXSAVE always, so that the kernel needs no FNCLEX.
const XSAVEERPTR: u32 = 1 << 2;

/// Takes out of a processor's features what kvm_pvm cannot emulate.
pub(super) fn mask(entries: &mut [kvm_cpuid_entry2]) {
    for entry in entries {
        for (_, _, [eax, ebx, ecx, edx]) in HIDDEN
            .iter()
            .filter(|(function, index, _)| (*function, *index) == (entry.function, entry.index))
        {
            entry.eax &= !eax;
            entry.ebx &= !ebx;
            entry.ecx &= !ecx;
            entry.edx &= !edx;
        }
        match entry.function {
            XSAVE_LEAF => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            0x8000_0008 => entry.ebx |= XSAVEERPTR,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_emulator_lacks_is_hidden_and_the_rest_stays() {
        let full = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
            ..Default::default()
        };
        let mut entries = [full(1, 0), full(7, 0), full(0xd, 1), full(2, 0)];
        mask(&mut entries);
        let [one, seven, xsave, other] = entries;
        for bit in [13, 23, 26, 28] {
            assert_eq!(one.ecx >> bit & 1, 0, "leaf 1 ECX {bit}");
        }
        assert_eq!(one.edx, !0);
        for bit in [0, 7, 9, 20] {
            assert_eq!(seven.ebx >> bit & 1, 0, "leaf 7 EBX {bit}");
        }
        assert_eq!((xsave.eax, other.eax), (0, !0));
    }

    #[test]
    fn an_amd_kernel_is_told_that_it_needs_no_fnclex() {
        let mut entries = [kvm_cpuid_entry2 {
            function: 0x8000_0008,
            ..Default::default()
        }];
        mask(&mut entries);
        assert_eq!(entries[0].ebx, XSAVEERPTR);
    }
}
