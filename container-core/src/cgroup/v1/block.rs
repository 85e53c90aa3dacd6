//! Block I/O (admin-guide/cgroup-v1/blkio-controller.rst, block/bfq-iosched.rst).

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use crate::cgroup::directory::Directory;
use crate::cgroup::{Error, Result};
use crate::sys::Errno;

pub(in crate::cgroup) fn apply(directory: &Directory, block: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        // The name where BFQ is a scheduler among others, and its name of its own.
        write_either(
            directory,
            ["blkio.weight", "blkio.bfq.weight"],
            &weight.to_string(),
            "linux.resources.blockIO.weight",
        )?;
    }
    if let Some(weight) = block.leaf_weight().filter(|weight| *weight != 0) {
        write_either(
            directory,
            ["blkio.leaf_weight", "blkio.bfq.leaf_weight"],
            &weight.to_string(),
            "linux.resources.blockIO.leafWeight",
        )?;
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            write_either(
                directory,
                ["blkio.weight_device", "blkio.bfq.weight_device"],
                &format!("{}:{} {weight}", device.major(), device.minor()),
                "linux.resources.blockIO.weightDevice",
            )?;
        }
        if let Some(weight) = device.leaf_weight() {
            write_either(
                directory,
                ["blkio.leaf_weight_device", "blkio.bfq.leaf_weight_device"],
                &format!("{}:{} {weight}", device.major(), device.minor()),
                "linux.resources.blockIO.weightDevice",
            )?;
        }
    }
    let throttles = [
        ("read_bps", block.throttle_read_bps_device()),
        ("write_bps", block.throttle_write_bps_device()),
        ("read_iops", block.throttle_read_iops_device()),
        ("write_iops", block.throttle_write_iops_device()),
    ];
    for (kind, devices) in throttles {
        let values: Vec<_> = devices.iter().flatten().map(text).collect();
        if !values.is_empty() {
            directory.write_each(&format!("blkio.throttle.{kind}_device"), &values)?;
        }
    }
    Ok(())
}

fn text(device: &LinuxThrottleDevice) -> String {
    format!("{}:{} {}", device.major(), device.minor(), device.rate())
}

fn write_either(directory: &Directory, files: [&str; 2], value: &str, field: &str) -> Result<()> {
    for file in files {
        match directory.try_write(file, value) {
            Err(Errno(libc::ENOENT)) => {}
            Err(_) => return directory.write(file, value),
            Ok(()) => return Ok(()),
        }
    }
    Err(Error::Unsupported {
        field: field.to_owned(),
        reason: "this kernel has no weights of block I/O: they take the BFQ scheduler, or use throttle*Device",
    })
}
