//! Block I/O (admin-guide/cgroup-v2.rst, "IO").

use oci_spec::runtime::LinuxBlockIo;

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result};
use crate::sys::Errno;

/// Version 1's weight (10 to 1000, default 500) as that of `io.weight` (1 to 10000, default 100), on a straight line
/// through both ends, as runc and crun have it.
fn weight(of_v1: u16) -> u64 {
    1 + (u64::from(of_v1).clamp(10, 1000) - 10) * 9999 / 990
}

pub(in crate::cgroup) fn apply(directory: &Directory, block: &LinuxBlockIo) -> Result<()> {
    if block.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(Error::Unsupported {
            field: "linux.resources.blockIO.leafWeight".to_owned(),
            reason: "version 2 lets no cgroup hold both processes and cgroups below it",
        });
    }
    if let Some(of_v1) = block.weight().filter(|weight| *weight != 0) {
        write_weight(directory, None, of_v1)?;
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(of_v1) = device.weight() {
            let number = format!("{}:{}", device.major(), device.minor());
            write_weight(directory, Some(&number), of_v1)?;
        }
    }
    let throttles = [
        ("rbps", block.throttle_read_bps_device()),
        ("wbps", block.throttle_write_bps_device()),
        ("riops", block.throttle_read_iops_device()),
        ("wiops", block.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        let values: Vec<_> = devices
            .iter()
            .flatten()
            .map(|device| {
                // No rate at all would be a device that never answers; version 1 takes 0 for no limit.
                let rate = match device.rate() {
                    0 => "max".to_owned(),
                    rate => rate.to_string(),
                };
                format!("{}:{} {key}={rate}", device.major(), device.minor())
            })
            .collect();
        if !values.is_empty() {
            directory.write_each("io.max", &values)?;
        }
    }
    Ok(())
}

/// BFQ has a file of its own, with version 1's numbers, which exists only where it is in use.
fn write_weight(directory: &Directory, device: Option<&str>, of_v1: u16) -> Result<()> {
    let value = |weight: u64| match device {
        Some(device) => format!("{device} {weight}"),
        None => weight.to_string(),
    };
    match directory.try_write("io.bfq.weight", &value(u64::from(of_v1))) {
        Ok(()) => Ok(()),
        Err(Errno(libc::ENOENT)) => match directory.try_write("io.weight", &value(weight(of_v1))) {
            Err(Errno(libc::ENOENT)) => Err(Error::Unsupported {
                field: "linux.resources.blockIO.weight".to_owned(),
                reason: "this kernel has no weights of block I/O: they take BFQ or iocost",
            }),
            Err(_) => directory.write("io.weight", &value(weight(of_v1))),
            Ok(()) => Ok(()),
        },
        Err(_) => directory.write("io.bfq.weight", &value(u64::from(of_v1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_weights_meet() {
        assert_eq!((weight(10), weight(1000)), (1, 10_000));
        assert_eq!((weight(0), weight(u16::MAX)), (1, 10_000));
    }
}
