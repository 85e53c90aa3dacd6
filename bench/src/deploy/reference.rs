//! What is stated and not measured: the size of the image that Debian itself publishes for virtual machines.

use reports::results::{self, ArmKind, ArmStatus};

use crate::arm::entry;

/// The arm's identity.
pub(super) const CLOUD: &str = "debian-cloud";

/// Bytes of `debian-12-genericcloud-amd64.qcow2` (a compressed qcow2 for virtual machines without drivers for hardware) as
/// <https://cloud.debian.org/images/cloud/bookworm/latest/> gave it on 2024-07-02; the file is of 2024-07-01. It boots as it comes, so
/// it takes as much on the disk as on the way.
pub(super) const CLOUD_BYTES: f64 = 343_378_944.0;

/// The arm's entry: a figure that this host has not checked must say so wherever it is shown.
pub(super) fn cloud() -> results::Arm {
    let mut arm = entry(
        CLOUD,
        "Debian's cloud image (stated, not measured)",
        ArmKind::Peer,
    );
    arm.status = ArmStatus::Ran;
    arm.versions.insert(
        "image".to_owned(),
        "debian-12-genericcloud-amd64.qcow2 of 2024-07-01".to_owned(),
    );
    arm.versions.insert(
        "source".to_owned(),
        "cloud.debian.org/images/cloud/bookworm/latest/, downloaded on 2024-07-02".to_owned(),
    );
    arm.omits = vec![
        "not the same application: a whole Debian with cloud-init, whose size is stated by its source".to_owned(),
    ];
    arm
}
