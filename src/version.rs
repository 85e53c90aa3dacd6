//! `plimsoll version` and `plimsoll -v`.

use std::path::Path;

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn short() -> anyhow::Result<u8> {
    println!("plimsoll version {VERSION}");
    Ok(0)
}

pub(crate) fn long(root: &Path) -> anyhow::Result<u8> {
    let facts = engine::doctor::versions();
    println!("Plimsoll");
    for (what, value) in [
        ("Version", VERSION),
        ("OS/Arch", "linux/amd64"),
        ("Host kernel", &facts.host_kernel),
        ("Guest kernel", &facts.guest_kernel),
        ("KVM", &facts.kvm),
        ("QEMU", &facts.qemu),
        ("Cgroups", &facts.cgroups),
        ("State", &root.display().to_string()),
    ] {
        println!(" {:<14} {value}", format!("{what}:"));
    }
    Ok(0)
}
